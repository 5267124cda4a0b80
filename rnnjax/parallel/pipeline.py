"""A pipeline of layers over devices: chunks of a sequence pass through the devices' layers one after another."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Shaped, UInt32

from rnnjax.cells.cell import Cell, State
from rnnjax.cells.randomness import TimedKey
from rnnjax.dtypes import holding_all
from rnnjax.parallel.operation_count import count_multiplications
from rnnjax.parallel.packed_buffers import PackedBuffers
from rnnjax.parallel.replicated import only_from, reduce_from_axis
from rnnjax.parallel.schedule import balanced
from rnnjax.parallel.switch import switch
from rnnjax.unrolling.recurrence import CellSequence, Method
from rnnjax.unrolling.varying import vary, varying_axes

Packed = list[Shaped[Array, "..."]]  # a pytree in `PackedBuffers`


class SequenceInputs(NamedTuple):
    """What the layers read at each step; `time` numbers the steps for random keys."""

    xs: Float[Array, "T *batch I"]
    valid: Bool[Array, "T *batch"] | None
    resets: Bool[Array, "T *batch"] | None
    followed: Bool[Array, "T *batch"] | None
    time: Int[Array, " T"] | None


class LayerInputs(NamedTuple):
    """What each layer reads at every step, one entry per layer.

    `initial` has the states that resets go back to, None without resets; `keys` the keys as raw data, None without
    randomness.
    """

    params: tuple[Any, ...]
    initial: tuple[Any, ...] | None
    keys: tuple[UInt32[Array, "..."], ...] | None

    def of_layers(self, layers: slice) -> LayerInputs:
        """Returns the inputs of some of the layers."""
        initial = None if self.initial is None else self.initial[layers]
        keys = None if self.keys is None else self.keys[layers]
        return LayerInputs(self.params[layers], initial, keys)


class LayerMethod(NamedTuple):
    """How a layer is unrolled over a chunk.

    Attributes:
      method: the method of each layer.
      key_impl: the PRNG implementation of the keys, None without randomness.
      gaps: whether invalid steps may be anywhere, not only after all valid ones.
    """

    method: Method
    key_impl: Any
    gaps: bool

    def unroll(
        self,
        cells: Sequence[Cell],
        layers: LayerInputs,
        states: Sequence[State],
        sequence: SequenceInputs,
    ) -> tuple[Float[Array, "T *batch O"], tuple[State, ...]]:
        """Unrolls one layer after another.

        Args:
          cells: the layers' cells.
          layers: their inputs.
          states: their states before the first step.
          sequence: the inputs of the first layer.

        Returns:
          the last layer's outputs, and every layer's state after the last step.
        """
        ys, last_states = sequence.xs, []
        for number, cell in enumerate(cells):
            initial = None if layers.initial is None else layers.initial[number]
            key = self._key(layers, number, sequence.time)
            arguments = layers.params[number], ys, states[number], initial, sequence.valid, sequence.resets, key
            layer_sequence = CellSequence(cell, *arguments, self.gaps, followed=sequence.followed)
            ys, last_state = self.method.over(layer_sequence)
            last_states.append(last_state)
        return ys, tuple(last_states)

    def _key(self, layers: LayerInputs, number: int, time: Array | None) -> TimedKey | None:
        if layers.keys is None or time is None:
            return None
        return TimedKey(jax.random.wrap_key_data(layers.keys[number], impl=self.key_impl), time)


class StageInputs(NamedTuple):
    """What changes from tick to tick for a device.

    Attributes:
      sequence: the pipeline's inputs for one chunk.
      message: outputs of the device before, padded to the widest outputs of any device.
      states: the states of the device's layers, packed.
    """

    sequence: SequenceInputs
    message: Float[Array, "C *batch W"]
    states: Packed


@dataclasses.dataclass(frozen=True)
class Stage:
    """One device's layers over one chunk, as a branch of the program that all devices run.

    Attributes:
      number: of the device.
      cells: its layers.
      layer_method: how they are unrolled.
      layer_buffers, state_buffers: where the inputs and the states of its layers are packed.
      reads: shape and dtype of what it reads of the message; None for the first stage, which reads the inputs.
      message: shape and dtype of a message.
    """

    number: int
    cells: tuple[Cell, ...]
    layer_method: LayerMethod
    layer_buffers: PackedBuffers
    state_buffers: PackedBuffers
    reads: jax.ShapeDtypeStruct | None
    message: jax.ShapeDtypeStruct

    def __call__(self, packed_layers: Packed, inputs: StageInputs) -> tuple[Float[Array, "C *batch W"], Packed]:
        """Returns the message to the next device and the packed states after the chunk."""
        layers = self.layer_buffers.unpack(self.number, packed_layers)
        states = self.state_buffers.unpack(self.number, inputs.states)
        sequence = inputs.sequence
        if self.reads is not None:
            xs = inputs.message[..., : self.reads.shape[-1]].astype(self.reads.dtype)
            # The inputs that came along are the first device's; this one reads the outputs of the device before.
            sequence = sequence._replace(xs=xs)
        ys, states = self.layer_method.unroll(self.cells, layers, states, sequence)
        return self._as_message(ys), self.state_buffers.pack(self.number, states)

    def _as_message(self, ys: Array) -> Array:
        missing = self.message.shape[-1] - ys.shape[-1]
        return jnp.pad(ys.astype(self.message.dtype), [(0, 0)] * (ys.ndim - 1) + [(0, missing)])

    @property
    def program(self) -> tuple:
        """Equal for two stages if they run the same program."""
        return self.cells, self.reads, self.layer_buffers.layouts[self.number], self.state_buffers.layouts[self.number]


def _idle(packed_layers: Packed, inputs: StageInputs) -> tuple[Array, Packed]:
    """The branch of a device that has no chunk at this tick."""
    # The states are kept for the next chunk, or as the last ones.
    return jnp.zeros_like(inputs.message), inputs.states


@dataclasses.dataclass(frozen=True)
class Pipeline:
    """Layers distributed over the devices of a mapped axis.

    Attributes:
      axis: name of the axis.
      chunk: number C of steps in a chunk.
      layers_of: the layers of each device.
      stages: what each device does.
      output: shape and dtype of the last layer's outputs for one chunk.
    """

    axis: str
    chunk: int
    layers_of: tuple[slice, ...]
    stages: tuple[Stage, ...]
    output: jax.ShapeDtypeStruct

    def pack(self, layers: LayerInputs, states: tuple[State, ...]) -> tuple[Packed, Packed]:
        """Returns the packed inputs and states of this device's layers, from those of all layers."""
        axes = varying_axes((layers, states))

        def on_device(number: int, layers: LayerInputs, states: tuple[State, ...]) -> tuple[Packed, Packed]:
            stage, device_layers = self.stages[number], self.layers_of[number]
            packed_layers = stage.layer_buffers.pack(number, layers.of_layers(device_layers))
            packed_states = stage.state_buffers.pack(number, states[device_layers])
            # All branches of a switch must return one type, and buffers that a device does not use are constants.
            return vary((packed_layers, packed_states), axes)

        branches = [functools.partial(on_device, number) for number in range(len(self.stages))]
        # A switch on the device: all run one program, and each packs its own layers.
        return jax.lax.switch(self._device(), branches, layers, states)

    def run(
        self, sequence: SequenceInputs, packed_layers: Packed, packed_states: Packed
    ) -> tuple[Float[Array, "KC *batch O"], Packed]:
        """Passes all chunks through all devices.

        Args:
          sequence: the inputs of the first layer.
          packed_layers, packed_states: as `pack` returns them.

        Returns:
          the outputs of K chunks of C steps, which are right on the last device only, and the packed states
          of this device's layers after the last step.
        """
        devices, chunks = len(self.stages), math.ceil(len(sequence.xs) / self.chunk)
        ticks = chunks + devices - 1
        branches, own_branch = self._branches()
        # [ticks, C, *batch, I], and below [K, C, ...].
        inputs = self._into_chunks(sequence.xs, ticks)
        other_inputs = self._into_chunks(sequence._replace(xs=None), chunks)

        def tick(carry, item):
            (message, states), (tick_number, xs) = carry, item
            chunk_number = tick_number - self._device()
            is_busy = (chunk_number >= 0) & (chunk_number < chunks)
            # Clipped for devices that are idle, which look up a chunk and do not read it.
            chunk = jax.tree.map(lambda leaf: leaf[jnp.clip(chunk_number, 0, chunks - 1)], other_inputs)
            # Only the first device reads xs, and its chunk at tick s is s: they need no look-up by chunk number.
            stage_inputs = StageInputs(chunk._replace(xs=xs), message, states)
            ys, states = switch(branches, jnp.where(is_busy, own_branch, 0), packed_layers, stage_inputs)
            return (self._send_to_next(ys), states), ys

        message = self.stages[0].message
        axes = varying_axes((sequence, packed_layers, packed_states))
        no_message = vary(jnp.zeros(message.shape, message.dtype), axes)
        (_, states), ys = jax.lax.scan(tick, (no_message, packed_states), (jnp.arange(ticks), inputs))
        # From [ticks, C, *batch, W] to [K, C, *batch, W].
        ys = ys[devices - 1 :]  # the last device begins when the first chunk has passed all others
        # [KC, *batch, W], of which the last layer has filled the first O features.
        ys = ys.reshape(-1, *ys.shape[2:])
        return ys[..., : self.output.shape[-1]].astype(self.output.dtype), states

    def _branches(self) -> tuple[tuple[Any, ...], Array]:
        """Returns the different programs of all devices, the idle one first, and which of them this device runs."""
        programs = list(dict.fromkeys(stage.program for stage in self.stages))
        stages = [next(stage for stage in self.stages if stage.program == program) for program in programs]
        branch_of = jnp.asarray([1 + programs.index(stage.program) for stage in self.stages])
        return (_idle, *stages), branch_of[self._device()]

    def gather(
        self, ys: Float[Array, "T *batch O"], packed_states: Packed
    ) -> tuple[Float[Array, "T *batch O"], tuple[State, ...]]:
        """Returns the outputs and the states of all layers on every device, from what `run` returns on each."""
        states = [
            only_from(self.axis, number, stage.state_buffers.unpack(number, packed_states))
            for number, stage in enumerate(self.stages)
        ]
        ys = only_from(self.axis, len(self.stages) - 1, ys)
        ys, states = reduce_from_axis(self.axis, (ys, states))
        return ys, tuple(state for device_states in states for state in device_states)

    def _device(self) -> Array:
        return jax.lax.axis_index(self.axis)

    def _send_to_next(self, ys: Array) -> Array:
        if len(self.stages) == 1:
            return ys
        # Nothing is sent to the first device: it gets zeros, and reads the inputs instead.
        return jax.lax.ppermute(ys, self.axis, [(device, device + 1) for device in range(len(self.stages) - 1)])

    def _into_chunks(self, tree: Any, count: int) -> Any:
        """Returns sequences ``[T, ...]`` as `count` chunks ``[count, C, ...]``, zeros after the last step."""

        def chunked(leaf: Array) -> Array:
            padding = [(0, count * self.chunk - len(leaf))] + [(0, 0)] * (leaf.ndim - 1)
            return jnp.pad(leaf, padding).reshape(count, self.chunk, *leaf.shape[1:])

        return jax.tree.map(chunked, tree)


