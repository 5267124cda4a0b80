"""Every test runs with two CPU devices, so that a split over devices is a split."""

import jax
import pytest

jax.config.update("jax_num_cpu_devices", 2)

# Folders whose many small programs take longer to optimise than to run.
_COMPILED_QUICKLY = {"cells", "commands", "models", "nn", "tasks", "unrolling"}


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
