"""How much work a program is."""

from __future__ import annotations

import math
from typing import Any

from jax.extend.core import Jaxpr, jaxprs_in_params


def multiplications(program: Jaxpr) -> int:
    """Returns the multiplications in the matrix products of a program, those in a `lax.scan` once a turn."""
    total = 0
    for equation in program.eqns:
        if equation.primitive.name == "dot_general":
            (summed, _), _ = equation.params["dimension_numbers"]
            product, factor = _shape(equation.outvars[0]), _shape(equation.invars[0])
            total += math.prod(product) * math.prod(factor[axis] for axis in summed)
        turns = equation.params["length"] if equation.primitive.name == "scan" else 1
        total += turns * sum(map(multiplications, jaxprs_in_params(equation.params)))
    return total


def _shape(variable: Any) -> tuple[int, ...]:
    return variable.aval.shape
