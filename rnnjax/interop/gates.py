"""The gates of matrices and biases that another framework has side by side, in an order of its own."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Array, Float


def gates_of(matrix: Float[Array, "*N GH"], order: Sequence[int]) -> Float[Array, "*N G H"]:
    """Returns gates that are side by side on the last axis on an axis of their own, in the cell's order.

    Args:
      matrix: the gates side by side, as the other framework has them.
      order: for each gate of the cell, where the framework has it.
    """
    split = matrix.reshape(*matrix.shape[:-1], len(order), -1)
    return split[..., np.array(order), :]


def side_by_side(gates: Float[np.ndarray, "*N G H"], order: Sequence[int]) -> Float[np.ndarray, "*N GH"]:
    """Returns gates side by side on the last axis, in another framework's order: the inverse of `gates_of`."""
    return gates[..., np.argsort(order), :].reshape(*gates.shape[:-2], -1)
