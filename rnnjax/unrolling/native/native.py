"""Gated, linear and diagonal cells by a CPU kernel that is compiled, once, from their traced step."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import functools
import hashlib
import logging
import re
import threading
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from rnnjax.backend import on_cpu
from rnnjax.cells.blocks import in_blocks
from rnnjax.cells.cell import State
from rnnjax.cells.checks import describe
from rnnjax.cells.diagonal_cell import DiagonalCell
from rnnjax.cells.gated_cell import GatedCell
from rnnjax.cells.linear_cell import LinearCell
from rnnjax.cells.traits import fuses, keeps_units_apart
from rnnjax.errors import first_line
from rnnjax.unrolling.instead import methods_for, why_not_closed_over
from rnnjax.unrolling.native import compiler
from rnnjax.unrolling.native.calls import GatedKernel
from rnnjax.unrolling.native.differentiable import run
from rnnjax.unrolling.native.source import plan_and_source
from rnnjax.unrolling.native.unitwise_calls import UnitwiseKernel, outputs_of, reference_method
from rnnjax.unrolling.native.unitwise_source import unitwise_plan_and_source
from rnnjax.unrolling.recurrence import Method, Recurrence, Steps
from rnnjax.unrolling.scan import Scan
from rnnjax.unrolling.trial import Trial, largest_error
from rnnjax.version import __version__

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Native(Method):
    """A pointwise gated, linear or diagonal cell, a user's own too, by a kernel that the machine's C++ compiler makes.

    The kernel is compiled when a cell's recurrence is first run by this method, which takes some seconds, and kept in
    the user's cache. The recurrent weight of a gated cell is packed once for all steps, and each thread takes a part of
    the batch through all of them, or of the hidden units where there are few sequences. Linear and diagonal cells have
    no such weight: their inputs are multiplied in tiles of steps, each thread takes sequences and units through all
    steps, and outputs that are products of the states (`affine_outputs`) are computed too. `jax.grad` uses the kernel;
    tangents (`jax.jvp`, `jax.linearize`) and derivatives of gradients are computed by `Fused`, those of linear cells by
    `Associative`, of diagonal ones by `Scan`. Under `jax.vmap` a mapped axis is one more of the batch, unless
    parameters are mapped or the gradients of each entry are asked for, which take a run for each.

    Raises:
      ValueError: when it runs, if the recurrence is not one of float32 on a CPU, or no kernel can be compiled for it.

    Example:
      >>> import jax, jax.numpy as jnp, rnnjax
      >>> cell = rnnjax.LSTM(16)
      >>> params = cell.init(jax.random.key(0), 3)
      >>> ys, state = rnnjax.unroll(cell, params, jnp.ones((2, 4, 3)), method=rnnjax.Native())  # doctest: +SKIP
    """

    def why_not(self, recurrence: Recurrence) -> str | None:
        return _unsuited(recurrence) or why_not_closed_over(self, recurrence) or _without_kernel(recurrence)

    def run(self, recurrence: Recurrence) -> tuple[Any, State]:
        plan, source = _plan_and_source(recurrence)
        names = compiler.registered(compiler.built(source))
        if keeps_units_apart(recurrence.cell):
            return outputs_of(recurrence, plan, run(recurrence, UnitwiseKernel(recurrence.cell, *names, plan)))
        ys, *last = run(recurrence, GatedKernel(recurrence.cell, *names, plan))
        return ys, jax.tree.structure(recurrence.state).unflatten(last)


def _plan_and_source(recurrence: Recurrence) -> tuple[Any, str]:
    return (unitwise_plan_and_source if keeps_units_apart(recurrence.cell) else plan_and_source)(recurrence)


def _unsuited(recurrence: Recurrence) -> str | None:
    """Returns in one sentence why no kernel is made for a recurrence on this machine; None if one may be."""
    cell: Any = recurrence.cell
    name = type(cell).__name__
    if not on_cpu():
        return (
            f"Native() runs on a CPU, and JAX computes on a {jax.default_backend()} here; use Fused(), Scan() or Auto()"
        )
    if not fuses(cell) and not keeps_units_apart(cell):
        return (
            f"Native() takes cells whose step is GatedCell's, LinearCell's or DiagonalCell's, and {name} is not one "
            f"here; use {methods_for(cell)}"
        )
    if fuses(cell) and not cell.pointwise:
        return f"{name} mixes hidden units in its gates, and Native() takes each by itself; use Fused() or Scan()"
    leaves = jax.tree.leaves((recurrence.params, recurrence.state, recurrence.steps.z, recurrence.xs))
    other = next((leaf.dtype for leaf in leaves if leaf.dtype != jnp.float32), None)
    if other is not None:
        return f"Native() computes in float32, got {other}; convert it, or use {methods_for(cell)}"
    return _unsuited_shapes(cell, recurrence) or _without_compiler()


def _unsuited_shapes(cell: GatedCell | LinearCell | DiagonalCell, recurrence: Recurrence) -> str | None:
    """Returns in one sentence why no kernel is made for arrays of such shapes; None if one may be."""
    if fuses(cell) and in_blocks(jax.eval_shape(cell.recurrent_weight, recurrence.params)):
        return "Native() takes one recurrent weight, and this one is in blocks; use Fused() or Scan()"
    shapes = {leaf.shape for leaf in jax.tree.leaves(recurrence.state)}
    of_one = jax.eval_shape(lambda: cell.initial_state(1))  # a user's own may take whole numbers only
    if len(shapes) > 1 or any(leaf.ndim != 2 for leaf in jax.tree.leaves(of_one)):
        got = describe(recurrence.state)
        return f"Native() takes states of which every leaf is [*batch, H], got {got}; use Auto() or Scan()"
    sizes = (recurrence.length, *shapes.pop())
    if any(leaf.shape[: len(sizes) - 1] != sizes[:-1] for leaf in jax.tree.leaves(recurrence.steps.z)):
        return f"Native() takes z of every step and sequence, {list(sizes[:-1])}, and this one is shared; use Scan()"
    if not all(isinstance(size, int) and size > 0 for size in sizes):
        return f"Native() takes sizes that are known and not zero, got {sizes}; use {methods_for(cell)}"
    return None


def _without_compiler() -> str | None:
    if compiler.compiler() is not None:
        return None
    return "Native() needs a C++ compiler, and none of g++, clang++ and c++ is installed; install one, or use Fused()"


def _without_kernel(recurrence: Recurrence) -> str | None:
    """Returns in one sentence why no kernel could be made for a recurrence; None if there is one, and it is right."""
    name = type(recurrence.cell).__name__
    try:
        _, source = _plan_and_source(recurrence)
    except NotImplementedError as error:
        return f"{name} has no C++ kernel: {error}; use {methods_for(recurrence.cell)}"
    key = source, type(recurrence.cell), *_described(recurrence)
    if key not in _FAILED:
        with _LOCK:
            _FAILED.setdefault(key, _failure(source, recurrence))
    return _FAILED[key] and f"{name} has no C++ kernel: {_FAILED[key]}; use {methods_for(recurrence.cell)}"


# For each source and cell that a kernel was compiled for in this process, why it is not used. Cells may have one source
# and differ in what surrounds their step.
_FAILED: dict[tuple[Any, ...], str | None] = {}
_LOCK = threading.RLock()


def _failure(source: str, recurrence: Recurrence) -> str | None:
    """Compiles a source; returns why its kernel is not used, after one warning, and None if it is right."""
    try:
        path = compiler.built(source)
        compiler.registered(path)
        checked = _note(path, recurrence)
        if checked is not None and checked.exists():
            return None
        error = _in_a_thread(functools.partial(_largest_error, recurrence))
        if error <= _TOLERANCE:
            if checked is not None:
                checked.touch()
            return None
        reason = f"its results differ from those of {_reference(recurrence)} by {error:.1e} of the largest"
    except (compiler.CompileError, OSError) as error:
        reason = first_line(error)
    _log.warning("Native() is not used for %s: %s", type(recurrence.cell).__name__, reason)
    return reason


def _described(recurrence: Recurrence) -> tuple[str, str]:
    """Returns the cell, without addresses of functions, and the shapes of its parameters."""
    shapes = [leaf.shape for leaf in jax.tree.leaves(recurrence.params)]
    return re.sub(r" at 0x[0-9a-f]+", "", repr(recurrence.cell)), str(shapes)


def _note(path: Path, recurrence: Recurrence) -> Path | None:
    """Returns where it is noted that a kernel was right for a cell; None for a user's own, whose class may change."""
    kind = type(recurrence.cell)
    if not kind.__module__.startswith("rnnjax."):
        return None
    what = "\0".join((kind.__qualname__, __version__, *_described(recurrence)))
    return path.with_suffix(f".{hashlib.sha256(what.encode()).hexdigest()[:12]}.checked")


