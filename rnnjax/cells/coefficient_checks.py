"""Checks of what a linear cell's `coefficients` returns, each of which raises an error of one sentence."""

from __future__ import annotations

from typing import Any

import jax

from rnnjax.cells.checks import describe
from rnnjax.cells.pairs import is_complex


def check_pair(cell: Any, coefficients: Any) -> None:
    """Raises unless `coefficients` are a and b."""
    if not isinstance(coefficients, (tuple, list)) or len(coefficients) != 2:
        raise TypeError(
            f"{type(cell).__name__}.coefficients must return a pair (a, b), for h' = a * h + b, "
            f"got {describe(coefficients)}"
        )


def check_coefficients(cell: Any, coefficients: tuple[Any, Any], state: Any, steps: tuple[int, ...]) -> None:
    """Raises unless a and b are each built as the state is, of numbers that broadcast to its own.

    Args:
      cell: the cell.
      coefficients: a and b.
      state: a state, each leaf ``[*batch, ...]``.
      steps: the number of steps that a and b are of, where they are several.
    """
    for name, numbers in zip("ab", coefficients):
        must = f"{type(cell).__name__}.coefficients must return {name}"
        if _structure(numbers) != _structure(state):
            raise TypeError(
                f"{must} as one array, or built as the state {describe(state)}, got {describe(numbers)}; return a "
                f"{type(state).__name__} of arrays"
            )
        pairs = zip(*(jax.tree.leaves(tree, is_leaf=is_complex) for tree in (numbers, state)))
        if not all(_fits(number, (*steps, *jax.tree.leaves(like)[0].shape)) for number, like in pairs):
            times = f" for each of {steps[0]} steps" if steps else ""
            raise ValueError(
                f"{must} that broadcasts to the state {describe(state)}{times}, got {describe(numbers)}; take one gate "
                f"and leave the axes before it alone, as zs[..., 0, :] does"
            )


def _structure(tree: Any) -> Any:
    return jax.tree.structure(tree, is_leaf=is_complex)


def _fits(number: Any, like: tuple[int, ...]) -> bool:
    """Returns whether all arrays of a number broadcast to a shape."""
    shapes = [leaf.shape for leaf in jax.tree.leaves(number)]
    return all(len(shape) <= len(like) and _broadcasts(shape, like) for shape in shapes)


def _broadcasts(shape: tuple[int, ...], like: tuple[int, ...]) -> bool:
    return all(size in (1, other) for size, other in zip(shape[::-1], like[::-1]))
