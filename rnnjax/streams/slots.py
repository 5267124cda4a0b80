"""Which session has which slot: names on the host, numbers on the device."""

from __future__ import annotations

import itertools
from collections.abc import Hashable, Iterable, Iterator

import numpy as np
from jaxtyping import Bool, Int


class Slots:
    """The names of open sessions and the numbers of their slots.

    Args:
      count: number of slots.
    """

    def __init__(self, count: int):
        self.count = count
        self._of: dict[Hashable, int] = {}
        self._free = list(range(count - 1, -1, -1))
        self._fresh = np.ones(count, bool)
        self._names = itertools.count()

    def __len__(self) -> int:
        return len(self._of)

    def __iter__(self) -> Iterator[Hashable]:
        return iter(self._of)

    def __contains__(self, name: Hashable) -> bool:
        return name in self._of

    def take(self, name: Hashable | None) -> Hashable:
        """Gives a free slot to a session, and returns its name; None takes the next whole number that is no name yet.

        Raises:
          ValueError: for a name that is open, or if all slots are taken.
        """
        if name in self._of:
            raise ValueError(f"session {name!r} is open already; close it first, or take another name")
        if not self._free:
            raise ValueError(f"all {self.count} slots are taken; close a session, or make Sessions with more slots")
        name = next(each for each in self._names if each not in self._of) if name is None else name
        self._of[name] = slot = self._free.pop()
        self._fresh[slot] = True
        return name

    def release(self, name: Hashable) -> None:
        """Frees the slot of a session.

        Raises:
          ValueError: if it is not open.
        """
        slots = self.of([name])
        del self._of[name]
        self._free.append(int(slots[0]))

    def of(self, names: Iterable[Hashable]) -> Int[np.ndarray, " K"]:
        """Returns the slots of sessions.

        Raises:
          ValueError: for one that is not open, or is named twice.
        """
        names = list(names)
        try:
            slots = np.fromiter((self._of[name] for name in names), np.int32, len(names))
        except KeyError:
            missing = next(name for name in names if name not in self._of)
            raise ValueError(f"no session {missing!r} is open; open({missing!r}) begins one") from None
        if len(set(names)) < len(names):
            twice = next(name for place, name in enumerate(names) if name in names[:place])
            raise ValueError(f"session {twice!r} is named twice; a step takes one input of each")
        return slots

    def fresh(self, slots: Int[np.ndarray, " K"]) -> Bool[np.ndarray, " K"]:
        """Returns which slots have taken no step since they were given away."""
        return self._fresh[slots]

    def age(self, slots: Int[np.ndarray, " K"]) -> None:
        """Notes that slots have a state of their own now."""
        self._fresh[slots] = False
