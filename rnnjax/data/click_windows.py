"""Windows of clicks in temporal order, for predicting the next item."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from rnnjax.data.clicks import Clicks
from rnnjax.data.dataset import DataSet, content_checksum
from rnnjax.errors import DataError

LENGTH = 5
UNKNOWN = -1


class Windows(NamedTuple):
    """Windows of consecutive clicks in a session: ``items [N, length]``, ``session [N]``.

    They are ordered by the time of the session's last click, and within a session by time.
    """

    items: np.ndarray
    session: np.ndarray


class ClickData(NamedTuple):
    """The data set, and the numbers of its items ``[V]``, by descending number of clicks in training."""

    data: DataSet
    items: np.ndarray


def make_windows(clicks: Clicks, length: int = LENGTH) -> Windows:
    """Returns all windows of `length` clicks in all sessions that are long enough.

    Raises:
      DataError: if no session is long enough.
    """
    session, item = _in_order(clicks)
    whole = np.flatnonzero(session[length - 1 :] == session[: max(len(session) - length + 1, 0)])
    if not len(whole):
        raise DataError(f"no session has {length} clicks: give a file with longer sessions")
    return Windows(item[whole[:, None] + np.arange(length)], session[whole])


def distinct_windows(windows: Windows) -> Windows:
    """Returns the windows without those whose items before the last one occur in an earlier window, too."""
    _, first = np.unique(windows.items[:, :-1], axis=0, return_index=True)
    indices = np.sort(first)
    return Windows(windows.items[indices], windows.session[indices])


def _in_order(clicks: Clicks) -> tuple[np.ndarray, np.ndarray]:
    """Returns session and item of every click, ordered by the time of the session's last click, then by time."""
    by_session = np.lexsort((clicks.time, clicks.session))  # stable: clicks of the same time keep the order of the file
    session, time = clicks.session[by_session], clicks.time[by_session]
    starts = np.flatnonzero(np.r_[True, session[1:] != session[:-1]])
    counts = np.diff(np.r_[starts, len(session)])
    last = np.repeat(time[starts + counts - 1], counts)
    by_end = np.lexsort((session, last))
    return session[by_end], clicks.item[by_session][by_end]


def split_windows(windows: Windows, train: int | None = None) -> dict[str, Windows]:
    """Splits windows by time into `train`, `validation` and `test`; no session is in two of them.

    Args:
      windows: the windows.
      train: number of windows in `train`; validation and test have a quarter as many each. None uses all windows, four
        fifths of them for `train`.

    Raises:
      DataError: if there are not enough.
    """
    total = len(windows.session)
    sizes = (total * 4 // 5, total // 10, total) if train is None else (train, train // 4, train // 4)
    splits, start = {}, 0
    for name, size in zip(("train", "validation", "test"), sizes):
        end = _session_end(windows.session, start + size)
        rows = slice(start, end if train is None else min(start + size, end))
        splits[name] = Windows(windows.items[rows], windows.session[rows])
        short = len(splits[name].session) < (1 if train is None else max(size, 1))
        if short:
            raise DataError(f"{total} windows of clicks are too few for a {name} split: give a larger file")
        start = end
    return splits


def _session_end(session: np.ndarray, at: int) -> int:
    """Returns the first position from `at` on at which a session ends."""
    if at >= len(session):
        return len(session)
    other = np.flatnonzero(session[at:] != session[at - 1])
    return at + int(other[0]) if len(other) else len(session)


def click_data(name: str, source: str, splits: dict[str, Windows], items: np.ndarray | None = None) -> ClickData:
    """Returns the windows as fields ``items [N, 4]``, ``next [N]`` and ``session [N]``, all int32.

    Items are numbered by descending number of clicks in the training split; an item that does not occur there is
    `UNKNOWN`. Sessions are numbered within their split.

    Args:
      name: of the data set.
      source: of the clicks.
      splits: the windows.
      items: if given, the items by number in place of those of the training split.
    """
    if items is None:
        numbers, counts = np.unique(splits["train"].items, return_counts=True)
        items = numbers[np.lexsort((numbers, -counts))]
    arrays = {split: _fields(windows, items) for split, windows in splits.items()}
    return ClickData(DataSet(name, arrays, source, content_checksum(arrays)), items)


def _fields(windows: Windows, items: np.ndarray) -> dict[str, np.ndarray]:
    ids = item_ids(windows.items, items)
    session = np.cumsum(np.r_[False, windows.session[1:] != windows.session[:-1]]).astype(np.int32)
    return {"items": ids[:, :-1], "next": ids[:, -1], "session": session}


def item_ids(numbers: np.ndarray, items: np.ndarray) -> np.ndarray:
    """Returns the indices of item numbers in `items [V]` as int32, `UNKNOWN` for those that are not in it."""
    order = np.argsort(items)
    positions = np.searchsorted(items, numbers, sorter=order).clip(max=len(items) - 1)
    ids = order[positions]
    return np.where(items[ids] == numbers, ids, UNKNOWN).astype(np.int32)
