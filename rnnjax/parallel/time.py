"""A sequence's time on different devices: each has a part of the steps of a linear recurrence."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool

from rnnjax.cells.cell import State
from rnnjax.cells.pairs import times
from rnnjax.cells.randomness import TimedKey, timed
from rnnjax.parallel.mesh import TIME
from rnnjax.parallel.replicated import copies_of_inputs, mapped_axis_size, only_from, reduce_from_axis
from rnnjax.unrolling.associative import not_linear, run_linear
from rnnjax.unrolling.cutting import nan_where_lost
from rnnjax.unrolling.linear_scan import Implementation, ScanSettings, check_implementation
from rnnjax.unrolling.prefixes import Factors, as_tree, combined, conjugate
from rnnjax.unrolling.recurrence import CellSequence, Method, Recurrence
from rnnjax.unrolling.selecting import zeros_where


@dataclasses.dataclass(frozen=True)
class TimeSplit(Method):
    """Unrolls linear cells over the devices of a mapped axis, each of which has a part of the steps.

    For `rnnjax.unroll` inside `jax.shard_map` or `jax.pmap`. Each of D devices projects the inputs of its ``T / D``
    steps, computes what these do to any state before them (one product and one state), and learns what that state is
    from what all devices have computed: one collective of D numbers for each number of the state, combined in
    ``log2(D)`` steps. It then runs its part, and reads and projects its outputs. The derivative is computed likewise,
    by one collective more. In a stack each layer is split so; wrappers, masks and dropout belong to a device's part.

    All arguments must be equal on all devices of the axis, parameters included: computation and residuals are split,
    while parameters and the optimiser's state are not. Outputs and final state are returned equal on all devices. So
    are gradients, provided that every device computes the same loss from them; they are those of a single device, and
    must not be summed over the axis again. Forward-mode derivatives are not defined.

    Attributes:
      axis: name of the mapped axis.
      implementation: how each part is computed, that of `rnnjax.linear_scan`. The product of the factors of a part must
        not overflow, with either one.

    Raises:
      ValueError: outside a map, or for a cell that is not a `LinearCell`.

    Example:
      >>> import jax, jax.numpy as jnp, rnnjax
      >>> from jax.sharding import PartitionSpec
      >>> from rnnjax.parallel.time import TimeSplit
      >>> cell = rnnjax.LRU(8)
      >>> params, xs = cell.init(jax.random.key(0), 3), jnp.ones((2, 6, 3))
      >>> split = lambda params, xs: rnnjax.unroll(cell, params, xs, method=TimeSplit())
      >>> mesh = jax.make_mesh((jax.device_count(),), ("time",))
      >>> everywhere = PartitionSpec()
      >>> mapped = jax.shard_map(split, mesh=mesh, in_specs=everywhere, out_specs=everywhere)
      >>> ys, state = jax.jit(mapped)(params, xs)
      >>> ys.shape, bool(jnp.allclose(ys, rnnjax.unroll(cell, params, xs)[0], atol=1e-5))
      ((2, 6, 8), True)
    """

    keeps_states: ClassVar[bool] = True

    axis: str = TIME
    implementation: Implementation | None = None

    def __post_init__(self):
        check_implementation(self.implementation)

    def why_not(self, recurrence: Recurrence) -> str | None:
        return not_linear("TimeSplit()", recurrence.cell, "unroll it on one device, by Scan() or Auto()")

    def over(self, sequence: CellSequence) -> tuple[Any, State]:
        """Returns the outputs and the state after the last step, or after every step."""
        devices, length = mapped_axis_size(self.axis, "TimeSplit"), len(sequence.xs)
        ys, last = super().over(_part_of(_copied(self.axis, sequence), self.axis, -(-length // devices), devices))
        if sequence.keeps_states:
            ys, last = _of_all_parts(self.axis, devices, length, (ys, last))
        else:
            ys = _of_all_parts(self.axis, devices, length, ys)
            last = reduce_from_axis(self.axis, only_from(self.axis, devices - 1, last))
        return nan_where_lost(ys, sequence.followed, sequence.resets), last

    def run(self, recurrence: Recurrence) -> tuple[Any, State]:
        return run_linear(ScanSettings(self.implementation, chunks=DeviceChunks(self.axis)), recurrence)


@dataclasses.dataclass(frozen=True)
class DeviceChunks:
    """The parts of a scan on the other devices of a mapped axis, in the order of the devices: see `Chunks`."""

    axis: str

    def start(self, factors: Factors, b: Any, h0: Any, reverse: bool) -> Any:
        """Returns the state before this device's part: one gathering of what each part does to a state before it.

        Args:
          factors, b, h0, reverse: as in `Chunks`.
        """
        of_part = _total(factors, b, reverse)
        of_parts, ends = jax.lax.all_gather(of_part, self.axis)
        # What the parts do, one after another, is such a recurrence again, of one step a device.
        after = as_tree(of_parts, ends, h0, reverse)
        return self._of_device_before(after, h0, reverse)

    def end(self, factors: Factors, g: Any, reverse: bool) -> Any:
        """Returns what the parts after this one add to the cotangent of its last state."""
        a = conjugate(factors.a)
        earlier = times(a, g)  # the transposed scan's step is to add the cotangent, and to multiply then
        earlier = earlier if factors.cuts is None else zeros_where(factors.cuts, earlier)
        nothing = jax.tree.map(lambda leaf: jnp.zeros_like(leaf[0]), g)
        return self.start(Factors(a, factors.cuts), earlier, nothing, not reverse)

    def before(self, hs: Any, h0: Any, reverse: bool) -> Any:
        """Returns the last state of the part before this one, `h0` for the first part."""
        devices = jax.lax.axis_size(self.axis)
        last = jax.tree.map(lambda leaf: leaf[0 if reverse else -1], hs)
        pairs = [(device, device + (-1 if reverse else 1)) for device in range(devices)]
        received = jax.lax.ppermute(last, self.axis, [pair for pair in pairs if 0 <= pair[1] < devices])
        first = self._is_first(reverse)
        return jax.tree.map(lambda start, leaf: jnp.where(first, start, leaf), h0, received)

    def at_start(self, number: Any, reverse: bool) -> Any:
        """Returns a number on the device whose part is the first one, zero elsewhere."""
        first = self._is_first(reverse)
        return jax.tree.map(lambda leaf: jnp.where(first, leaf, jnp.zeros_like(leaf)), number)

    def _is_first(self, reverse: bool) -> Bool[Array, ""]:
        return jax.lax.axis_index(self.axis) == (jax.lax.axis_size(self.axis) - 1 if reverse else 0)

    def _of_device_before(self, after: Any, h0: Any, reverse: bool) -> Any:
        """Returns, from what is known after the part of every device, ``[D, ...]``, what is known before this one."""
        device, first = jax.lax.axis_index(self.axis), self._is_first(reverse)
        neighbour = jnp.clip(device + (1 if reverse else -1), 0, jax.lax.axis_size(self.axis) - 1)

        def leaf(start: Array, after: Array) -> Array:
            return jnp.where(first, start, jax.lax.dynamic_index_in_dim(after, neighbour, 0, keepdims=False))

        return jax.tree.map(leaf, h0, after)


def _total(factors: Factors, b: Any, reverse: bool) -> tuple[Factors, Any]:
    """Returns the one step that does what all steps do, by combining neighbours, ``log2(T)`` times."""
    like = jax.tree.leaves(b)[0]
    a = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, like.shape), factors.a)
    steps = Factors(a, factors.cuts), b
    if reverse:
        steps = jax.tree.map(lambda leaf: jnp.flip(leaf, 0), steps)
    while len(jax.tree.leaves(steps)[0]) > 1:
        steps = _half_as_many(steps)
    return jax.tree.map(lambda leaf: leaf[0], steps)


def _half_as_many(steps: tuple[Factors, Any]) -> tuple[Factors, Any]:
    """Returns steps that do what two neighbours each do; a last one without a neighbour stays."""
    pairs = len(jax.tree.leaves(steps)[0]) // 2 * 2
    together = combined(
        jax.tree.map(lambda leaf: leaf[0:pairs:2], steps), jax.tree.map(lambda leaf: leaf[1:pairs:2], steps)
    )
    return jax.tree.map(lambda leaf, rest: jnp.concatenate([leaf, rest[pairs:]]), together, steps)


def _copied(axis: str, sequence: CellSequence) -> CellSequence:
    """Returns a sequence's arrays as copies that each device may use differently."""
    over_time = (sequence.xs, sequence.valid, sequence.resets, sequence.followed)
    over_time, others = copies_of_inputs(axis, over_time, (sequence.params, sequence.state, sequence.initial))
    (xs, valid, resets, followed), (params, state, initial) = over_time, others
    return sequence._replace(
        params=params, state=state, initial=initial, xs=xs, valid=valid, resets=resets, followed=followed
    )