_TOLERANCE = 1e-4
_CHECKED_STEPS, _CHECKED_BATCH = 4, 5


def _largest_error(recurrence: Recurrence) -> float:
    """Returns by how much values and gradients of a short recurrence differ from those of `_reference`."""
    trial = Trial.of(_shortened(recurrence))
    kernel, right = (trial.with_gradient(method)() for method in (_Unchecked(), _reference(recurrence)))
    error = largest_error(kernel, right)
    return error if error == error else float("inf")


def _reference(recurrence: Recurrence) -> Method:
    """Returns a method whose results a kernel's must be, and which asks a cell for nothing that kernels ask it for."""
    return reference_method(recurrence.cell) if keeps_units_apart(recurrence.cell) else Scan()


class _Unchecked(Native):
    """The method before its kernel has been checked."""

    def why_not(self, recurrence: Recurrence) -> str | None:
        return None


def _shortened(recurrence: Recurrence) -> Recurrence:
    """Returns the shapes of a recurrence of the same cell, short, with a small batch and missing steps."""
    batch_axes = jax.tree.leaves(recurrence.state)[0].ndim - 1

    def shape(leaf: Any, lead: tuple[int, ...], axes: int) -> Any:
        return jax.ShapeDtypeStruct((*lead, *leaf.shape[axes:]), leaf.dtype)

    def over_time(tree: Any) -> Any:
        lead = (_CHECKED_STEPS, _CHECKED_BATCH)
        return jax.tree.map(lambda leaf: shape(leaf, lead, batch_axes + 1), tree)

    params = jax.tree.map(lambda leaf: shape(leaf, (), 0), recurrence.params)
    state = jax.tree.map(lambda leaf: shape(leaf, (_CHECKED_BATCH,), batch_axes), recurrence.state)
    flag: Any = jax.ShapeDtypeStruct((_CHECKED_STEPS, _CHECKED_BATCH), bool)
    # No resets where there are none: a kernel may then compute the outputs too.
    resets = None if recurrence.steps.resets is None and keeps_units_apart(recurrence.cell) else flag
    steps = Steps(over_time(recurrence.steps.z), flag, resets)
    return recurrence._replace(params=params, state=state, initial=state, steps=steps, xs=over_time(recurrence.xs))


def _in_a_thread(function: Any) -> Any:
    """Returns what a function returns in a thread of its own, where nothing is being traced."""
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        return pool.submit(function).result()
