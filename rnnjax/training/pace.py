"""How many steps a call takes, so that none takes much longer than a number of seconds."""

from __future__ import annotations

from typing import NamedTuple

_GROWTH = 8  # of a call over the longest that was measured: steps need not all take the same time


class Pace(NamedTuple):
    """What is known of the time of a step.

    Attributes:
      bound: seconds that a call may take, about; 0 for any time.
      step: seconds of a step, as they were last measured; 0 where they are not known.
      longest: steps in the longest call that was measured.
    """

    bound: float
    step: float = 0.0
    longest: int = 0

    def count(self, room: int) -> int:
        """Returns how many of at most `room` steps the next call takes: 1 where no step was measured."""
        if not self.bound:
            return room
        if not self.longest:
            return 1
        fits = room if room * self.step <= self.bound else max(1, int(self.bound / self.step))
        return min(fits, _GROWTH * self.longest)

    def after(self, count: int, seconds: float) -> Pace:
        """Returns what is known after a call of `count` steps that took so many seconds."""
        return Pace(self.bound, seconds / count, max(self.longest, count))
