"""What makes a contender of `benchmarks.kernels` ready for a case, in the layout that suits it.

Sequences are time-major but for those that take the batch first. Several heads are `jax.vmap` over one, the heads' axis
before all others.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array

from benchmarks.kernels.cases import Case, Numbers
from benchmarks.kernels.reference import Result


class Ready(NamedTuple):
    """A contender that is ready to run a case.

    Attributes:
      sample: ``sample(seed, None)`` makes random inputs and a gradient of the outputs; with `Numbers` in the place of
        None both begin with them, and the gradient is zero after them.
      forward: makes outputs of a sample; does not wait for them.
      both: makes outputs and all gradients; does not wait for them.
      wait: waits for what one of them made.
      read: returns what `both` made of a sample that begins with `Numbers`.
      read_outputs: returns the outputs' head of what `forward` made.
      build_seconds: time it took to become ready.
    """

    sample: Callable[[int, Numbers | None], Any]
    forward: Callable[[Any], Any]
    both: Callable[[Any], Any]
    wait: Callable[[Any], Any]
    read: Callable[[Any], Result]
    read_outputs: Callable[[Any], Any]
    build_seconds: float


def jax_ready(
    case: Case,
    given: Numbers,
    function: Callable[[Any, Array], Array],
    pack: Callable[[Any], Any] = lambda params: params,
    *,
    batch_first: bool = False,
) -> Ready:
    """Compiles a layer in JAX for a case, forward and with its gradients.

    Args:
      case: the case.
      given: its numbers.
      function: makes outputs of the layer's parameters and inputs.
      pack: makes the layer's parameters of the cell's.
      batch_first: whether its sequences are ``[B, T, ...]``.
    """
    start, dtype = time.perf_counter(), jnp.dtype(case.dtype)
    before = (slice(None),) * (batch_first or case.heads > 1)
    head, tail = (*before, slice(case.head)), (*before, slice(case.head, None))
    # Gradients come back to the cell's layout by the derivative of what takes parameters from it.
    params, unpack = jax.vjp(pack, jax.tree.map(lambda values: jnp.asarray(values, dtype), given.params))

    def turned(values: Any) -> Any:
        return jnp.swapaxes(values, 0, 1) if batch_first else values

    def both(params: Any, inputs: Array, d_outputs: Array) -> Any:
        outputs, pull_back = jax.vjp(function, params, inputs)
        return outputs, pull_back(d_outputs)

    inputs = jax.eval_shape(turned, jax.ShapeDtypeStruct(case.input_shape(case.T), dtype))
    outputs = jax.eval_shape(function, params, inputs)
    run_forward = jax.jit(function).lower(params, inputs).compile()
    run_both = jax.jit(both).lower(params, inputs, outputs).compile()

    def sample(seed: int, begin: Numbers | None) -> Any:
        xs, d_ys = noise(inputs.shape, inputs.dtype, seed), noise(outputs.shape, outputs.dtype, seed + 1)
        if begin is not None:
            xs = xs.at[head].set(turned(jnp.asarray(begin.inputs, xs.dtype)))
            d_ys = jnp.zeros_like(d_ys).at[head].set(turned(jnp.asarray(begin.d_outputs, d_ys.dtype)))
        return xs, d_ys

    def read(made: Any) -> Result:
        ys, (d_params, d_xs) = made
        check_tail(bool(jnp.isfinite(ys).all()), bool((d_xs[tail] == 0).all()))
        return Result(read_outputs(ys), turned(d_xs[head]), *unpack(d_params))

    def read_outputs(ys: Any) -> Any:
        return turned(ys[head])

    return Ready(
        sample,
        lambda sample: run_forward(params, sample[0]),
        lambda sample: run_both(params, *sample),
        jax.block_until_ready,
        read,
        read_outputs,
        time.perf_counter() - start,
    )


@functools.lru_cache(maxsize=16)
def noise(shape: tuple[int, ...], dtype: Any, seed: int) -> Array:
    """Returns normal random numbers on the device, the same array again while it is kept."""
    return jax.random.normal(jax.random.key(seed), shape, dtype)


def check_tail(finite: bool, nothing: bool) -> None:
    """Raises unless all outputs are finite, and inputs after the last gradient have none."""
    if not finite:
        raise ValueError("its outputs are not finite")
    if not nothing:
        raise ValueError("inputs after the last output with a gradient have a gradient")
