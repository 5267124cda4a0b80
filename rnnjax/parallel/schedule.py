"""The schedule of a pipeline: how long it takes, and the number of steps in a chunk for which it is fastest."""

from __future__ import annotations

import math
from typing import NamedTuple

from rnnjax.cells.sizes import check_size


class ChunkCost(NamedTuple):
    """The seconds that a device needs for a chunk of C steps, ``fixed + step * C``."""

    fixed: float
    step: float

    def seconds(self, chunk: int) -> float:
        """Returns the seconds for a chunk of `chunk` steps."""
        return self.fixed + self.step * chunk


TYPICAL = ChunkCost(fixed=1.0, step=1.0)  # in units of a step: only the ratio matters to the choice of a chunk


def pipeline_seconds(length: int, chunk: int, devices: int, cost: ChunkCost) -> float:
    """Returns the seconds that a pipeline takes, ``(K + D - 1) (fixed + step C)`` for K chunks of C steps.

    Args:
      length: number T of steps.
      chunk: number C of steps in a chunk.
      devices: number D of devices.
      cost: of a chunk on each device.
    """
    return (math.ceil(length / chunk) + devices - 1) * cost.seconds(chunk)


def best_chunk(length: int, devices: int, cost: ChunkCost = TYPICAL) -> int:
    """Returns the number of steps in a chunk for which `pipeline_seconds` is smallest.

    The number of chunks is then near ``sqrt((D - 1) T step / fixed)``: with fewer chunks the devices wait longer for
    each other at the beginning and at the end, with more the fixed costs add up.

    Raises:
      ValueError: for a length or a number of devices below 1.
    """
    check_size("length", length)
    check_size("devices", devices)
    # Of all sizes with the same number of chunks the smallest, since the others only add padding.
    chunks = {math.ceil(length / count) for count in range(1, length + 1)}
    # The largest first, so that `min` takes the largest of those that are equally fast.
    return min(sorted(chunks, reverse=True), key=lambda chunk: pipeline_seconds(length, chunk, devices, cost))


def balanced(costs: tuple[float, ...], parts: int) -> tuple[slice, ...]:
    """Divides a sequence of costs into `parts` consecutive, non-empty groups whose greatest sum is smallest.

    By dynamic programming over the number of groups and the number of costs that they have.

    Raises:
      ValueError: if there are fewer costs than parts.
    """
    if len(costs) < parts:
        raise ValueError(f"{len(costs)} costs cannot be put into {parts} groups")

    def best(last: int, parts: int) -> tuple[float, tuple[slice, ...]]:
        """Returns the greatest sum and the groups, for the costs before `last`."""
        if parts == 1:
            return sum(costs[:last]), (slice(0, last),)
        divisions = []
        # From `parts - 1`, so that each group before has a cost at least.
        for first in range(parts - 1, last):
            greatest, groups = memo[first, parts - 1]
            divisions.append((max(greatest, sum(costs[first:last])), (*groups, slice(first, last))))
        return min(divisions, key=lambda division: division[0])

    memo: dict[tuple[int, int], tuple[float, tuple[slice, ...]]] = {}
    # By number of groups, since `best` reads what was found for one group less.
    for count in range(1, parts + 1):
        for last in range(count, len(costs) + 1):
            memo[last, count] = best(last, count)
    return memo[len(costs), parts][1]
