"""What no recurrence can take less than on a device: the time of its products, and that of as many waits as steps.

The rate of products is that of large ones on the device. A wait is a step of this library's kernel, of the narrowest
basic cell whose units are divided over blocks, which then does little but wait for the other blocks: so it is what
such a wait costs now, and no bound of nature.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import timing
from benchmarks.kernels.cases import Case
from benchmarks.kernels.sweeps import Times
from rnnjax import BasicRNN, Pallas, unroll
from rnnjax.unrolling.kernels.layout import layout
from rnnjax.unrolling.kernels.pallas import unsuited_device

_SIDE, _SMALL_SIDE = 8192, 256  # of the matrices that are multiplied
_WAITS = 1024
_BATCH = 16


class Rates(NamedTuple):
    """Of a type: operations of products in a second, and seconds of a wait, None where our kernel does not run."""

    product: float
    wait_seconds: float | None


def measured_rates(dtype: str, *, tiny: bool = False) -> Rates:
    """Returns the rates of this device for a type; `tiny` measures small products, which says nothing of it."""
    return Rates(product_rate(dtype, _SMALL_SIDE if tiny else _SIDE), wait_seconds(dtype))


def product_rate(dtype: str, side: int) -> float:
    """Returns the operations in a second of a product of square matrices."""
    values = np.random.default_rng(0).standard_normal((side, side), np.float32)
    product, x = jax.jit(jnp.matmul), jnp.asarray(values, dtype)
    return 2 * side**3 / timing.usual(lambda: product(x, x), seconds=0.1)


def wait_seconds(dtype: str) -> float | None:
    """Returns the seconds of a step of the narrowest kernel whose blocks wait for each other; None if it fails."""
    if unsuited_device() is not None:
        return None
    cell, xs = BasicRNN(narrowest_split(dtype)), jnp.zeros((_WAITS, _BATCH, 1), dtype)
    params = jax.tree.map(lambda leaf: leaf.astype(dtype), cell.init(jax.random.key(0), 1))
    run = jax.jit(lambda params, xs: unroll(cell, params, xs, method=Pallas(), time_major=True)[0])
    try:
        return timing.usual(lambda: run(params, xs), seconds=0.1) / _WAITS
    except Exception as error:  # whatever it fails with, contenders are timed without it
        print(f"the floor of waits is not known: {type(error).__name__}: {error}", flush=True)
        return None


def narrowest_split(dtype: str) -> int:
    """Returns the fewest units of a basic cell that the kernel divides over blocks."""
    itemsize = jnp.dtype(dtype).itemsize
    layouts = ((width, layout(1, 1, itemsize, _BATCH, width)) for width in itertools.count(16, 16))
    return next(width for width, found in layouts if found is None or found.blocks > 1)


def floor_of(case: Case, rates: Mapping[str, Rates]) -> Times:
    """Returns the least time of a case: the longer of its products' and its waits'.

    The gradient takes two more products of every step, one of them after the loop, and as many waits again.
    """
    product, wait = rates[case.dtype]
    weights = math.prod(case.params().w_h.shape) * (2 if case.projected else 1)
    products = 2 * case.T * case.B * weights / product
    waits = case.T * (wait or 0.0)
    return Times(max(products, waits), max(3 * products, 2 * waits))
