"""Chooses how many steps a call takes, so that no call takes much longer than a given time."""

from __future__ import annotations

import math
from typing import NamedTuple

import jax

from rnnjax.parallel.distributed import maximum_over_processes

_GROWTH = 8  # of a call over the longest one measured: not all steps take the same time


class Pace(NamedTuple):
    """What is known about the time that a step takes.

    Attributes:
      bound: about how many seconds a call may take; 0 for no limit.
      step: seconds per step, as last measured; 0 if unknown.
      longest: steps in the longest call measured so far.
    """

    bound: float
    step: float = 0.0
    longest: int = 0

    def count(self, available: int) -> int:
        """Returns how many of at most `available` steps the next call takes: 1 if no step was measured yet."""
        if not self.bound:
            return available
        if not self.longest:
            return 1
        if available * self.step > self.bound:
            available = max(1, int(self.bound / self.step))
        return min(available, _GROWTH * self.longest)

    def after(self, count: int, seconds: float) -> Pace:
        """Returns the pace after a call of `count` steps that took `seconds`; all processes must call this alike.

        The slowest of them decides: each call has collectives, so that all must take the same number of steps.
        """
        return Pace(self.bound, _longest_of_processes(seconds) / count, max(self.longest, count))


def _longest_of_processes(seconds: float) -> float:
    """Returns the largest number of seconds of any process of the run, in microseconds; all must call this."""
    if jax.process_count() == 1:
        return seconds
    # Whole numbers of 32 bits, since that is what processes exchange.
    microseconds = min(math.ceil(1e6 * seconds), 2**31 - 1)
    return (maximum_over_processes(microseconds) or 0) / 1e6
