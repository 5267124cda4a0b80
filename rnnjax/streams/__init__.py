"""Many sequences of different ages, each a step at a time, in one batch."""

from rnnjax.streams.sessions import Sessions

__all__ = ["Sessions"]
