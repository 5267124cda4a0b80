"""Parses whole numbers."""

from __future__ import annotations

import re


def whole_number(text: str) -> int | None:
    """Returns the number that a text of 1 to 18 digits 0 to 9 denotes, which fits 64 bits; None for other text.

    `str.isdigit` also accepts characters such as ``²``, which `int` refuses.
    """
    return int(text) if re.fullmatch("[0-9]{1,18}", text) else None
