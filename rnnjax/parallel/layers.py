"""A stack's layers on different devices, with the sequence passing through them in chunks of time."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from rnnjax.cells.cell import Cell, State
from rnnjax.cells.randomness import split, timed
from rnnjax.cells.sizes import keep_sizes
from rnnjax.cells.tree import is_stack
from rnnjax.parallel.mesh import LAYERS
from rnnjax.parallel.pipeline import LayerInputs, LayerMethod, PipelineInputs, SequenceInputs, build_pipeline
from rnnjax.parallel.replicated import copies_of_inputs, mapped_axis_size
from rnnjax.parallel.schedule import best_chunk
from rnnjax.unrolling.auto import Auto
from rnnjax.unrolling.checks import check_method
from rnnjax.unrolling.cutting import nan_where_lost
from rnnjax.unrolling.recurrence import CellSequence, Method


@dataclasses.dataclass(frozen=True)
class Wavefront(Method):
    """Unrolls a `Stack` over the devices of a mapped axis: each has some layers, and runs them on chunk after chunk.

    For `rnnjax.unroll` inside `jax.shard_map` or `jax.pmap`. With K chunks and D devices, at tick s = 0 .. K + D - 2
    device d runs its layers on chunk s - d and sends its outputs to the next device. So D devices are at best
    ``D K / (K + D - 1)`` times as fast as one, forward and backward. Each device has consecutive layers, chosen such
    that the largest number of multiplications on any device is as small as possible.

    All arguments must be equal on all devices of the axis, parameters included: computation and residuals are split,
    while parameters and the optimiser's state are not. Outputs and final state are returned equal on all devices. So
    are gradients, provided that every device computes the same loss from them; they are those of a single device, and
    must not be summed over the axis again. Forward-mode derivatives are not defined.

    Attributes:
      axis: name of the mapped axis.
      chunk: steps in a chunk; None takes `best_chunk` of `rnnjax.parallel.schedule`.
      inner: how each layer is unrolled over a chunk; None takes `Auto()`.

    Raises:
      TypeError: for a cell that is not a `Stack`.
      ValueError: outside a map, or for fewer layers than devices.
    """

    axis: str = LAYERS
    chunk: int | None = None
    inner: Method | None = None

    def __post_init__(self):
        keep_sizes(self, optional=("chunk",))
        if self.inner is not None:
            check_method(self.inner)

    def over(self, sequence: CellSequence) -> tuple[Float[Array, "T *batch O"], State]:
        """Returns the outputs and the state after the last step."""
        devices = mapped_axis_size(self.axis, "Wavefront")
        cells = layers_for(devices, sequence.cell)
        length = len(sequence.xs)
        chunk = min(self.chunk or best_chunk(length, devices), length)
        inputs, key_impl = _pipeline_inputs(sequence, pads=length % chunk > 0)
        over_time, others = copies_of_inputs(self.axis, inputs.sequence, inputs[1:])
        inputs = PipelineInputs(over_time, *others)
        layer_method = LayerMethod(self.inner or Auto(), key_impl, sequence.gaps)
        pipeline = build_pipeline(self.axis, cells, layer_method, devices, chunk, inputs)
        packed_layers, packed_states = pipeline.pack(inputs.layers, inputs.states)
        ys, packed_states = pipeline.run(inputs.sequence, packed_layers, packed_states)
        ys, states = pipeline.gather(ys[:length], packed_states)
        return nan_where_lost(ys, sequence.followed, sequence.resets), states


def layers_for(devices: int, cell: Cell) -> tuple[Cell, ...]:
    """Returns the layers of a `Stack` that is to be split over devices.

    Raises:
      TypeError: if the cell is not a `Stack`.
      ValueError: if it has fewer layers than there are devices.
    """
    if not is_stack(cell):
        raise TypeError(f"layers are split over devices for a Stack, got {cell!r}")
    if len(cell.cells) < devices:
        raise ValueError(
            f"a Stack of {len(cell.cells)} layers cannot be split over {devices} devices; "
            f"take {len(cell.cells)} devices at most"
        )
    return tuple(cell.cells)


def _pipeline_inputs(sequence: CellSequence, *, pads: bool) -> tuple[PipelineInputs, Any]:
    """Returns the inputs of a pipeline, and the PRNG implementation of its keys (None without a key).

    Args:
      sequence: the stack over its sequence.
      pads: whether the last chunk is padded, so that valid steps must be told from padding.
    """
    length, batch = sequence.xs.shape[0], sequence.xs.shape[1:-1]
    valid = sequence.valid
    # The last state must be the one after the sequence, not after the padding.
    if valid is None and pads:
        valid = jnp.ones((length, *batch), bool)
    time = keys = key_impl = None
    if sequence.key is not None:
        key, time = timed(sequence.key, length)
        key = key if jnp.issubdtype(key.dtype, jax.dtypes.prng_key) else jax.random.wrap_key_data(key)
        key_impl = jax.random.key_impl(key)
        keys = tuple(map(jax.random.key_data, split(key, len(sequence.state))))  # buffers hold plain arrays
    layers = LayerInputs(sequence.params, sequence.initial, keys)
    over_time = SequenceInputs(sequence.xs, valid, sequence.resets, sequence.followed, time)
    return PipelineInputs(over_time, layers, sequence.state), key_impl
