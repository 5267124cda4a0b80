"""Windows of clicks in the order of time, from which the next item is learnt."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from rnnjax.data.clicks import Clicks
from rnnjax.data.dataset import DataSet, content_checksum
from rnnjax.errors import DataError

LENGTH = 5
UNKNOWN = -1


class Windows(NamedTuple):
    """Windows of clicks that follow each other in a session: ``items [N, length]``, ``session [N]``, in the order of
    the sessions' last clicks, and within a session of time."""

    items: np.ndarray
    session: np.ndarray


class ClickData(NamedTuple):
    """The data set, and ``items [V]``: the numbers of its items, those clicked most in training first."""

    data: DataSet
    items: np.ndarray


def make_windows(clicks: Clicks, length: int = LENGTH) -> Windows:
    """Returns every window of `length` clicks, from every session that has as many.

    Raises:
      DataError: if no session has.
    """
    session, item = _in_order(clicks)
    whole = np.flatnonzero(session[length - 1 :] == session[: max(len(session) - length + 1, 0)])
    if not len(whole):
        raise DataError(f"no session has {length} clicks: give a file with longer sessions")
    return Windows(item[whole[:, None] + np.arange(length)], session[whole])


def distinct_windows(windows: Windows) -> Windows:
    """Returns the windows whose items before the last no earlier window has: none contradicts another."""
    _, first = np.unique(windows.items[:, :-1], axis=0, return_index=True)
    kept = np.sort(first)
    return Windows(windows.items[kept], windows.session[kept])


def _in_order(clicks: Clicks) -> tuple[np.ndarray, np.ndarray]:
    """Returns session and item of every click, sessions by the time of their last click, clicks by time."""
    by_session = np.lexsort((clicks.time, clicks.session))  # stable: clicks of one time stay in the file's order
    session, time = clicks.session[by_session], clicks.time[by_session]
    starts = np.flatnonzero(np.r_[True, session[1:] != session[:-1]])
    counts = np.diff(np.r_[starts, len(session)])
    last = np.repeat(time[starts + counts - 1], counts)
    by_end = np.lexsort((session, last))
    return session[by_end], clicks.item[by_session][by_end]


def split_windows(windows: Windows, train: int | None = None) -> dict[str, Windows]:
    """Returns the windows cut by time into `train`, `validation` and `test`, no session in two of them.

    Args:
      windows: the windows.
      train: windows in `train`, a quarter of which validation and test get each; None takes all windows, four fifths
        of them for `train`.

    Raises:
      DataError: if there are not enough.
    """
    total = len(windows.session)
    sizes = (total * 4 // 5, total // 10, total) if train is None else (train, train // 4, train // 4)
    splits, start = {}, 0
    for name, size in zip(("train", "validation", "test"), sizes):
        end = _session_end(windows.session, start + size)
        kept = slice(start, end if train is None else min(start + size, end))
        splits[name] = Windows(windows.items[kept], windows.session[kept])
        short = len(splits[name].session) < (1 if train is None else max(size, 1))
        if short:
            raise DataError(f"{total} windows of clicks are too few for a {name} split: give a larger file")
        start = end
    return splits


def _session_end(session: np.ndarray, at: int) -> int:
    """Returns the first place from `at` on where a session ends."""
    if at >= len(session):
        return len(session)
    other = np.flatnonzero(session[at:] != session[at - 1])
    return at + int(other[0]) if len(other) else len(session)


def click_data(name: str, source: str, splits: dict[str, Windows]) -> ClickData:
    """Returns the windows as fields ``items [N, 4]``, ``next [N]`` and ``session [N]``, all int32.

    Items are numbered by their clicks in the training split, the most frequent 0; one that is not there is `UNKNOWN`.
    Sessions are numbered within their split.
    """
    numbers, counts = np.unique(splits["train"].items, return_counts=True)
    items = numbers[np.lexsort((numbers, -counts))]
    arrays = {split: _fields(windows, items) for split, windows in splits.items()}
    return ClickData(DataSet(name, arrays, source, content_checksum(arrays)), items)


def _fields(windows: Windows, items: np.ndarray) -> dict[str, np.ndarray]:
    ids = item_ids(windows.items, items)
    session = np.cumsum(np.r_[False, windows.session[1:] != windows.session[:-1]]).astype(np.int32)
    return {"items": ids[:, :-1], "next": ids[:, -1], "session": session}


def item_ids(numbers: np.ndarray, items: np.ndarray) -> np.ndarray:
    """Returns the places of item numbers in `items [V]` as int32, `UNKNOWN` for those that are not there."""
    order = np.argsort(items)
    place = np.searchsorted(items, numbers, sorter=order).clip(max=len(items) - 1)
    ids = order[place]
    return np.where(items[ids] == numbers, ids, UNKNOWN).astype(np.int32)
