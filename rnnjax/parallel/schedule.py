"""The schedule of a pipeline: how long it takes, and the chunk of time at which it takes the least."""

from __future__ import annotations

import math
from typing import NamedTuple

from rnnjax.cells.cell import check_size


class ChunkCost(NamedTuple):
    """Seconds that a device takes over a chunk of C steps, ``fixed + step * C``."""

    fixed: float
    step: float

    def seconds(self, chunk: int) -> float:
        """Returns the seconds for a chunk of so many steps."""
        return self.fixed + self.step * chunk


TYPICAL = ChunkCost(fixed=1.0, step=1.0)  # in the time of a step: only the ratio matters to the choice of a chunk


def pipeline_seconds(length: int, chunk: int, devices: int, cost: ChunkCost) -> float:
    """Returns the seconds for T = `length` steps in K chunks of C on D devices, ``(K + D - 1) (fixed + step C)``."""
    return (math.ceil(length / chunk) + devices - 1) * cost.seconds(chunk)


def best_chunk(length: int, devices: int, cost: ChunkCost = TYPICAL) -> int:
    """Returns the chunk, in steps, at which `pipeline_seconds` is least.

    K is then near ``sqrt((D - 1) T step / fixed)``: with few chunks the devices wait for each other at the beginning
    and at the end, with many what every chunk costs besides its steps adds up.

    Raises:
      ValueError: for a length or a number of devices below 1.
    """
    check_size("length", length)
    check_size("devices", devices)
    chunks = {math.ceil(length / count) for count in range(1, length + 1)}
    return min(sorted(chunks, reverse=True), key=lambda chunk: pipeline_seconds(length, chunk, devices, cost))


def bound(chunks: int, devices: int) -> float:
    """Returns how many times faster D devices can be than one, ``D K / (K + D - 1)`` for K chunks."""
    return devices * chunks / (chunks + devices - 1)


class Schedule(NamedTuple):
    """A pipeline to be simulated.

    Attributes:
      chunks: number K of chunks.
      seconds: what each device takes over a chunk, one entry a device.
      transfer: seconds to hand a chunk's outputs on.
    """

    chunks: int
    seconds: tuple[float, ...]
    transfer: float = 0.0


class Simulated(NamedTuple):
    """What a schedule comes to: seconds, how many times faster than one device, and the devices' mean busy part."""

    seconds: float
    speedup: float
    busy: float


def simulate(schedule: Schedule) -> Simulated:
    """Returns what a schedule comes to where devices go from chunk to chunk together, as `lax.ppermute` makes them.

    At tick s device d has chunk s - d, if there is such a chunk; a tick takes as long as the slowest device at work,
    and then outputs are handed on. One device hands nothing on. Equal costs c give ``(K + D - 1) (c + transfer)``.

    Raises:
      ValueError: for no chunks, no devices, or negative seconds.
    """
    chunks, costs, transfer = schedule
    check_size("chunks", chunks)
    check_size("the number of devices", len(costs))
    if min(*costs, transfer) < 0:
        raise ValueError(f"seconds must not be negative, got {min(*costs, transfer)}")
    transfer = transfer if len(costs) > 1 else 0.0
    total = sum(
        max(cost for device, cost in enumerate(costs) if 0 <= tick - device < chunks) + transfer
        for tick in range(chunks + len(costs) - 1)
    )
    work = chunks * sum(costs)
    return Simulated(total, work / total, work / total / len(costs))


def balanced(costs: tuple[float, ...], parts: int) -> tuple[slice, ...]:
    """Returns neighbouring costs in `parts` groups of at least one, the greatest sum of a group being least.

    Raises:
      ValueError: if there are fewer costs than parts.
    """
    if len(costs) < parts:
        raise ValueError(f"{len(costs)} costs cannot be put into {parts} groups")

    def best(last: int, parts: int) -> tuple[float, tuple[slice, ...]]:
        """The greatest sum and the groups of the costs before `last`."""
        if parts == 1:
            return sum(costs[:last]), (slice(0, last),)
        found = []
        for first in range(parts - 1, last):
            greatest, groups = memo[first, parts - 1]
            found.append((max(greatest, sum(costs[first:last])), (*groups, slice(first, last))))
        return min(found, key=lambda choice: choice[0])

    memo: dict[tuple[int, int], tuple[float, tuple[slice, ...]]] = {}
    for count in range(1, parts + 1):
        for last in range(count, len(costs) + 1):
            memo[last, count] = best(last, count)
    return memo[len(costs), parts][1]
