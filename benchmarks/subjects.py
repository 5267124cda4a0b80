"""What benchmarks measure, by the names that their options and rows have: cells, and ways of unrolling."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from rnnjax import CuDNN, Fused, Method, Pallas, Scan

CELLS = ("BasicRNN", "LSTM", "GRU")
LOOPS: dict[str, Method] = {
    "scan": Scan(),
    "scan(4)": Scan(unroll=4),
    "scan(16)": Scan(unroll=16),
    "fused": Fused(),
}
KERNELS: dict[str, Method] = {"pallas": Pallas(), "cudnn": CuDNN()}
METHODS = {**LOOPS, **KERNELS}


def on_this_device(method: Method) -> Method:
    """Returns a method as it runs here: the kernels of `Pallas` are interpreted on a CPU."""
    return Pallas(interpret=True) if method == Pallas() and jax.default_backend() == "cpu" else method


def mean_square(outputs: Callable[[Any, Any], Array]) -> Callable[[Any, Any], Float[Array, ""]]:
    """Returns the loss whose gradient is measured: the mean of the squares of ``outputs(params, xs)``."""
    return lambda params, xs: jnp.mean(jnp.square(outputs(params, xs)))
