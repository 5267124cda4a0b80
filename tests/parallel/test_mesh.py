import os
import subprocess
import sys

import jax
import pytest
from fixtures.thorough import once_more

from rnnjax.errors import ConfigError
from rnnjax.parallel.mesh import BATCH, LAYERS, RUNS, TIME, batch_mesh, filled_batch, provide_cpu_devices

# Tests run with two devices.


@pytest.mark.parametrize(
    ("choice", "batch_size", "count"),
    [
        ("1", 7, 1),
        ("2", 8, 2),
        ("2", 7, 2),  # filled up
        ("all", 8, 2),
        ("auto", 150, 2),  # 75 each
        ("auto", 64, 2),  # 32 each
        ("auto", 62, 1),  # 31 each
        ("auto", 151, 1),  # does not divide
        ("auto", 1, 1),
    ],
)
def test_the_number_of_devices_that_share_a_batch(choice, batch_size, count):
    mesh = batch_mesh(choice, batch_size)
    assert dict(mesh.shape) == {RUNS: 1, BATCH: count, LAYERS: 1, TIME: 1}
    assert mesh.devices.ravel().tolist() == jax.devices()[:count]


def test_more_devices_than_there_are_is_refused():
    with pytest.raises(ConfigError, match=r"parallel.batch asks for 3 devices, but there are 2"):
        batch_mesh("3", 6)


@pytest.mark.parametrize(("choice", "batch_size", "filled"), [("2", 8, 8), ("2", 7, 8), ("2", 1, 2), ("1", 7, 7)])
def test_a_batch_is_filled_up_until_it_divides(choice, batch_size, filled):
    assert filled_batch(batch_mesh(choice, batch_size), batch_size) == filled


@pytest.mark.parametrize(("choice", "layers"), [("auto", "2"), ("all", "2"), ("1", "2"), ("all", "all")])
def test_layers_take_devices_from_the_batch(choice, layers):
    mesh = batch_mesh(choice, 150, layers)
    assert dict(mesh.shape) == {RUNS: 1, BATCH: 1, LAYERS: 2, TIME: 1}
    assert mesh.devices.ravel().tolist() == jax.devices()[:2]


def test_time_takes_devices_from_the_batch_as_layers_do():
    assert dict(batch_mesh("all", 150, time="2").shape) == {RUNS: 1, BATCH: 1, LAYERS: 1, TIME: 2}
    with pytest.raises(ConfigError, match=r"and parallel\.time ask for 2 x 2 devices, but there are 2"):
        batch_mesh("2", 8, time="2")


@pytest.mark.parametrize(("choice", "layers", "asked"), [("2", "2", "2 x 2"), ("all", "3", "1 x 3")])
def test_batch_and_layers_together_need_as_many_devices_as_their_product(choice, layers, asked):
    with pytest.raises(ConfigError, match=f"and parallel.layers ask for {asked} devices, but there are 2"):
        batch_mesh(choice, 8, layers)


COUNT = "import jax, rnnjax.parallel.mesh as mesh; mesh.provide_cpu_devices(); print(len(jax.devices()))"


@pytest.mark.parametrize(
    ("environment", "count"),
    [({}, len(os.sched_getaffinity(0))), once_more({"XLA_FLAGS": "--xla_force_host_platform_device_count=3"}, 3)],
    ids=["every core", "XLA's flag"],
)
def test_every_core_is_a_device_unless_that_is_settled(environment, count):
    clean = {name: value for name, value in os.environ.items() if name not in ("XLA_FLAGS", "JAX_NUM_CPU_DEVICES")}
    settings = {**clean, "JAX_PLATFORMS": "cpu", **environment}
    command = [sys.executable, "-c", COUNT]
    ended = subprocess.run(command, env=settings, capture_output=True, text=True, check=True)
    assert int(ended.stdout) == count


def test_a_number_of_devices_that_is_set_stays():
    provide_cpu_devices()
    assert jax.config.jax_num_cpu_devices == 2
