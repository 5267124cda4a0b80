"""What splitting time over many devices would gain, by a model with measured costs: a simulation, no measurement.

A sequence of T steps takes ``T c`` on one device. On D devices each takes its ``T / D`` steps, computes in addition
what they do to a state before them, which costs a share `extra` of its work, and all gather the D results, in g
collectives of S bytes from each device in all:

    T c (1 + extra) / D + g latency log2(D) + D S / bandwidth

A linear cell has one collective forward, two with the gradient. A diagonal one is solved by Newton's method, which has
some for each iteration.
"""

from __future__ import annotations

import math
from typing import NamedTuple


class Costs(NamedTuple):
    """What the model is told.

    Attributes:
      step_seconds: c, of one step of a batch on one device.
      extra: the share of its work that a device does for the others.
      collectives: g.
      sent_bytes: S, that every device sends in all of them.
      latency: seconds of one message between devices.
      bandwidth: bytes a second that a device receives.
    """

    step_seconds: float
    extra: float
    collectives: int
    sent_bytes: int
    latency: float
    bandwidth: float


class Simulated(NamedTuple):
    """What the model says of a number of devices; `gain` is the time of one device over theirs."""

    devices: int
    steps: int
    seconds: float
    gain: float
    share: float


def simulate(costs: Costs, devices: int, steps: int) -> Simulated:
    """Returns the time that a sequence takes on some devices, and what of their number it gains."""
    alone = steps * costs.step_seconds
    if devices == 1:
        return Simulated(1, steps, alone, 1.0, 1.0)
    messages = costs.collectives * costs.latency * math.ceil(math.log2(devices))
    seconds = alone * (1 + costs.extra) / devices + messages + devices * costs.sent_bytes / costs.bandwidth
    return Simulated(devices, steps, seconds, alone / seconds, alone / seconds / devices)


def extra_work(alone_seconds: float, split_seconds: float, devices: int) -> float:
    """Returns the share of work that a split was measured to add, all else that it costs included; zero at least."""
    return max(0.0, split_seconds * devices / alone_seconds - 1)
