"""Recurrent networks in JAX: pure cells, and one function that unrolls them."""

from rnnjax import starting as _starting  # noqa: F401  (before what takes long to import)

# isort: split
import importlib
from typing import Any

from rnnjax import cells, unrolling
from rnnjax.cells import *  # noqa: F403  (what `__all__` there names is public here)
from rnnjax.unrolling import *  # noqa: F403
from rnnjax.version import __version__ as __version__

_WHEN_ASKED_FOR = {name: f"rnnjax.{name}" for name in ("interop", "models", "nn")}


def __getattr__(name: str) -> Any:
    """Imports what needs more than JAX when it is first asked for, so that importing rnnjax needs JAX alone."""
    if name in _WHEN_ASKED_FOR:
        return importlib.import_module(_WHEN_ASKED_FOR[name])
    if name == "load_run":
        return importlib.import_module("rnnjax.runs").load_run
    raise AttributeError(f"module 'rnnjax' has no attribute {name!r}")


__all__: list[str] = []
__all__ += cells.__all__
__all__ += unrolling.__all__
