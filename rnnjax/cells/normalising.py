"""Layer normalisation without scale and shift, which its users have among their parameters."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array

from rnnjax.dtypes import at_least_float32


def normalised(x: Array, axes: int | tuple[int, ...]) -> Array:
    """Returns `x` with mean 0 and variance 1 over `axes`, computed in float32 at least (Ba et al., 2016)."""
    wide = x.astype(at_least_float32(x.dtype))
    centred = wide - wide.mean(axes, keepdims=True)
    return (centred * jax.lax.rsqrt(jnp.square(centred).mean(axes, keepdims=True) + 1e-6)).astype(x.dtype)
