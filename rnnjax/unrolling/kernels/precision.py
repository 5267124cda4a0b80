"""The precision of matrix products that JAX is set to."""

from __future__ import annotations

import jax


def exact_products() -> bool:
    """Returns whether JAX is set to multiply float32 in full precision, not in TensorFloat-32."""
    precision = jax.config.jax_default_matmul_precision  # pyright: ignore[reportAttributeAccessIssue]
    return precision in ("highest", "float32", "F32_F32_F32")
