"""Explicit promotion of dtypes."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike


def at_least_float32(dtype: DTypeLike) -> np.dtype:
    """Returns the dtype in which values of a dtype are summed and stored: float32 for 16-bit floats, else itself."""
    return np.promote_types(jnp.dtype(dtype), np.float32)


def holding_all(*dtypes: DTypeLike) -> np.dtype:
    """Returns the narrowest dtype that holds the numbers of all these, such as float32 for float16 and bfloat16."""
    # NumPy has none for these two, and JAX, where it is set to be strict, none for any two.
    with jax.numpy_dtype_promotion("standard"):
        return functools.reduce(jnp.promote_types, [jnp.dtype(dtype) for dtype in dtypes])
