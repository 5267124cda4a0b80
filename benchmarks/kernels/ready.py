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
import numpy as np
from jaxtyping import Array

from benchmarks.kernels.cases import Case, Numbers
from benchmarks.kernels.reference import Result


class Refused(ValueError):
    """A contender cannot take part in a case; the message says why."""


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
    read_outputs: Callable[[Any], np.ndarray]
    build_seconds: float


class Layer(NamedTuple):
    """A layer in JAX.

    Attributes:
      function: makes outputs of ``(params, inputs)``.
      pack: makes params of a case's parameters.
      unpack: makes a case's parameters of params, or of their gradients.
      batch_first: whether sequences are ``[B, T, ...]``.
      options: of the compiler, by XLA's names.
    """

    function: Callable[[Any, Array], Array]
    pack: Callable[[dict[str, Any]], Any]
    unpack: Callable[[Any], dict[str, Any]]
    batch_first: bool = False
    options: dict[str, Any] | None = None


class Layout(NamedTuple):
    """Where a contender has the axes of a case's sequences."""

    case: Case
    batch_first: bool

    @property
    def time_axis(self) -> int:
        """Which axis is that of time."""
        return 1 if self.batch_first or (not self.case.projected and self.case.heads > 1) else 0

    def head(self) -> tuple[slice, ...]:
        """Returns the index of the steps that are computed again."""
        return (*[slice(None)] * self.time_axis, slice(self.case.head))

    def tail(self) -> tuple[slice, ...]:
        """Returns the index of the steps after them."""
        return (*[slice(None)] * self.time_axis, slice(self.case.head, None))

    def to(self, values: Any) -> Any:
        """Returns sequences of the case in this layout."""
        if self.case.projected:
            return values.swapaxes(0, 1) if self.batch_first else values
        return values if self.case.heads > 1 else values[0]

    def back(self, values: Any) -> np.ndarray:
        """Returns the inverse of `to`, in NumPy and float64."""
        values = np.asarray(values).astype(np.float64)
        if self.case.projected:
            return values.swapaxes(0, 1) if self.batch_first else values
        return values if self.case.heads > 1 else values[None]


def jax_ready(case: Case, numbers: Numbers, layer: Layer) -> Ready:
    """Compiles a layer for a case, forward and with its gradients."""
    start, layout = time.perf_counter(), Layout(case, layer.batch_first)
    dtype = jnp.dtype(case.dtype)
    params = layer.pack({name: jnp.asarray(values, dtype) for name, values in numbers.parameters.items()})
    inputs = jax.eval_shape(lambda: layout.to(jnp.zeros(case.input_shape(case.T), dtype)))
    outputs = jax.eval_shape(layer.function, params, inputs)

    def both(params: Any, inputs: Array, d_outputs: Array) -> Any:
        outputs, pull_back = jax.vjp(layer.function, params, inputs)
        return outputs, pull_back(d_outputs)

    run_forward = compiled(layer.function, layer.options, params, inputs)
    run_both = compiled(both, layer.options, params, inputs, outputs)

    def sample(seed: int, begin: Numbers | None) -> Any:
        xs, d_ys = noise(inputs.shape, inputs.dtype, seed), noise(outputs.shape, outputs.dtype, seed + 1)
        if begin is not None:
            xs = xs.at[layout.head()].set(jnp.asarray(layout.to(begin.inputs), xs.dtype))
            d_ys = jnp.zeros_like(d_ys).at[layout.head()].set(jnp.asarray(layout.to(begin.d_outputs), d_ys.dtype))
        return xs, d_ys

    def read(made: Any) -> Result:
        ys, (d_params, d_xs) = made
        check_tail(bool(jnp.isfinite(ys).all()), bool((d_xs[layout.tail()] == 0).all()))
        d_parameters = {name: np.asarray(d).astype(np.float64) for name, d in layer.unpack(d_params).items()}
        return Result(read_outputs(ys), layout.back(d_xs[layout.head()]), d_parameters)

    def read_outputs(ys: Any) -> np.ndarray:
        return layout.back(ys[layout.head()])

    return Ready(
        sample,
        lambda sample: run_forward(params, sample[0]),
        lambda sample: run_both(params, *sample),
        jax.block_until_ready,
        read,
        read_outputs,
        time.perf_counter() - start,
    )


def compiled(function: Callable[..., Any], options: dict[str, Any] | None, *arguments: Any) -> Callable[..., Any]:
    """Returns a function compiled for some arguments."""
    return jax.jit(function).lower(*arguments).compile(compiler_options=options)


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


def refuse_unless(holds: bool, reason: str) -> None:
    """Raises `Refused` unless something holds."""
    if not holds:
        raise Refused(reason)
