"""Whether a cell of one's own keeps its contract: every way to run it must give the same values and gradients."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from rnnjax.backend import on_cpu
from rnnjax.cells.cell import Cell, Params
from rnnjax.cells.sizes import Size, check_size
from rnnjax.cells.traits import fuses, is_diagonal
from rnnjax.unrolling.associative import Associative
from rnnjax.unrolling.auto import recurrences_in
from rnnjax.unrolling.chunkwise import Chunkwise
from rnnjax.unrolling.fused import Fused
from rnnjax.unrolling.kernels.cudnn import CuDNN
from rnnjax.unrolling.kernels.pallas import Pallas
from rnnjax.unrolling.kernels.precision import exact_products
from rnnjax.unrolling.native.native import Native
from rnnjax.unrolling.newton import Newton
from rnnjax.unrolling.own_units import gates_by_unit_differ, steps_read_others
from rnnjax.unrolling.recurrence import Method
from rnnjax.unrolling.scan import Scan
from rnnjax.unrolling.sequences import unroll
from rnnjax.unrolling.static import Static
from rnnjax.unrolling.trial import largest_error

_METHODS: tuple[Method, ...] = (
    Static(),
    Fused(),
    Native(),
    Associative("scan"),
    Associative("associative"),
    Chunkwise(size=4),
    Newton(),
    Pallas(),
    CuDNN(),
)
_BATCH, _STEPS = 3, 6
_RESULTS = "outputs and state", "gradients"
_CASES = {
    "no options": {},
    "lengths and resets": {
        "lengths": np.array([6, 0, 4]),
        "resets": np.arange(_STEPS) == np.array([[2], [1], [3]]),
    },
    "missing steps, in reverse": {
        "mask": np.array([[1, 0, 1, 1, 0, 1], [0, 0, 1, 1, 1, 1], [1, 1, 1, 0, 0, 0]], bool),
        "reverse": True,
    },
}


def check_cell(cell: Cell, input_size: Size, *, tolerance: float | None = None) -> tuple[Method, ...]:
    """Runs a cell in every way that serves it, on a few short random sequences, and raises where two ways differ.

    By every method, outputs, final state, and gradients with respect to parameters and inputs are compared with those
    of `Scan`: without options, with lengths and resets, and with missing steps in reverse. The outputs of `Scan` are
    compared with single steps of the cell, and with those of each sequence by itself. Compiling all that takes some
    seconds.

    Args:
      cell: the cell, of any kind, with dropout left out.
      input_size: number I of input features.
      tolerance: the largest difference, as a share of the largest number of an array; None: 1e-3, and 3e-2 on a GPU
        whose products are not exact.

    Returns:
      The methods that serve the cell here, and agree.

    Raises:
      ValueError: saying which two ways differ, in what and by how much; for values or gradients that are not finite;
        for hidden units that read others in a cell that says that they do not.

    Example:
      >>> import rnnjax
      >>> methods = rnnjax.check_cell(rnnjax.MinGRU(4), input_size=3)
      >>> rnnjax.Associative("scan") in methods
      True
    """
    check_size("input_size", input_size)
    if tolerance is None:
        tolerance = 1e-3 if on_cpu() or exact_products() else 3e-2
    params = _perturbed(cell.init(jax.random.key(0), input_size))
    xs = jax.random.normal(jax.random.key(1), (_BATCH, _STEPS, int(input_size)))
    whole = jax.jit(lambda params, xs: unroll(cell, params, xs, method=Scan())[0])(params, xs)
    for way, ys in _by_hand(cell, params, xs):
        _compare(cell, way, "outputs", largest_error(ys, whole), tolerance)
    _check_units(cell, params, xs)
    served = [method for method in _METHODS if _serves(method, cell, params, xs)]
    wanted = _found(cell, Scan(), params, xs)
    for case in _CASES:
        _check_finite(cell, case, wanted[case])
    for method in served:
        found = _found(cell, method, params, xs)
        for case in _CASES:
            for what, got, right in zip(_RESULTS, found[case], wanted[case]):
                error = largest_error(_numbers(got), _numbers(right))
                _compare(cell, f"{method} with {case}", what, error, tolerance)
    return tuple(served)


def _check_units(cell: Cell, params: Params, xs: Array) -> None:
    """Raises if units read others and the cell says that they do not: methods that rely on it are then not compared."""
    for recurrence in recurrences_in(functools.partial(unroll, cell), params, xs):
        name = type(recurrence.cell).__name__
        if is_diagonal(recurrence.cell) and steps_read_others(recurrence, by_unit=True):
            raise ValueError(
                f"{name} is a DiagonalCell, and the new state of a hidden unit follows from that of others: derive it "
                "from rnnjax.GatedCell or rnnjax.Cell"
            )
        if fuses(recurrence.cell) and recurrence.cell.pointwise and gates_by_unit_differ(recurrence):
            raise ValueError(
                f"the gates of {name} give a hidden unit by itself, with hidden_size = 1, another state than among "
                "all: set pointwise = False in the cell, or have each unit read itself alone"
            )


def _perturbed(params: Params) -> Params:
    """Returns parameters near given ones, none of them zero or alike."""
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(2), max(len(leaves), 1))

    def changed(key: Array, leaf: Any) -> Any:
        if not jnp.issubdtype(jnp.result_type(leaf), jnp.floating):
            return leaf
        return leaf + 0.05 * jax.random.normal(key, jnp.shape(leaf), jnp.float32).astype(jnp.result_type(leaf))

    return tree.unflatten([changed(key, leaf) for key, leaf in zip(keys, leaves)])


def _by_hand(cell: Cell, params: Params, xs: Array) -> Iterator[tuple[str, Array]]:
    """Yields the outputs of single steps, and of each sequence by itself."""
    state, ys = cell.start(params, _BATCH, xs.dtype), []
    step = jax.jit(cell.__call__)
    for t in range(_STEPS):
        state, y = step(params, state, xs[:, t])
        ys.append(y)
    yield "one step after another", jnp.stack(ys, 1)
    alone = jax.jit(lambda xs: unroll(cell, params, xs, method=Scan())[0])
    yield "each sequence by itself", jnp.concatenate([alone(xs[b : b + 1]) for b in range(_BATCH)])


def _serves(method: Method, cell: Cell, params: Params, xs: Array) -> bool:
    """Says whether a method serves all recurrences of a cell, in all cases."""
    return all(
        method.why_not(recurrence) is None
        for options in _CASES.values()
        for recurrence in recurrences_in(functools.partial(unroll, cell, **options), params, xs)
    )


def _found(cell: Cell, method: Method, params: Params, xs: Array) -> dict[str, tuple[Any, Any]]:
    """Returns for each case outputs and final state by a method, and the gradients of a function of them."""

    def of(options: Any, params: Params, xs: Array) -> Any:
        results = unroll(cell, params, xs, method=method, **options)
        return sum(jnp.sin(leaf).sum() for leaf in _numbers(results)), results

    def of_all(params: Params, xs: Array) -> Any:
        found = {}
        for case, options in _CASES.items():
            differentiated = jax.grad(functools.partial(of, options), (0, 1), has_aux=True, allow_int=True)
            gradients, results = differentiated(params, xs)
            found[case] = results, gradients
        return found

    return jax.jit(of_all)(params, xs)


def _check_finite(cell: Cell, case: str, results: tuple[Any, Any]) -> None:
    """Raises if a result is not finite, which differs from anything."""
    zeros = "inputs of missing steps are read as zeros, where a function such as jnp.linalg.norm has no derivative; "
    why = "" if case == "no options" else zeros
    for what, numbers in zip(_RESULTS, results):
        if not all(np.isfinite(leaf).all() for leaf in _numbers(numbers)):
            raise ValueError(
                f"{type(cell).__name__} gives {what} that are not finite, by Scan() with {case}: {why}"
                "take roots and quotients of what stays away from zero, such as jnp.sqrt(jnp.sum(x**2, -1) + 1e-6)"
            )


def _numbers(tree: Any) -> list[Array]:
    """Returns the leaves that are of floating-point numbers."""
    return [leaf for leaf in jax.tree.leaves(tree) if jnp.issubdtype(leaf.dtype, jnp.floating)]


def _compare(cell: Cell, way: str, what: str, error: float, tolerance: float) -> None:
    if error <= tolerance:
        return
    raise ValueError(
        f"{type(cell).__name__} gives other {what} by {way} than by Scan(), {error:.1e} of the largest number apart: "
        "each step, each sequence and, as far as its kind says so, each hidden unit must be computed by itself"
    )
