"""Numbers that users write."""

from __future__ import annotations

import re


def whole_number(text: str) -> int | None:
    """Returns the number that up to 18 of the digits 0 to 9 stand for, so that it fits 64 bits; None for other text.

    `str.isdigit` is true of more, such as ``²``, which `int` refuses.
    """
    return int(text) if re.fullmatch("[0-9]{1,18}", text) else None
