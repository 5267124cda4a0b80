"""A stack's layers on different devices, the sequence flowing through them in chunks of time."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array

from rnnjax.cells.cell import Cell, State
from rnnjax.cells.randomness import TimedKey, split, timed
from rnnjax.cells.sizes import keep_sizes
from rnnjax.cells.wrappers import Stack
from rnnjax.errors import ConfigError
from rnnjax.parallel.branches import switch
from rnnjax.parallel.mesh import LAYERS
from rnnjax.parallel.pool import Pool
from rnnjax.parallel.replicated import enter, leave
from rnnjax.parallel.schedule import balanced, best_chunk
from rnnjax.parallel.work import multiplications
from rnnjax.unrolling.auto import Auto, choosing
from rnnjax.unrolling.checks import check_method
from rnnjax.unrolling.recurrence import CellSequence, Method
from rnnjax.unrolling.varying import vary, varying_axes


@dataclasses.dataclass(frozen=True)
class Wavefront(Method):
    """A `Stack` over the devices of a mapped axis: each has some layers, and takes them over one chunk after another.

    For `rnnjax.unroll` inside `jax.shard_map` or `jax.pmap`. Of K chunks and D devices, at tick s = 0 .. K + D - 2
    device d takes its layers over chunk s - d and hands its outputs on, so that D devices are ``D K / (K + D - 1)``
    times as fast as one at best, forward and backward. Layers stay next to each other, and are shared out such that the
    largest number of multiplications on a device is least.

    Arguments must be equal on all devices of the axis, parameters too: what is split is the work and what the gradient
    keeps, not the memory for parameters and the optimiser. Outputs and final state come back equal on all of them.
    So do gradients, if every device goes on to the same loss: they are those of one device, and are not to be summed
    over the axis again. Forward-mode derivatives are not defined.

    Attributes:
      axis: name of the mapped axis.
      chunk: steps in a chunk; None takes `best_chunk` of `rnnjax.parallel.schedule`.
      inner: how each layer is unrolled over a chunk; None takes `Auto()`.

    Raises:
      TypeError: for a cell that is not a `Stack`; ValueError: outside of a map, or for fewer layers than devices.
    """

    axis: str = LAYERS
    chunk: int | None = None
    inner: Method | None = None

    def __post_init__(self):
        keep_sizes(self, optional=("chunk",))
        if self.inner is not None:
            check_method(self.inner)

    def over(self, sequence: CellSequence) -> tuple[Array, State]:
        """Returns ``ys [T, *batch, O]`` and the state after the last step."""
        devices = _axis_size(self.axis)
        cells = layers_for(devices, sequence.cell)
        length = len(sequence.xs)
        chunk = min(self.chunk or best_chunk(length, devices), length)
        over_time, layers, state, impl = _entered(self.axis, sequence, whole=length % chunk == 0)
        inner = _Inner(self.inner or Auto(), impl, sequence.gaps)
        pipeline = _Pipeline.of(self.axis, cells, inner, devices, chunk, over_time, layers, state)
        held, local_state = pipeline.parts(layers, state)
        ys, local_state = pipeline.run(over_time, held, local_state)
        return pipeline.gathered(ys[:length], local_state)


def splitting_layers(function: Callable[..., Any], mesh: Mesh) -> Callable[..., Any]:
    """Returns a function to be mapped over a mesh, with every `Stack` that it unrolls split over the axis `layers`.

    Where the mesh has no such axis, or one of one device, it is the function as it was. Cells that have fewer layers
    than the axis has devices, or are no `Stack`, are unrolled on every device alike.

    Raises:
      ConfigError: when it is traced, if nothing that it unrolls can be split.
    """
    devices, stacks = mesh.shape.get(LAYERS, 1), []
    if devices == 1:
        return function

    def method_for(cell: Cell) -> Method | None:
        if not isinstance(cell, Stack) or len(cell.cells) < devices:
            return None
        stacks.append(cell)
        return Wavefront(inner=Auto(methods=()))  # what a run computes is not to depend on the user's cache

    @functools.wraps(function)
    def split(*arguments: Any) -> Any:
        with choosing(method_for):
            results = function(*arguments)
        if not stacks:
            raise ConfigError(
                f"parallel.layers is {devices}, but the model unrolls no stack of so many layers; set cell.layers to "
                f"{devices} or more, or parallel.layers to 1"
            )
        return results

    return split


def layers_for(devices: int, cell: Cell) -> tuple[Cell, ...]:
    """Returns the layers of a cell, raising unless it has some for so many devices."""
    if not isinstance(cell, Stack):
        raise TypeError(f"layers are split over devices for a Stack, got {cell!r}")
    if len(cell.cells) < devices:
        raise ValueError(
            f"a Stack of {len(cell.cells)} layers cannot be split over {devices} devices; "
            f"take {len(cell.cells)} devices at most"
        )
    return tuple(cell.cells)


def _axis_size(axis: str) -> int:
    try:
        return jax.lax.axis_size(axis)
    except NameError:
        raise ValueError(
            f"Wavefront needs a mapped axis {axis!r}; call unroll inside jax.shard_map or jax.pmap over it"
        ) from None


class _Sequence(NamedTuple):
    """What comes in over time, each ``[T, ...]``: inputs, which steps are valid and reset, and their times for keys."""

    xs: Array
    valid: Array | None
    resets: Array | None
    time: Array | None


class _Layers(NamedTuple):
    """What layers hold, one entry each: parameters, states to reset to (None: no resets), keys as numbers (None)."""

    params: tuple[Any, ...]
    initial: tuple[Any, ...] | None
    keys: tuple[Array, ...] | None

    def part(self, which: slice) -> _Layers:
        """Returns some of the layers."""
        initial, keys = (None if entries is None else entries[which] for entries in (self.initial, self.keys))
        return _Layers(self.params[which], initial, keys)


def _entered(axis: str, sequence: CellSequence, whole: bool) -> tuple[_Sequence, _Layers, tuple[State, ...], Any]:
    """Returns a sequence's parts as each device's copies, all varying over the mesh alike, and the kind of the key.

    Unless chunks come out `whole`, there is padding to tell from valid steps.
    """
    length, batch = sequence.xs.shape[0], sequence.xs.shape[1:-1]
    valid = sequence.valid if whole or sequence.valid is not None else jnp.ones((length, *batch), bool)
    time = keys = impl = None
    if sequence.key is not None:
        key, time = timed(sequence.key, length)
        key = key if jnp.issubdtype(key.dtype, jax.dtypes.prng_key) else jax.random.wrap_key_data(key)
        keys, impl = tuple(map(jax.random.key_data, split(key, len(sequence.state)))), jax.random.key_impl(key)
    layers = _Layers(sequence.params, sequence.initial, keys)
    parts = _Sequence(sequence.xs, valid, sequence.resets, time), layers, sequence.state
    over_time, *held = vary(parts, varying_axes(parts) - {axis})
    # Apart, for where inputs need no gradient none is then computed; together they would have one if parameters do.
    return enter(axis, over_time), *enter(axis, tuple(held)), impl


class _Inner(NamedTuple):
    """How each layer is unrolled over a chunk: the method, the kind of its keys, and whether steps may be missing
    anywhere."""

    method: Method
    impl: Any
    gaps: bool


def _run_layers(cells, inner: _Inner, layers: _Layers, state, sequence: _Sequence) -> tuple[Array, tuple[State, ...]]:
    """Returns what `unroll` makes of some layers, and their states."""
    ys, after = sequence.xs, []
    for layer, cell in enumerate(cells):
        key = initial = None
        if layers.keys is not None and sequence.time is not None:
            key = TimedKey(jax.random.wrap_key_data(layers.keys[layer], impl=inner.impl), sequence.time)
        if layers.initial is not None:
            initial = layers.initial[layer]
        arguments = layers.params[layer], ys, state[layer], initial, sequence.valid, sequence.resets, key
        ys, last = inner.method.over(CellSequence(cell, *arguments, inner.gaps))
        after.append(last)
    return ys, tuple(after)


class _Moving(NamedTuple):
    """What a device takes its layers over: a chunk of the pipeline's inputs, what the device before handed on
    ``[C, *batch, W]``, and the layers' states in their pool."""

    sequence: _Sequence
    message: Array
    state: list[Array]