class PipelineInputs(NamedTuple):
    """Everything that layers are run on: inputs over time, the layers' own inputs, their states at the first step."""

    sequence: SequenceInputs
    layers: LayerInputs
    states: tuple[State, ...]


def build_pipeline(
    axis: str, cells: tuple[Cell, ...], layer_method: LayerMethod, devices: int, chunk: int, inputs: PipelineInputs
) -> Pipeline:
    """Returns the pipeline of some layers for inputs like these; nothing is computed.

    Args:
      axis: name of the mapped axis.
      cells: the layers, at least as many as devices.
      layer_method: how each is unrolled over a chunk.
      devices: number D of devices along the axis.
      chunk: number C of steps in a chunk.
      inputs: what the pipeline will be run on.
    """
    sequence, layers, states = inputs
    chunk_inputs = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((chunk, *leaf.shape[1:]), leaf.dtype), sequence)
    types, costs = _types_and_costs(cells, layer_method, inputs._replace(sequence=chunk_inputs))
    layers_of = balanced(costs, devices)
    layer_buffers = PackedBuffers.for_trees([layers.of_layers(device_layers) for device_layers in layers_of])
    state_buffers = PackedBuffers.for_trees([states[device_layers] for device_layers in layers_of])
    # `types[n]` is what layer n reads and layer n - 1 returns.
    sent = [types[device_layers.stop] for device_layers in layers_of]
    width = max(like.shape[-1] for like in sent)
    # One type for all messages, since `ppermute` is one operation for all devices.
    dtype = holding_all(*(like.dtype for like in sent))
    message = jax.ShapeDtypeStruct((*chunk_inputs.xs.shape[:-1], width), dtype)
    stages = tuple(
        Stage(
            number,
            cells[device_layers],
            layer_method,
            layer_buffers,
            state_buffers,
            reads=types[device_layers.start] if number else None,
            message=message,
        )
        for number, device_layers in enumerate(layers_of)
    )
    return Pipeline(axis, chunk, layers_of, stages, types[-1])


def _types_and_costs(
    cells: tuple[Cell, ...], layer_method: LayerMethod, inputs: PipelineInputs
) -> tuple[list[jax.ShapeDtypeStruct], tuple[int, ...]]:
    """Returns the types of every layer's inputs and of the last one's outputs, and the cost of every layer."""
    sequence, layers, states = inputs
    types, costs = [jax.ShapeDtypeStruct(sequence.xs.shape, sequence.xs.dtype)], []
    for number, cell in enumerate(cells):
        layer = slice(number, number + 1)
        unroll = functools.partial(layer_method.unroll, (cell,))
        trace = jax.make_jaxpr(unroll, return_shape=True)
        program, (ys, _) = trace(layers.of_layers(layer), states[layer], sequence._replace(xs=types[-1]))
        types.append(jax.ShapeDtypeStruct(ys.shape, ys.dtype))
        costs.append(1 + count_multiplications(program.jaxpr))
    return types, tuple(costs)
