"""A sequence's time on different devices: each has a part of the steps of a linear or a diagonal cell."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

from rnnjax.cells.cell import State
from rnnjax.cells.randomness import TimedKey, timed
from rnnjax.cells.traits import is_linear, keeps_units_apart
from rnnjax.parallel.mesh import TIME
from rnnjax.parallel.replicated import copies_of_inputs, mapped_axis_size, only_from, reduce_from_axis
from rnnjax.unrolling.associative import run_linear, why_not_folded
from rnnjax.unrolling.chunks import Combined, Part
from rnnjax.unrolling.cutting import nan_where_lost
from rnnjax.unrolling.instead import methods_for
from rnnjax.unrolling.linear_scan import Implementation, ScanSettings, check_implementation
from rnnjax.unrolling.newton import Newton
from rnnjax.unrolling.recurrence import CellSequence, Method, Recurrence
from rnnjax.unrolling.varying import vary, varying_axes


@dataclasses.dataclass(frozen=True)
class TimeSplit(Method):
    """Unrolls linear and diagonal cells over the devices of a mapped axis, each of which has a part of the steps.

    For `rnnjax.unroll` inside `jax.shard_map` or `jax.pmap`. Each of D devices projects the inputs of its ``T / D``
    steps, computes what these do to any state before them (one product and one state), and learns what that state is
    from what all devices have computed: one collective of D numbers for each number of the state, combined in
    ``log2(D)`` steps. It then runs its part, and reads and projects its outputs. The derivative is computed likewise,
    by one collective more. In a stack each layer is split so; wrappers, masks and dropout belong to a device's part.

    A diagonal cell is unrolled by Newton's method, whose linear recurrence of each iteration is such a one. An
    iteration takes two collectives more, of the parts' last states and of whether any residual is too large, of all
    devices. Where one is after the last iteration, devices take their steps one after another, with the values of
    `Scan` bit by bit. The derivative is one linear recurrence; where the product of a part's Jacobians overflows, it is
    computed by devices one after another too.

    All arguments must be equal on all devices of the axis, parameters included: computation and residuals are split,
    while parameters and the optimiser's state are not. Outputs and final state are returned equal on all devices. So
    are gradients, provided that every device computes the same loss from them; they are those of a single device, and
    must not be summed over the axis again. Forward-mode derivatives are not defined.

    Attributes:
      axis: name of the mapped axis.
      implementation: how each part of a linear cell is computed, that of `rnnjax.linear_scan`. The product of the
        factors of a part must not overflow, with either one.
      newton: how often diagonal cells are iterated, and when they have converged. Jacobians are the exact ones.

    Raises:
      ValueError: for Jacobians that are named; outside a map, or for a cell that is neither a `LinearCell` nor a
        `DiagonalCell`.

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
    newton: Newton = dataclasses.field(default_factory=Newton)

    def __post_init__(self):
        check_implementation(self.implementation)
        if self.newton.jacobian != "auto":
            raise ValueError(f'newton must have jacobian="auto", which is exact, got {self.newton.jacobian!r}')

    def why_not(self, recurrence: Recurrence) -> str | None:
        cell = recurrence.cell
        if keeps_units_apart(cell):
            return why_not_folded(self, recurrence) if is_linear(cell) else self.newton.why_not(recurrence)
        return (
            f"TimeSplit() takes linear and diagonal cells whose step is LinearCell's or DiagonalCell's, and "
            f"{type(cell).__name__} is neither here; unroll it on one device, by {methods_for(cell)}"
        )

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
        chunks = DeviceChunks(self.axis)
        if is_linear(recurrence.cell):
            return run_linear(ScanSettings(self.implementation, chunks=chunks), recurrence)
        return self.newton.run_with_report(recurrence, chunks)[0]