@dataclasses.dataclass(frozen=True)
class _Work:
    """One device's layers over one chunk, as a branch of the program that all devices run.

    `reads` says what they read of the message, None: the inputs; `message` the type of what they hand on.
    """

    which: int
    cells: tuple[Cell, ...]
    inner: _Inner
    pools: tuple[Pool, Pool]
    reads: jax.ShapeDtypeStruct | None
    message: jax.ShapeDtypeStruct

    def __call__(self, held: list[Array], moving: _Moving) -> tuple[Array, list[Array]]:
        layers, state = (pool.take(self.which, arrays) for pool, arrays in zip(self.pools, (held, moving.state)))
        sequence = moving.sequence
        if self.reads is not None:
            sequence = sequence._replace(xs=moving.message[..., : self.reads.shape[-1]].astype(self.reads.dtype))
        ys, state = _run_layers(self.cells, self.inner, layers, state, sequence)
        room = [(0, 0)] * (ys.ndim - 1) + [(0, self.message.shape[-1] - ys.shape[-1])]
        return jnp.pad(ys.astype(self.message.dtype), room), self.pools[1].put(self.which, state)

    @property
    def kind(self) -> tuple:
        """What tells it from other devices' work."""
        return self.cells, self.reads, *(pool.layouts[self.which] for pool in self.pools)


def _idle(held: list[Array], moving: _Moving) -> tuple[Array, list[Array]]:
    """The branch of a device for which there is no chunk at this tick."""
    return jnp.zeros_like(moving.message), moving.state


