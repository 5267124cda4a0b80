"""What JAX is told about the precision of products."""

from __future__ import annotations

import jax


def exact_products() -> bool:
    """Returns whether JAX is told to multiply float32 as float32, not in TensorFloat-32."""
    precision = jax.config.jax_default_matmul_precision  # pyright: ignore[reportAttributeAccessIssue]
    return precision in ("highest", "float32", "F32_F32_F32")
