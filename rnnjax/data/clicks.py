"""Clicks of a shop's visitors, read from the files of the RecSys 2015 challenge or generated."""

from __future__ import annotations

import re
from array import array
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import numpy as np

from rnnjax.data.files import readable
from rnnjax.data.locate import OTHER_SOURCES, locate
from rnnjax.errors import DataError


class Clicks(NamedTuple):
    """Clicks in any order: ``session [N]`` int64, ``time [N]`` float64, seconds since 1970, and ``item [N]`` int64."""

    session: np.ndarray
    time: np.ndarray
    item: np.ndarray


_CHALLENGE = "yoochoose-clicks.dat"
_NO_HEADER = ("session", "time", "item", "category")
_NAMES = {
    "session": "session",
    "sessionid": "session",
    "timestamp": "time",
    "time": "time",
    "item": "item",
    "itemid": "item",
}
_PATTERNS = ["yoochoose-clicks*.dat", "yoochoose-clicks*.txt", "yoochoose-clicks*.csv"]
_ADVICE = f"get the clicks of the RecSys 2015 challenge, {OTHER_SOURCES}"
_OWN_ADVICE = "give the file itself as --config.data.path, or rows of items as NAME_x.txt and NAME_y.txt"


def find_click_files(path: str | None = None, *, own: bool = False) -> list[Path]:
    """Returns the files of clicks: `path` itself, or those that `locate` finds.

    If the complete data `yoochoose-clicks.dat` is there, samples of it in the same folder are ignored.

    Args:
      path: a file or a folder, if one is named.
      own: whether the clicks are your own, for which nothing else can be taken.

    Raises:
      DataError: if there are none.
    """
    place = locate(path, "yoochoose", _PATTERNS, any_file=True, advice=_OWN_ADVICE if own else _ADVICE)
    return [file for file in place.files if file.name == _CHALLENGE] or sorted(place.files)


def read_clicks(files: Sequence[Path]) -> Clicks:
    """Returns the clicks of all files.

    A line is ``session,timestamp,item,category``, separated by commas or tabs, or has the columns that the first line
    names (`SessionId`, `ItemId`, `Time`; other columns are ignored). Sessions and items are whole numbers, times are
    seconds since 1970 or ISO 8601 (``2014-04-07T10:51:09.277Z``, in UTC unless a time zone is given).

    Raises:
      DataError: for a file that cannot be read or has no clicks, or a line of another format.
    """
    session, time, item = array("q"), array("d"), array("q")
    for file in files:
        before = len(session)
        for click in _read_file(file):
            session.append(click[0])
            time.append(click[1])
            item.append(click[2])
        if len(session) == before:
            raise DataError(f"{file} holds no clicks: give a file that does")
    return Clicks(np.array(session, np.int64), np.array(time, np.float64), np.array(item, np.int64))


def _read_file(file: Path) -> Iterator[tuple[int, float, int]]:
    """Yields session, time and item of each line."""
    parse, number = None, 0
    try:
        with readable(file, copies=1).open(encoding="utf-8", errors="replace") as lines:
            for line in lines:
                number += 1
                if not line.strip():
                    continue
                if parse is None:
                    parse, header = _line_parser(line)
                    if header:
                        continue
                yield parse(line)
    except OSError as error:
        raise DataError(f"{file} cannot be read ({error.strerror}): make it readable") from error
    except (ValueError, OverflowError) as error:
        raise DataError(f"{file}, line {number}: {error}; correct or remove the line") from error


def _line_parser(first: str) -> tuple[Callable[[str], tuple[int, float, int]], bool]:
    """Returns a function that parses lines of a file with this first line, and whether that line is a header."""
    separator = "\t" if "\t" in first else ","
    # Without quotes, and the mark that some programs begin a file with.
    names = [name.strip().strip('\ufeff"').lower() for name in first.split(separator)]
    header = not re.fullmatch(r"-?\d+", names[0])
    columns = [_NAMES.get(name, name) for name in names] if header else list(_NO_HEADER)
    missing = [name for name in ("session", "time", "item") if name not in columns]
    if missing:
        raise ValueError(
            f"the first line is neither a click nor a header that names session, time and item: {_short(first)}"
        )
    session, time, item = (columns.index(name) for name in ("session", "time", "item"))

    def parse(line: str) -> tuple[int, float, int]:
        fields = line.rstrip("\r\n").split(separator)
        if len(fields) != len(columns):
            raise ValueError(f"{len(columns)} columns are expected, and there are {len(fields)}: {_short(line)}")
        return _whole(fields[session], "session"), _seconds(fields[time]), _whole(fields[item], "item")

    return parse, header


def _whole(text: str, name: str) -> int:
    try:
        value = int(text)
    except ValueError:
        raise ValueError(f"the {name} must be a whole number, not {_short(text)}, so number them all") from None
    if not -(2**63) <= value < 2**63:
        raise ValueError(f"the {name} {value} does not fit 64 bits")
    return value


def _seconds(text: str) -> float:
    # What is tried first is what it most likely is: a failure costs as much as the rest of a line.
    for parse in (_iso_seconds, float) if ":" in text else (float, _iso_seconds):
        try:
            seconds = parse(text.strip())
        except ValueError:
            continue
        if np.isfinite(seconds):
            return seconds
    raise ValueError(f"the time must be seconds or like 2014-04-07T10:51:09.277Z, not {_short(text)}")


def _iso_seconds(text: str) -> float:
    time = datetime.fromisoformat(text)
    # Otherwise Python would take the machine's own time zone.
    return (time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp()


def _short(text: str) -> str:
    text = text.strip()
    return repr(text if len(text) <= 60 else f"{text[:60]}...")


def markov_clicks(sessions: int = 6000, items: int = 100, successors: int = 4, seed: int = 0) -> Clicks:
    """Generates sessions from a second-order Markov chain, in which the last two items determine the next one.

    An item has `successors` possible successors. With probability 0.8, the item before it chooses among them by its
    number modulo `successors`; otherwise the next item is any. So the last item alone predicts the next one in about
    one case in `successors`. Sessions have 5 to 10 clicks.

    Args:
      sessions: number of sessions.
      items: number of items.
      successors: number of successors of an item.
      seed: of the generator.
    """
    rng = np.random.default_rng(seed)
    # [items, successors]
    leads_to = np.stack([rng.choice(items, successors, replace=False) for _ in range(items)])
    lengths = rng.integers(5, 11, sessions)
    chain = np.empty((sessions, lengths.max()), np.int64)
    chain[:, :2] = rng.integers(items, size=(sessions, 2))
    for t in range(2, chain.shape[1]):
        # All chains at once, as long as the longest; what is beyond a session's length is left out below.
        follows = leads_to[chain[:, t - 1], chain[:, t - 2] % successors]
        chain[:, t] = np.where(rng.random(sessions) < 0.8, follows, rng.integers(items, size=sessions))
    session, click = np.nonzero(np.arange(chain.shape[1]) < lengths[:, None])
    # An hour from session to session, longer than any takes: none overlaps the next.
    return Clicks(session, session * 3600.0 + click * 60.0, chain[session, click])
