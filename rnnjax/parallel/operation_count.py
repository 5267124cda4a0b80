"""The multiplications in a traced program, as a measure of its cost."""

from __future__ import annotations

import math
from typing import Any

from jax.extend.core import Jaxpr, jaxprs_in_params


def count_multiplications(program: Jaxpr) -> int:
    """Returns the multiplications in a program's matrix products; the body of a `lax.scan` counts once per iteration.

    Everything else in a recurrent layer is elementwise and costs little beside its products.
    """
    total = 0
    for equation in program.eqns:
        total += _in_matrix_product(equation)
        iterations = equation.params["length"] if equation.primitive.name == "scan" else 1
        for inner in jaxprs_in_params(equation.params):
            total += iterations * count_multiplications(inner)
    return total


def _in_matrix_product(equation: Any) -> int:
    if equation.primitive.name != "dot_general":
        return 0
    # Each number of the product is a sum over the axes that are contracted, here those of the left operand.
    (contracted, _), _ = equation.params["dimension_numbers"]
    left, product = equation.invars[0].aval.shape, equation.outvars[0].aval.shape
    return math.prod(product) * math.prod(left[axis] for axis in contracted)
