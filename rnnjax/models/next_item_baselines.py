"""Baselines for next-item models, which only count clicks, and the metrics of recommendations."""

from __future__ import annotations

from collections import Counter, defaultdict

import numpy as np
from jaxtyping import Int


def popular_items(items: Int[np.ndarray, "N T"], size: int) -> Int[np.ndarray, "N size"]:
    """Returns the most clicked items for every window; items are numbered by their clicks, the most clicked is 0."""
    return np.tile(np.arange(size), (len(items), 1))


def items_again(items: Int[np.ndarray, "N T"], size: int) -> Int[np.ndarray, "N size"]:
    """Returns the items of each window, the last one first, followed by the most clicked items."""
    return np.array([_filled(dict.fromkeys(window[::-1]), size) for window in items.tolist()])


class Successors:
    """The most frequent successors of the last item, followed by the most clicked items.

    Args:
      items: training windows ``[N, T]``, in the order of time within a session.
      following: the item after each window, ``[N]``.
      session: the session of each window, ``[N]``. Windows of one session overlap; each step is counted once.
    """

    def __init__(self, items: Int[np.ndarray, "N T"], following: Int[np.ndarray, " N"], session: Int[np.ndarray, " N"]):
        # Windows of a session overlap in all items but one: all steps of its first window count, of others the last.
        first = np.r_[True, session[1:] != session[:-1]]
        inner = items[first]
        before = np.r_[inner[:, :-1].ravel(), items[:, -1]]
        after = np.r_[inner[:, 1:].ravel(), following]
        self._counts: defaultdict[int, Counter[int]] = defaultdict(Counter)
        for a, b in zip(before.tolist(), after.tolist()):
            self._counts[a][b] += 1

    def __call__(self, items: Int[np.ndarray, "N T"], size: int) -> Int[np.ndarray, "N size"]:
        """Returns `size` recommendations for each window."""
        lists = {last: self._after(last, size) for last in set(items[:, -1].tolist())}
        return np.array([lists[last] for last in items[:, -1].tolist()])

    def _after(self, last: int, size: int) -> list[int]:
        counts = self._counts.get(last, Counter())
        return _filled(dict.fromkeys(sorted(counts, key=lambda item: (-counts[item], item))), size)


def _filled(first: dict[int, None], size: int) -> list[int]:
    """Returns `size` items: those of `first` that are known (not negative), then the most clicked of the others."""
    known = [item for item in first if item >= 0][:size]
    # Enough of them: no more than those that are known are left out.
    others = (item for item in range(size + len(known)) if item not in first)
    return known + [next(others) for _ in range(size - len(known))]


def recall_and_mrr(lists: Int[np.ndarray, "N K"], following: Int[np.ndarray, " N"]) -> tuple[float, float]:
    """Returns recall@K and MRR@K of recommendations (Hidasi et al., 2016).

    Recall is the share of next items that are in their list; MRR is the mean of 1 over their rank, or 0 for those that
    are not. An unknown next item, -1, is in no list.
    """
    hits = (lists == following[:, None]) & (following[:, None] >= 0)
    reciprocal = hits / np.arange(1, lists.shape[1] + 1)
    return float(hits.any(1).mean()), float(reciprocal.sum(1).mean())
