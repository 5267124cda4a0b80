"""How a pipeline runs: the greatest speed-up that it allows, and a simulation of devices in lockstep."""

from __future__ import annotations

from typing import NamedTuple

from rnnjax.cells.sizes import check_size


def bound(chunks: int, devices: int) -> float:
    """Returns the greatest speed-up of D devices over one, ``D K / (K + D - 1)`` for K chunks."""
    return devices * chunks / (chunks + devices - 1)


class Schedule(NamedTuple):
    """A pipeline whose run time is to be simulated.

    Attributes:
      chunks: number K of chunks.
      seconds: for each device, the seconds that it needs for a chunk.
      transfer: seconds to send a chunk's outputs to the next device.
    """

    chunks: int
    seconds: tuple[float, ...]
    transfer: float = 0.0


class Simulated(NamedTuple):
    """The result of a simulation: seconds, speed-up over one device, and the mean share of time devices are busy."""

    seconds: float
    speedup: float
    busy: float


def simulate(schedule: Schedule) -> Simulated:
    """Returns how a schedule runs if the devices advance in lockstep, as `lax.ppermute` makes them.

    At tick s device d has chunk s - d, if there is one. A tick takes as long as the slowest busy device, and then
    outputs are sent, unless there is only one device. Equal costs c give ``(K + D - 1) (c + transfer)``.

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
    speedup = chunks * sum(costs) / total
    return Simulated(total, speedup, speedup / len(costs))
