"""Explicit promotion of dtypes."""

import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike


def at_least_float32(dtype: DTypeLike) -> np.dtype:
    """Returns the dtype in which values of a dtype are summed and stored: float32 for 16-bit floats, else itself."""
    return np.promote_types(jnp.dtype(dtype), np.float32)
