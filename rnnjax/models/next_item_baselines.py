"""What a next-item model must beat: recommendations that only count, and how good a list of them is."""

from __future__ import annotations

from collections import Counter, defaultdict

import numpy as np
from jaxtyping import Int


def popular_items(items: Int[np.ndarray, "N T"], size: int) -> Int[np.ndarray, "N size"]:
    """Returns the most clicked items for everyone, where items are numbered from the most clicked on."""
    return np.tile(np.arange(size), (len(items), 1))


def items_again(items: Int[np.ndarray, "N T"], size: int) -> Int[np.ndarray, "N size"]:
    """Returns the items of each window, the last first, and after them the most clicked."""
    return np.array([_filled(dict.fromkeys(window[::-1]), size) for window in items.tolist()])


class Successors:
    """The most frequent successors of the last item, and after them the most clicked items.

    Args:
      items: training windows ``[N, T]``, in the order of time within a session.
      following: the item after each, ``[N]``.
      session: the session of each, ``[N]``; windows of one session overlap, and each of its steps is counted once.
    """

    def __init__(self, items: Int[np.ndarray, "N T"], following: Int[np.ndarray, " N"], session: Int[np.ndarray, " N"]):
        first = np.r_[True, session[1:] != session[:-1]]
        inner = items[first]
        before = np.r_[inner[:, :-1].ravel(), items[:, -1]]
        after = np.r_[inner[:, 1:].ravel(), following]
        self._counts: defaultdict[int, Counter[int]] = defaultdict(Counter)
        for a, b in zip(before.tolist(), after.tolist()):
            self._counts[a][b] += 1

    def __call__(self, items: Int[np.ndarray, "N T"], size: int) -> Int[np.ndarray, "N size"]:
        """Returns recommendations for windows."""
        lists = {last: self._after(last, size) for last in set(items[:, -1].tolist())}
        return np.array([lists[last] for last in items[:, -1].tolist()])

    def _after(self, last: int, size: int) -> list[int]:
        counts = self._counts.get(last, Counter())
        return _filled(dict.fromkeys(sorted(counts, key=lambda item: (-counts[item], item))), size)


def _filled(chosen: dict[int, None], size: int) -> list[int]:
    """Returns the known ones of the chosen items, and the most clicked of the others, `size` in all."""
    kept = [item for item in chosen if item >= 0][:size]
    others = (item for item in range(size + len(kept)) if item not in chosen)
    return kept + [next(others) for _ in range(size - len(kept))]


def recall_and_mrr(lists: Int[np.ndarray, "N K"], following: Int[np.ndarray, " N"]) -> tuple[float, float]:
    """Returns recall@K, the share of next items that are in their list, and MRR@K, the mean of 1 over their place in
    it, 0 where they are not (Hidasi et al., 2016). An unknown item, -1, is in no list."""
    hits = (lists == following[:, None]) & (following[:, None] >= 0)
    reciprocal = hits / np.arange(1, lists.shape[1] + 1)
    return float(hits.any(1).mean()), float(reciprocal.sum(1).mean())
