"""Every test runs with two CPU devices, so that a split over devices is a split."""

import os
import shutil
import tempfile

import jax
import pytest

jax.config.update("jax_num_cpu_devices", 2)

# Folders whose many small programs take longer to optimise than to run.
_COMPILED_QUICKLY = {"cells", "commands", "docs", "models", "nn", "parallel", "tasks", "training", "unrolling"}


def pytest_configure(config):
    """What commands keep between runs is kept for this session of tests only, by all of its processes."""
    if "RNNJAX_CACHE" not in os.environ:
        config.own_cache = os.environ["RNNJAX_CACHE"] = tempfile.mkdtemp(prefix="rnnjax-cache-")


def pytest_unconfigure(config):
    if hasattr(config, "own_cache"):
        shutil.rmtree(config.own_cache, ignore_errors=True)


@pytest.fixture(autouse=True)
def _compiled_quickly(request):
    """Compiles without LLVM's optimisations in those folders."""
    if request.path.parent.name not in _COMPILED_QUICKLY:
        yield
        return
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", before)
