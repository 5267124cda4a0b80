import os

import jax
import pytest
from jax.experimental.compilation_cache import compilation_cache

from rnnjax.training import plots

_SETTINGS = {
    # LLVM's optimisations take longer than these small programs run.
    "jax_disable_most_optimizations": True,
    # Most tests train the same few programs: each is compiled once for all of them.
    "jax_persistent_cache_min_compile_time_secs": 0.0,
    "jax_persistent_cache_min_entry_size_bytes": -1,
}


@pytest.fixture(scope="session")
def compiled_programs(tmp_path_factory):
    """The folder of compiled programs, one for all processes of a test run."""
    base = tmp_path_factory.getbasetemp()
    return (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "compiled"


@pytest.fixture(autouse=True, scope="module")
def _compiled_once(compiled_programs):
    settings = {**_SETTINGS, "jax_compilation_cache_dir": str(compiled_programs)}
    before = {name: _setting(name) for name in settings}
    _set(settings)
    yield
    _set(before)


def _setting(name):
    return getattr(jax.config, name) if hasattr(jax.config, name) else jax.config.read(name)


def _set(settings):
    for name, value in settings.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()  # it remembers whether there was a folder


@pytest.fixture(scope="session")
def process_environment(compiled_programs):
    """The environment in which a command finds the toy task and compiles as the tests do."""
    here = os.path.dirname(__file__)
    settings = {name.upper(): str(value) for name, value in _SETTINGS.items()}
    return {**os.environ, **settings, "JAX_COMPILATION_CACHE_DIR": str(compiled_programs), "PYTHONPATH": here}


@pytest.fixture(autouse=True)
def _without_pictures(request, monkeypatch):
    """Leaves out the pictures, half a second a run, except for tests that ask for them."""
    if "pictures" not in request.fixturenames:
        monkeypatch.setattr(plots, "plot_curves", lambda rows, directory: None, raising=False)


@pytest.fixture
def pictures():
    """Asks for a run's pictures."""


@pytest.fixture(autouse=True)
def _the_toy_task_is_trusted(monkeypatch):
    """The toy task's module is no part of rnnjax."""
    monkeypatch.setenv("RNNJAX_TRUST", "1")