def _part_of(sequence: CellSequence, axis: str, part: int, devices: int) -> CellSequence:
    """Returns the steps that this device takes of a sequence; the last ones may be padding, which is not valid."""
    length, batch = sequence.xs.shape[0], sequence.xs.shape[1:-1]
    pads = part * devices - length
    valid = jnp.ones((length, *batch), bool) if sequence.valid is None and pads else sequence.valid

    def own(leaf: Array | None) -> Any:
        if leaf is None:
            return None
        padded = jnp.pad(leaf, [(0, pads), *[(0, 0)] * (leaf.ndim - 1)])
        return jax.lax.dynamic_slice_in_dim(padded, jax.lax.axis_index(axis) * part, part)

    key = sequence.key
    if key is not None:
        key, time = timed(key, length)
        key = TimedKey(key, own(time))
    xs, resets, followed = own(sequence.xs), own(sequence.resets), own(sequence.followed)
    return sequence._replace(xs=xs, valid=own(valid), resets=resets, followed=followed, key=key)


def _of_all_parts(axis: str, devices: int, length: int, parts: Any) -> Any:
    """Returns what is split over the devices, ``[T / D, ...]``, whole and equal on all of them."""
    device = jax.lax.axis_index(axis)

    def placed(leaf: Array) -> Array:
        whole = jnp.zeros_like(leaf, shape=(devices * len(leaf), *leaf.shape[1:]))
        return jax.lax.dynamic_update_slice_in_dim(whole, leaf, device * len(leaf), 0)

    whole = reduce_from_axis(axis, jax.tree.map(placed, parts))
    return jax.tree.map(lambda leaf: leaf[:length], whole)