@dataclasses.dataclass(frozen=True)
class DeviceChunks:
    """The parts of a recurrence on the devices of a mapped axis, in the order of the devices: see `Chunks`."""

    axis: str

    def start(self, combined: Combined, steps: tuple[Any, Any], h0: Any, reverse: bool = False) -> Any:
        """Returns the state before this device's part: one gathering of what each part does to a state before it.

        Args:
          combined, steps, h0, reverse: as in `Chunks`.
        """
        of_parts = jax.lax.all_gather(_total(combined, steps, reverse), self.axis)
        # What the parts do, one after another, are such steps again, one a device.
        up_to_each = jax.lax.associative_scan(combined, of_parts, reverse=reverse)
        starts = jax.tree.map(lambda start: jnp.broadcast_to(start, (self._devices, *start.shape)), h0)
        _, after = combined((up_to_each[0], starts), up_to_each)
        return self._of_device_before(after, h0, reverse)

    def before(self, hs: Any, h0: Any, reverse: bool = False) -> Any:
        """Returns the last state of the part before this one, `h0` for the first part."""
        last = jax.tree.map(lambda leaf: leaf[0 if reverse else -1], hs)
        # Gathered, and not handed to the neighbour: devices that split a batch besides would have to take part in every
        # such exchange, and their loops may differ.
        return self._of_device_before(jax.lax.all_gather(last, self.axis), h0, reverse)

    def at_start(self, number: Any, reverse: bool = False) -> Any:
        """Returns a number on the device whose part is the first one, zero elsewhere."""
        first = self._turn(reverse) == 0
        return jax.tree.map(lambda leaf: jnp.where(first, leaf, jnp.zeros_like(leaf)), number)

    def any(self, flag: Bool[Array, ""]) -> Bool[Array, ""]:
        """Returns whether a flag is true on any device."""
        return jax.lax.psum(flag.astype(jnp.int32), self.axis) > 0

    def whole(self, numbers: Any) -> Any:
        """Returns numbers of all devices' steps."""
        return _of_all_parts(self.axis, self._devices, self._devices * len(numbers), numbers)

    def in_turns(self, needed: Bool[Array, ""], part: Part, h0: Any, given: Any, reverse: bool = False) -> Any:
        """Returns what a function makes of every part, the devices being one after another, or what is given.

        Args:
          needed, part, h0, given, reverse: as in `Chunks`.
        """

        def turn(carry: tuple[Array, Any, Any]) -> tuple[Array, Any, Any]:
            number, before, result = carry
            here = number == self._turn(reverse)
            after, result = jax.lax.cond(here, lambda: part(before, result), lambda: (before, result))
            device = self._devices - 1 - number if reverse else number
            return number + 1, _of_device(jax.lax.all_gather(after, self.axis), device), result

        # No turn where nothing is needed: of a condition, `jax.vmap` takes both branches.
        first = jnp.where(needed, 0, self._devices)
        start = vary((first, h0, given), varying_axes((first, h0, given)))
        return jax.lax.while_loop(lambda carry: carry[0] < self._devices, turn, start)[2]

    @property
    def _devices(self) -> int:
        return jax.lax.axis_size(self.axis)

    def _turn(self, reverse: bool) -> Int[Array, ""]:
        """Returns how many parts are before this device's."""
        device = jax.lax.axis_index(self.axis)
        return self._devices - 1 - device if reverse else device

    def _of_device_before(self, after: Any, h0: Any, reverse: bool) -> Any:
        """Returns, from what is known after the part of every device, ``[D, ...]``, what is known before this one."""
        neighbour = jax.lax.axis_index(self.axis) + (1 if reverse else -1)
        found = _of_device(after, jnp.clip(neighbour, 0, self._devices - 1))
        first = self._turn(reverse) == 0
        return jax.tree.map(lambda start, leaf: jnp.where(first, start, leaf), h0, found)


def _of_device(of_devices: Any, device: Int[Array, ""]) -> Any:
    """Returns what one device has of what all have, each leaf ``[D, ...]``."""
    return jax.tree.map(lambda leaf: jax.lax.dynamic_index_in_dim(leaf, device, 0, keepdims=False), of_devices)


def _total(combined: Combined, steps: tuple[Any, Any], reverse: bool) -> tuple[Any, Any]:
    """Returns the one step that does what all steps do, by combining neighbours, ``log2(T)`` times."""
    if reverse:
        steps = jax.tree.map(lambda leaf: jnp.flip(leaf, 0), steps)
    while len(jax.tree.leaves(steps)[0]) > 1:
        steps = _half_as_many(combined, steps)
    return jax.tree.map(lambda leaf: leaf[0], steps)


def _half_as_many(combined: Combined, steps: tuple[Any, Any]) -> tuple[Any, Any]:
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
