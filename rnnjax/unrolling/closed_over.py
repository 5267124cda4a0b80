"""Traced values that a function reads without being given them, such as a field of a cell that is a function may.

Where a function has a derivative of its own, JAX knows none with respect to such values: they must be arguments.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
from jax.core import Tracer, eval_jaxpr


def with_closed_over(function: Callable[..., Any], *arguments: Any) -> tuple[Callable[..., Any], list[Any]]:
    """Returns a function that takes what it reads besides its arguments as one more, a list; and that list.

    Args:
      function: the function.
      *arguments: its arguments, or their shapes and types.

    Returns:
      The function, and the list, which is empty unless something in it is traced.
    """
    closed, shapes = jax.make_jaxpr(lambda *given: function(*given), return_shape=True)(*arguments)
    if not any(isinstance(value, Tracer) for value in closed.consts):
        return lambda *given: function(*given[:-1]), []

    def evaluated(*given: Any) -> Any:
        *rest, values = given
        return jax.tree.structure(shapes).unflatten(eval_jaxpr(closed.jaxpr, values, *jax.tree.leaves(rest)))

    return evaluated, list(closed.consts)