@dataclasses.dataclass(frozen=True)
class _Pipeline:
    """Layers shared out over the devices of an axis.

    Attributes:
      axis: the mapped axis.
      chunk: steps in a chunk.
      parts_of: the layers of each device.
      works: what each device does.
      gives: type of the last layer's outputs.
    """

    axis: str
    chunk: int
    parts_of: tuple[slice, ...]
    works: tuple[_Work, ...]
    gives: jax.ShapeDtypeStruct

    @classmethod
    def of(cls, axis: str, cells, inner: _Inner, devices: int, chunk: int, sequence, layers, state) -> _Pipeline:
        """Returns the pipeline for arguments like these."""
        one_chunk = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((chunk, *leaf.shape[1:]), leaf.dtype), sequence)
        between, costs = [one_chunk.xs], []
        for layer, cell in enumerate(cells):
            run, here = functools.partial(_run_layers, (cell,), inner), slice(layer, layer + 1)
            arguments = layers.part(here), state[here], one_chunk._replace(xs=between[-1])
            program, (ys, _) = jax.make_jaxpr(run, return_shape=True)(*arguments)
            between.append(jax.ShapeDtypeStruct(ys.shape, ys.dtype))
            costs.append(1 + multiplications(program.jaxpr))
        parts = balanced(tuple(costs), devices)
        pools = Pool.of([layers.part(part) for part in parts]), Pool.of([state[part] for part in parts])
        handed_on = [between[part.stop] for part in parts]
        width, dtype = max(like.shape[-1] for like in handed_on), jnp.result_type(*(like.dtype for like in handed_on))
        message = jax.ShapeDtypeStruct((*one_chunk.xs.shape[:-1], width), dtype)
        works = tuple(
            _Work(which, cells[part], inner, pools, between[part.start] if which else None, message)
            for which, part in enumerate(parts)
        )
        return cls(axis, chunk, parts, works, between[-1])

    def parts(self, layers: _Layers, state: tuple[State, ...]) -> tuple[list[Array], list[Array]]:
        """Returns what this device holds, and the states of its layers, in their pools."""
        axes = varying_axes((layers, state))

        def on_device(which: int, layers: _Layers, state: tuple[State, ...]) -> tuple[list[Array], list[Array]]:
            part, (held_pool, state_pool) = self.parts_of[which], self.works[which].pools
            return vary((held_pool.put(which, layers.part(part)), state_pool.put(which, state[part])), axes)

        choices = [functools.partial(on_device, which) for which in range(len(self.works))]
        return jax.lax.switch(self._device(), choices, layers, state)

    def run(self, sequence: _Sequence, held: list[Array], state: list[Array]) -> tuple[Array, list[Array]]:
        """Returns what the last device gives, right there only, and the states of this device's layers."""
        devices, chunks = len(self.works), math.ceil(len(sequence.xs) / self.chunk)
        kinds = list(dict.fromkeys(work.kind for work in self.works))
        branches = (_idle, *(next(work for work in self.works if work.kind == kind) for kind in kinds))
        mine = jnp.asarray([1 + kinds.index(work.kind) for work in self.works])[self._device()]
        message = self.works[0].message
        ticks = chunks + devices - 1
        inputs = self._cut(sequence.xs, ticks)
        rest = self._cut(sequence._replace(xs=None), chunks)

        def tick(carry, item):
            (received, state), (at, xs) = carry, item
            number = at - self._device()
            there = (number >= 0) & (number < chunks)
            chunk = jax.tree.map(lambda leaf: leaf[jnp.clip(number, 0, chunks - 1)], rest)
            moving = _Moving(chunk._replace(xs=xs), received, state)
            ys, state = switch(branches, jnp.where(there, mine, 0), held, moving)
            return (self._hand_on(ys), state), ys

        nothing = vary(jnp.zeros(message.shape, message.dtype), varying_axes((sequence, held, state)))
        (_, state), ys = jax.lax.scan(tick, (nothing, state), (jnp.arange(ticks), inputs))
        ys = ys[devices - 1 :].reshape(-1, *ys.shape[2:])
        return ys[..., : self.gives.shape[-1]].astype(self.gives.dtype), state

    def gathered(self, ys: Array, state: list[Array]) -> tuple[Array, tuple[State, ...]]:
        """Returns outputs and states of all layers, on every device."""

        def of(which: int, tree: Any) -> Any:
            return jax.tree.map(lambda leaf: jnp.where(self._device() == which, leaf, jnp.zeros_like(leaf)), tree)

        states = [of(which, work.pools[1].take(which, state)) for which, work in enumerate(self.works)]
        ys, states = leave(self.axis, (of(len(self.works) - 1, ys), states))
        return ys, tuple(state for part in states for state in part)

    def _device(self) -> Array:
        return jax.lax.axis_index(self.axis)

    def _hand_on(self, ys: Array) -> Array:
        following = [(device, device + 1) for device in range(len(self.works) - 1)]
        return jax.lax.ppermute(ys, self.axis, following) if following else ys

    def _cut(self, tree: Any, count: int) -> Any:
        """Returns sequences ``[T, ...]`` as ``[count, C, ...]``, zeros behind."""

        def cut(leaf: Array) -> Array:
            behind = [(0, count * self.chunk - len(leaf))] + [(0, 0)] * (leaf.ndim - 1)
            return jnp.pad(leaf, behind).reshape(count, self.chunk, *leaf.shape[1:])

        return jax.tree.map(cut, tree)
