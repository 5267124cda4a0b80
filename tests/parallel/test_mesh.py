import os
import subprocess
import sys

import jax
import pytest

from rnnjax.errors import ConfigError
from rnnjax.parallel.mesh import BATCH, batch_mesh, provide_cpu_devices

# Tests run with two devices.


@pytest.mark.parametrize(
    ("choice", "batch_size", "count"),
    [
        ("1", 7, 1),
        ("2", 8, 2),
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
    assert mesh.axis_names == (BATCH,)
    assert mesh.devices.ravel().tolist() == jax.devices()[:count]


@pytest.mark.parametrize(
    ("choice", "batch_size", "message"),
    [
        ("3", 6, "parallel.batch asks for 3 devices, but there are 2"),
        ("2", 7, "batch_size 7 does not divide over 2 devices; choose a multiple of 2"),
        ("all", 7, "batch_size 7 does not divide over 2 devices; choose a multiple of 2"),
    ],
)
def test_what_these_devices_cannot_do_is_refused(choice, batch_size, message):
    with pytest.raises(ConfigError, match=message):
        batch_mesh(choice, batch_size)


COUNT = "import jax, rnnjax.parallel.mesh as mesh; mesh.provide_cpu_devices(); print(len(jax.devices()))"


@pytest.mark.parametrize(
    ("environment", "count"),
    [({}, len(os.sched_getaffinity(0))), ({"XLA_FLAGS": "--xla_force_host_platform_device_count=3"}, 3)],
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
