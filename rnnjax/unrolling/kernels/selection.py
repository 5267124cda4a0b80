"""Which backend serves a recurrence: what was asked for, or what was measured to be the fastest."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from rnnjax.cells.cell import State, compute_dtype
from rnnjax.unrolling.recurrence import Recurrence

BACKENDS = ("auto", "xla", "pallas", "cudnn")


class Row(NamedTuple):
    """A measurement: on devices of a kind, for a type, up to a width and a batch, this backend was the fastest."""

    device_kind: str
    dtype: str
    hidden: int
    batch: int
    backend: str


# Rows are read in order. Without one for a device, type and shape, the answer is XLA's loop: so on every CPU.
MEASURED: tuple[Row, ...] = ()


def exact_products() -> bool:
    """Returns whether JAX is told to multiply float32 as float32, not in TensorFloat-32."""
    precision = jax.config.jax_default_matmul_precision  # pyright: ignore[reportAttributeAccessIssue]
    return precision in ("highest", "float32", "F32_F32_F32")


def check_backend(backend: Any, interpret: Any) -> None:
    """Raises unless a backend has that name, and `interpret` is asked of the one that has it."""
    if backend not in BACKENDS:
        raise ValueError(f"backend must be one of {', '.join(BACKENDS)}, got {backend!r}")
    if not isinstance(interpret, bool):
        raise TypeError(f"interpret must be True or False, got {interpret!r}")
    if interpret and backend != "pallas":
        raise ValueError(f"interpret=True runs the pallas kernels on a CPU; it needs backend='pallas', got {backend!r}")


def kernel_for(
    backend: str, recurrence: Recurrence, interpret: bool
) -> Callable[[Recurrence], tuple[Any, State]] | None:
    """Returns what runs a recurrence, None for XLA's loop.

    Raises:
      ValueError: if the backend was asked for by name and cannot serve.
    """
    asked = backend != "auto"
    backend = backend if asked else _fastest(recurrence)
    if backend == "xla":
        return None
    # pallas.py, cudnn.py: imported where they are used.
    module = importlib.import_module(f"rnnjax.unrolling.kernels.{backend}")
    options = {"interpret": True} if interpret else {}
    reason = module.why_not(recurrence, **options)
    if reason is not None and asked:
        raise ValueError(reason)
    return None if reason is not None else functools.partial(module.run, **options)


def _fastest(recurrence: Recurrence) -> str:
    """Returns what the table says for the device that JAX computes on."""
    if not MEASURED or jax.default_backend() == "cpu" or not hasattr(recurrence.state, "h"):
        return "xla"
    kind, h = jax.devices()[0].device_kind, recurrence.state.h
    dtype, hidden, batch = jnp.dtype(compute_dtype(recurrence.steps.z)).name, h.shape[-1], h.size // h.shape[-1]
    rows = (row for row in MEASURED if row.device_kind in kind and row.dtype == dtype)
    return next((row.backend for row in rows if hidden <= row.hidden and batch <= row.batch), "xla")
