"""Training with the layers of a stack, or the time of linear and diagonal cells, on two devices."""

import jax
import numpy as np
import pytest
from fixtures.thorough import once_more
from toytasks.runs import run_training, sign_config

from rnnjax.config import CellConfig, ParallelConfig
from rnnjax.errors import ConfigError

pytestmark = pytest.mark.usefixtures("programs_of_alike_runs")


def trained(directory, layers, map="shard_map"):
    cell = CellConfig(hidden_size=4, layers=2, dropout={"output_rate": 0.3})
    parallel = ParallelConfig(batch="1", layers=layers, map=map)
    return run_training(directory, sign_config(epochs=1, cell=cell, parallel=parallel))


@pytest.fixture(scope="module")
def on_one(tmp_path_factory):
    return trained(tmp_path_factory.mktemp("one") / "run", "1")


@pytest.mark.parametrize("map", ["shard_map", once_more("pmap")])
def test_layers_on_two_devices_train_as_on_one(map, on_one, tmp_path):
    two = trained(tmp_path / "run", "2", map)
    for split in ("train", "validation", "test"):
        np.testing.assert_allclose(two.of(split, "loss"), on_one.of(split, "loss"), rtol=1e-4)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5), two.state.params, on_one.state.params
    )


@pytest.mark.parametrize(("kind", "layers"), [("MinGRU", 1), once_more("MinGRU", 2), once_more("ParaGRU", 1)])
def test_time_on_two_devices_trains_as_on_one(kind, layers, tmp_path):
    cell = CellConfig(kind=kind, hidden_size=4, layers=layers, dropout={"output_rate": 0.3})
    one, two = (
        run_training(tmp_path / time, sign_config(epochs=1, cell=cell, parallel=ParallelConfig(batch="1", time=time)))
        for time in ("1", "2")
    )
    for split in ("train", "validation", "test"):
        np.testing.assert_allclose(two.of(split, "loss"), one.of(split, "loss"), rtol=1e-4)
    assert two.summary["device"]["count"] == 2
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5), two.state.params, one.state.params
    )


HELD = CellConfig(kind="MinGRU", wrappers=("zoneout",), zoneout={"rate": 0.1})


@pytest.mark.parametrize(("cell", "name"), [(CellConfig(kind="GRU"), "GRU"), (HELD, "Zoneout")])
def test_a_model_whose_units_read_each_other_over_time_is_refused(cell, name, tmp_path):
    with pytest.raises(ConfigError, match=f"time is 2, but the model unrolls {name}, and only linear and diagonal"):
        run_training(tmp_path, sign_config(cell=cell, parallel=ParallelConfig(batch="1", time="2")))


def test_a_model_without_so_many_layers_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="layers is 2, but the model unrolls no stack of so many layers"):
        run_training(tmp_path, sign_config(parallel=ParallelConfig(batch="1", layers="2")))
