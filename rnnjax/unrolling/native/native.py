"""Pointwise gated cells by a CPU kernel that is compiled, once, from their traced gates."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import functools
import logging
import threading
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from rnnjax.backend import on_cpu
from rnnjax.cells.blocks import in_blocks
from rnnjax.cells.cell import State
from rnnjax.cells.gated_cell import GatedCell
from rnnjax.cells.traits import fuses
from rnnjax.errors import first_line
from rnnjax.unrolling.fused import Fused
from rnnjax.unrolling.native import compiler
from rnnjax.unrolling.native.calls import Kernel
from rnnjax.unrolling.native.differentiable import run
from rnnjax.unrolling.native.source import plan_and_source
from rnnjax.unrolling.recurrence import Method, Recurrence, Steps
from rnnjax.unrolling.trial import Trial, largest_error

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Native(Method):
    """A pointwise gated cell, a user's own too, by a kernel that the machine's C++ compiler makes of its traced gates.

    The kernel is compiled when a cell's recurrence is first run by this method, which takes some seconds, and kept in
    the user's cache. The recurrent weight is packed once for all steps, and each thread takes a part of the batch
    through all of them, or of the hidden units where there are few sequences. `jax.grad` uses the kernel too; tangents
    (`jax.jvp`, `jax.linearize`) and derivatives of gradients are computed by `Fused`. Under `jax.vmap` a mapped axis is
    one more of the batch, unless parameters are mapped or the gradients of each entry are asked for, which take a run
    for each.

    Raises:
      ValueError: when it runs, if the recurrence is not one of float32 on a CPU, or no kernel can be compiled for it.

    Example:
      >>> import jax, jax.numpy as jnp, rnnjax
      >>> cell = rnnjax.LSTM(16)
      >>> params = cell.init(jax.random.key(0), 3)
      >>> ys, state = rnnjax.unroll(cell, params, jnp.ones((2, 4, 3)), method=rnnjax.Native())  # doctest: +SKIP
    """

    def why_not(self, recurrence: Recurrence) -> str | None:
        return _unsuited(recurrence) or _without_kernel(recurrence)

    def run(self, recurrence: Recurrence) -> tuple[Float[Array, "T *B H"], State]:
        plan, source = plan_and_source(recurrence)
        return run(recurrence, Kernel(*compiler.registered(compiler.built(source)), plan))


def _unsuited(recurrence: Recurrence) -> str | None:
    """Returns in one sentence why no kernel is made for a recurrence on this machine; None if one may be."""
    cell: Any = recurrence.cell
    name = type(cell).__name__
    if not on_cpu():
        return (
            f"Native() runs on a CPU, and JAX computes on a {jax.default_backend()} here; use Fused(), Scan() or Auto()"
        )
    if not fuses(cell):
        return f"Native() takes gated cells whose step is GatedCell's, and {name} is not one here; use Scan() or Auto()"
    if not cell.pointwise:
        return f"{name} mixes hidden units in its gates, and Native() takes each by itself; use Fused() or Scan()"
    leaves = jax.tree.leaves((recurrence.params, recurrence.state, recurrence.steps.z, recurrence.xs))
    other = next((leaf.dtype for leaf in leaves if leaf.dtype != jnp.float32), None)
    if other is not None:
        return f"Native() computes in float32, got {other}; convert it, or use Fused() or Scan()"
    return _unsuited_shapes(cell, recurrence) or _without_compiler()


def _unsuited_shapes(cell: GatedCell, recurrence: Recurrence) -> str | None:
    """Returns in one sentence why no kernel is made for arrays of such shapes; None if one may be."""
    weight: Any = jax.eval_shape(cell.recurrent_weight, recurrence.params)
    if in_blocks(weight):
        return "Native() takes one recurrent weight, and this one is in blocks; use Fused() or Scan()"
    h = recurrence.state.h
    if any(leaf.shape != h.shape for leaf in jax.tree.leaves(recurrence.state)):
        return (
            "Native() takes states of which every leaf has the shape of h, and this one differs; use Fused() or Scan()"
        )
    sizes = (recurrence.length, *h.shape)
    if not all(isinstance(size, int) and size > 0 for size in sizes):
        return f"Native() takes sizes that are known and not zero, got {sizes}; use Fused() or Scan()"
    return None


def _without_compiler() -> str | None:
    if compiler.compiler() is not None:
        return None
    return "Native() needs a C++ compiler, and none of g++, clang++ and c++ is installed; install one, or use Fused()"


def _without_kernel(recurrence: Recurrence) -> str | None:
    """Returns in one sentence why no kernel could be made for a recurrence; None if there is one, and it is right."""
    name = type(recurrence.cell).__name__
    try:
        _, source = plan_and_source(recurrence)
    except NotImplementedError as error:
        return f"{name} has no C++ kernel: {error}; use Fused() or Scan()"
    if source not in _FAILED:
        with _LOCK:
            _FAILED.setdefault(source, _failure(source, recurrence))
    return _FAILED[source] and f"{name} has no C++ kernel: {_FAILED[source]}; use Fused() or Scan()"


# For each source that was compiled in this process, why its kernel is not used.
_FAILED: dict[str, str | None] = {}
_LOCK = threading.RLock()


def _failure(source: str, recurrence: Recurrence) -> str | None:
    """Compiles a source; returns why its kernel is not used, after one warning, and None if it is right."""
    try:
        path = compiler.built(source)
        compiler.registered(path)
        checked = path.with_suffix(".checked")
        if checked.exists():
            return None
        error = _in_a_thread(functools.partial(_largest_error, recurrence))
        if error <= _TOLERANCE:
            checked.touch()
            return None
        reason = f"its results differ from those of Fused() by {error:.1e} of the largest"
    except (compiler.CompileError, OSError) as error:
        reason = first_line(error)
    _log.warning("Native() is not used for %s: %s", type(recurrence.cell).__name__, reason)
    return reason


_TOLERANCE = 1e-4
_CHECKED_STEPS, _CHECKED_BATCH = 4, 5


def _largest_error(recurrence: Recurrence) -> float:
    """Returns by how much values and gradients of a short recurrence differ from those of `Fused`."""
    trial = Trial.of(_shortened(recurrence))
    kernel, fused = (trial.with_gradient(method)() for method in (_Unchecked(), Fused()))
    error = largest_error(kernel, fused)
    return error if error == error else float("inf")


class _Unchecked(Native):
    """The method before its kernel has been checked."""

    def why_not(self, recurrence: Recurrence) -> str | None:
        return None


def _shortened(recurrence: Recurrence) -> Recurrence:
    """Returns the shapes of a recurrence of the same cell, short, with a small batch and with flags."""
    batch_axes = recurrence.state.h.ndim - 1

    def shape(leaf: Any, lead: tuple[int, ...], axes: int) -> Any:
        return jax.ShapeDtypeStruct((*lead, *leaf.shape[axes:]), leaf.dtype)

    def over_time(tree: Any) -> Any:
        lead = (_CHECKED_STEPS, _CHECKED_BATCH)
        return jax.tree.map(lambda leaf: shape(leaf, lead, batch_axes + 1), tree)

    params = jax.tree.map(lambda leaf: shape(leaf, (), 0), recurrence.params)
    state = jax.tree.map(lambda leaf: shape(leaf, (_CHECKED_BATCH,), batch_axes), recurrence.state)
    flag: Any = jax.ShapeDtypeStruct((_CHECKED_STEPS, _CHECKED_BATCH), bool)
    steps = Steps(over_time(recurrence.steps.z), flag, flag)
    return Recurrence(recurrence.cell, params, state, state, steps, over_time(recurrence.xs))


def _in_a_thread(function: Any) -> Any:
    """Returns what a function returns in a thread of its own, where nothing is being traced."""
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        return pool.submit(function).result()
