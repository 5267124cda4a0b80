"""Flax Linen modules a step at a time, the states of their recurrent layers held outside."""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.errors import FlaxError
from jaxtyping import Array, Float, Shaped

from rnnjax.cells.cell import Params, State
from rnnjax.nn.one_hot import OneHotRNN
from rnnjax.nn.rnn import RNN, Bidirectional


def is_module(model: Any) -> bool:
    """Returns whether something is a Flax Linen module."""
    return isinstance(model, nn.Module)


@dataclasses.dataclass(frozen=True)
class SteppedModule:
    """A module of `RNN` and `OneHotRNN` layers, called as it is, with sequences of one step.

    Each layer begins from the state that it is given here, in the order in which the module calls them; at the first
    step that is the one that the module gives it, if any. That equals the module over whole sequences where nothing
    else in it reads more than one step, which `check` tries out.
    """

    module: nn.Module

    def check(self, params: Params, x: Shaped[Array, "1 ..."]) -> None:
        name = type(self.module).__name__
        try:
            whole, single = jax.jit(self._both)(params, x)
        except (ValueError, TypeError, FlaxError) as error:
            reason = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
            raise ValueError(f"{name} cannot take a step of inputs {list(x.shape[1:])}: {reason}") from error
        if not jax.tree.leaves(whole):
            raise ValueError(f"{name} has no outputs")
        for expected, got in zip(jax.tree.leaves(whole), jax.tree.leaves(single)):
            if not _alike(got, expected):
                raise ValueError(
                    f"{name} gives other outputs step by step than at once, so that something in it besides RNN layers "
                    "reads several steps; use a module without that, or its cell"
                )

    def start(self, params: Params, xs: Shaped[Array, "K ..."]) -> State:
        return self._call(params, xs[:, None], _starting)[1]

    def step(self, params: Params, states: State, xs: Shaped[Array, "K ..."]) -> tuple[State, Any]:
        remaining = iter(states)
        outputs, after = self._call(params, xs[:, None], lambda layer, inputs, given: next(remaining))
        return after, self._without_time(params, xs, outputs)

    def _call(self, params: Params, xs: Shaped[Array, "K T ..."], state_of: Callable) -> tuple[Any, State]:
        """Returns the outputs, and what the layers' states are afterwards; before, as `state_of` says."""
        states, lasts = [], []

        def with_state(call: Callable, args: tuple, options: dict, context: Any) -> Any:
            layer = context.module
            if context.method_name != "__call__" or not isinstance(layer, (RNN, OneHotRNN, Bidirectional)):
                return call(*args, **options)
            if isinstance(layer, Bidirectional) or layer.reverse:
                raise ValueError(f"{type(layer).__name__} reads a sequence from its end")
            before = state_of(layer, args[0], options.get("state"))
            ys, after = call(*args, **(options | {"state": before}))
            states.append(before if state_of is _starting else after)
            lasts.append(after)
            return ys, after

        takes = inspect.signature(type(self.module).__call__).parameters
        quiet: Any = {"deterministic": True} if "deterministic" in takes or isinstance(self.module, OneHotRNN) else {}
        with nn.intercept_methods(with_state):
            outputs = self.module.apply(params, xs, **quiet)
        if not states:
            raise ValueError("there is no rnnjax.nn.RNN or OneHotRNN in it")
        returns_state = type(outputs) is tuple and len(outputs) == 2 and any(outputs[1] is each for each in lasts)
        return outputs[0] if returns_state else outputs, tuple(states)

    def _without_time(self, params: Params, xs: Shaped[Array, "K ..."], outputs: Any) -> Any:
        """Returns outputs of one step without their axis of time, where they have one."""

        def shapes(steps: int) -> Any:
            longer = jnp.broadcast_to(xs[:, None], (xs.shape[0], steps, *xs.shape[1:]))
            return self._call(params, longer, _starting)[0]

        two = jax.eval_shape(functools.partial(shapes, 2))
        return jax.tree.map(lambda y, other: y if y.shape == other.shape else y[:, 0], outputs, two)

    def _both(self, params: Params, x: Shaped[Array, "1 ..."]) -> tuple[Any, Any]:
        """Returns the outputs of three steps at once and one by one."""
        # Not all alike, or what takes a mean or a maximum over inputs would not be noticed; 0 and 1 are ids too.
        xs = (x, (x == 0).astype(x.dtype), x)
        at_once, _ = self._call(params, jnp.stack(xs, 1), _starting)
        states, outputs = self.start(params, x), []
        for each in xs:
            states, ys = self.step(params, states, each)
            outputs.append(ys)

        def as_at_once(whole: Array, *single: Array) -> Array:
            return single[-1] if whole.shape == single[-1].shape else jnp.stack(single, 1)[:, -whole.shape[1] :]

        return at_once, jax.tree.map(as_at_once, at_once, *outputs)


def _alike(got: Array, expected: Array) -> bool:
    """Returns whether numbers are equal within rounding, relative to the largest finite one."""
    tolerance = 2e-2 if got.dtype.itemsize < 4 else 1e-3
    largest = jnp.where(jnp.isfinite(expected), jnp.abs(expected), 0).max(initial=0)
    return got.shape == expected.shape and bool(
        jnp.allclose(got, expected, tolerance, tolerance * largest, equal_nan=True)
    )


def _starting(layer: RNN | OneHotRNN, inputs: Float[Array, "B T I"], given: State | None) -> State:
    """Returns the state that a layer of a module that is being called begins its sequences from."""
    if given is not None:
        return given
    dtype = layer.dtype if isinstance(layer, OneHotRNN) else inputs.dtype
    batch_axis = 1 if layer.time_major else 0
    return layer.cell.start(layer.variables["params"]["rnn"], inputs.shape[batch_axis], dtype)
