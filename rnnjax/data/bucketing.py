"""Padded widths for sequences of unequal length, chosen so that little of a batch is padding."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from jaxtyping import Int

Widths = tuple[Mapping[str, int], ...]
Lengths = Mapping[str, Int[np.ndarray, " N"]]


def choose_widths(lengths: Lengths, *, most: int, smallest: int, waste: float = 0.1) -> Widths:
    """Returns the widths of buckets for examples that have several sequences each, such as source and target.

    A greedy algorithm: starting from one bucket as wide as the longest sequences, it repeatedly splits in two the
    bucket whose split (by the length of one field) saves the most padding, until less than `waste` of all positions is
    padding. The last bucket fits every example.

    Args:
      lengths: for each field the length of every example.
      most: most buckets; a program is compiled for each.
      smallest: fewest examples in a bucket, usually a batch.
      waste: share of padding at which it stops.
    """
    # [N, fields]; a width is at least 1.
    table = np.stack([np.maximum(values, 1) for values in lengths.values()], axis=1)
    groups, cuts = [table], [_best_cut(table, smallest)]
    while len(groups) < most and _padding(groups) > waste * sum(map(_positions, groups)):
        saved = [_positions(group) - sum(map(_positions, cut)) if cut else 0 for group, cut in zip(groups, cuts)]
        best = int(np.argmax(saved))
        if not saved[best]:
            break
        parts = cuts[best]
        groups[best : best + 1] = parts
        # Cuts of other groups stay the best ones, so that each is looked for once.
        cuts[best : best + 1] = [_best_cut(part, smallest) for part in parts]
    # The widest in all fields is added, since no group may have the longest sequences of all of them.
    widths = {tuple(group.max(0).tolist()) for group in groups} | {tuple(table.max(0).tolist())}
    ordered = sorted(widths, key=lambda width: (sum(width), width))
    return tuple(dict(zip(lengths, width)) for width in _without_small_buckets(table, ordered, smallest))


def assign_buckets(lengths: Lengths, widths: Widths) -> Int[np.ndarray, " N"]:
    """Returns the bucket of every example: the one with the fewest positions in which it fits.

    Raises:
      ValueError: if an example fits in none.
    """
    table = np.stack(list(lengths.values()), axis=1)
    return _assign(table, np.array([[width[name] for name in lengths] for width in widths]))


def padding_waste(lengths: Lengths, widths: Widths) -> float:
    """Returns the share of padding among all positions of all sequences, each padded to the width of its bucket."""
    buckets = assign_buckets(lengths, widths)
    positions = sum(np.array([width[name] for width in widths])[buckets].sum() for name in lengths)
    return 1 - sum(values.sum() for values in lengths.values()) / positions


def _assign(table: np.ndarray, widths: np.ndarray) -> np.ndarray:
    # [N, buckets]
    fits = (table[:, None, :] <= widths[None]).all(-1)
    if not fits.any(-1).all():
        raise ValueError(f"an example of lengths {table[~fits.any(-1)][0].tolist()} fits in no bucket")
    return np.where(fits, widths.sum(-1), np.iinfo(np.int64).max).argmin(-1)


def _without_small_buckets(table: np.ndarray, widths: list[tuple[int, ...]], smallest: int) -> list[tuple[int, ...]]:
    """Returns the widths without those of buckets with too few examples; the widest is never removed."""
    while len(widths) > 1:
        counts = np.bincount(_assign(table, np.array(widths)), minlength=len(widths))
        scarce = int(counts.argmin())
        if counts[scarce] >= smallest:
            break
        if scarce == len(widths) - 1:  # the widest must stay: it takes the examples of its neighbour
            scarce = len(widths) - 2
        widths = widths[:scarce] + widths[scarce + 1 :]
    return widths


def _positions(group: np.ndarray) -> int:
    """Returns the number of positions of a group that is padded to its longest sequences."""
    return int(len(group) * group.max(0).sum())


def _padding(groups: list[np.ndarray]) -> int:
    return sum(_positions(group) - int(group.sum()) for group in groups)


def _best_cut(group: np.ndarray, smallest: int) -> list[np.ndarray]:
    """Returns the two parts of a group with the fewest positions in total; an empty list if it is too small."""
    best, parts = _positions(group), []
    for axis in range(group.shape[1]):
        # Not behind the longest, where nothing is left to be longer.
        for length in np.unique(group[:, axis])[:-1]:
            short = group[:, axis] <= length
            if min(short.sum(), (~short).sum()) < smallest:
                continue
            cut = [group[short], group[~short]]
            positions = sum(map(_positions, cut))
            if positions < best:
                best, parts = positions, cut
    return parts
