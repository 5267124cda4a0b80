import jax
import pytest


@pytest.fixture(autouse=True)
def _compiled_quickly():
    """Compiles without LLVM's optimisations, which take longer than these small programs run."""
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", before)
