"""Types of numbers, said rather than left to implicit promotion."""

import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike


def at_least_float32(dtype: DTypeLike) -> np.dtype:
    """Returns the type in which numbers of a type are summed and kept: float32 for those of 16 bits, else itself."""
    return np.promote_types(jnp.dtype(dtype), np.float32)
