import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from fixtures.parameters import drawn_parameters

from rnnjax.config import CellConfig, DataConfig, build_cell
from rnnjax.config_file import get_config
from rnnjax.config_group import freeze
from rnnjax.data.series import series
from rnnjax.errors import ConfigError
from rnnjax.models import Forecaster
from rnnjax.tasks import build_task, time_series


def config(**fields):
    fields = {"windows": 8, "window": 6, "batch_size": 4, "cell": CellConfig(hidden_size=5), **fields}
    return time_series.Config(**fields)


@pytest.fixture(scope="module")
def task():
    return build_task(freeze(config()))


@pytest.fixture(scope="module")
def params(task):
    return drawn_parameters(task.init)


def generated(task, params, tmp_path, **fields):
    return list(task.generate(params, length=12, plots=tmp_path, **fields))


def test_a_loss_is_the_mean_squared_error_of_a_window_one_step_ahead(task, params):
    window = task.data.splits["train"]["window"]
    evaluated = jax.jit(lambda params: task.loss(params, None, {"window": window}, None)[0])
    values = evaluated(params)
    assert values["mse"].shape == (8,)
    np.testing.assert_array_equal(values["loss"], values["mse"])
    # Without weights to the output, the prediction is its bias.
    output = {"kernel": np.zeros((5, 1)), "bias": np.array([0.5])}
    constant = {"params": {**params["params"], "Dense_0": output}}
    values = evaluated(jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), constant))
    np.testing.assert_allclose(values["mse"], np.square(window[:, 1:] - 0.5).mean(1), rtol=1e-5)


@pytest.mark.parametrize("project", [False, True])
def test_both_ways_to_predict_have_as_many_parameters(project):
    task = build_task(freeze(config(project=project)))
    sizes = [leaf.size for leaf in jax.tree.leaves(jax.eval_shape(task.init, jax.random.key(0)))]
    assert sum(sizes) == 5 + 25 + 5 + 5 + 1


def test_dropout_is_of_training_alone():
    task = build_task(freeze(config(cell=CellConfig(hidden_size=5, layers=2, dropout={"state_rate": 0.5}))))
    params, batch = drawn_parameters(task.init), {"window": task.data.splits["train"]["window"]}
    loss = jax.jit(lambda key: task.loss(params, None, batch, key)[0]["loss"])
    losses = [loss(key) for key in (None, None, jax.random.key(0))]
    np.testing.assert_array_equal(losses[0], losses[1])
    assert not np.allclose(losses[0], losses[2])


def test_generation_gives_a_line_a_step_and_a_picture(task, params, tmp_path):
    lines = generated(task, params, tmp_path)
    assert len(lines) == 12
    assert np.isfinite([float(line) for line in lines]).all()
    assert (tmp_path / "generated.png").stat().st_size > 1000


def test_generation_goes_on_from_zeros_unless_an_instance_is_asked_for(task, params, tmp_path):
    default, zeros, instance = (generated(task, params, tmp_path, prompt=p) for p in (None, "zeros", "instance"))
    assert default == zeros != instance
    window = time_series.instance(6)[None, :-1, None]
    expected = Forecaster(build_cell(config().cell), 1).apply(params, window)[0, -1, 0]
    np.testing.assert_allclose(float(instance[0]), expected, atol=1e-5)


def test_another_prompt_is_refused(task, params, tmp_path):
    with pytest.raises(ConfigError, match=r'^the prompt must be "zeros" or "instance", got \'12\''):
        generated(task, params, tmp_path, prompt="12")


def test_the_function_goes_on_where_the_instance_ends():
    given, truth = time_series.prompt_window("instance", 20, 300)
    assert (given.shape, truth.shape) == ((20,), (300,))
    times = 12.2 + 0.1 * np.arange(320)
    np.testing.assert_allclose(np.concatenate([given, truth]), series(times), rtol=1e-4, atol=1e-5)


def test_pictures_show_the_series_an_instance_and_its_prediction(task, params, tmp_path):
    task.plots(params, tmp_path)
    pictures = {path.name: path.stat().st_size for path in tmp_path.iterdir()}
    assert set(pictures) == {"series.png", "instance.png", "prediction.png"}
    assert min(pictures.values()) > 1000


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"windows": 0}, "windows must be at least 1, got 0"),
        ({"window": 300}, "window must be from 1 to 299, got 300"),
        ({"data": DataConfig(name="embedded", path="/data")}, "leave data.path out"),
    ],
)
def test_configs_that_cannot_be_meant_are_refused(fields, message):
    with pytest.raises(ConfigError, match=message):
        freeze(config(**fields))


@pytest.mark.parametrize(
    ("variant", "steps"), [("stacked", 600), ("projected", 600), ("deep_dropout", 1500), ("deep_dropout_sane", 1500)]
)
def test_variants_take_the_steps_of_the_source(variant, steps):
    config = freeze(get_config(f"time_series:{variant}"))
    assert config.epochs * (config.windows // config.batch_size) == steps
    assert (config.batch_size, config.window, config.cell.hidden_size) == (50, 20, 100)
    assert config.cell.activation == "relu"
    assert dataclasses.asdict(freeze(get_config(f"time_series:{variant}"))) == dataclasses.asdict(config)
