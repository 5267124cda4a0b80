"""Pairs of a date as written in one of five languages, and in ISO 8601."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Mapping

import numpy as np

Pair = tuple[str, str]

_FIRST, _LAST = datetime.date(1950, 1, 1), datetime.date(2049, 12, 31)

_MONTHS = {
    language: names.split()
    for language, names in {
        "English": "January February March April May June July August September October November December",
        "French": "janvier février mars avril mai juin juillet août septembre octobre novembre décembre",
        "German": "Januar Februar März April Mai Juni Juli August September Oktober November Dezember",
        "Spanish": "enero febrero marzo abril mayo junio julio agosto septiembre octubre noviembre diciembre",
    }.items()
}
_DAYS = {
    language: names.split()
    for language, names in {
        "English": "Monday Tuesday Wednesday Thursday Friday Saturday Sunday",
        "French": "lundi mardi mercredi jeudi vendredi samedi dimanche",
        "German": "Montag Dienstag Mittwoch Donnerstag Freitag Samstag Sonntag",
        "Spanish": "lunes martes miércoles jueves viernes sábado domingo",
        "Korean": "월 화 수 목 금 토 일",
    }.items()
}


def _ordinal(day: int) -> str:
    # 11th, 12th and 13th, but 21st, 22nd and 23rd.
    ending = "th" if 10 <= day % 100 <= 20 else {1: "st", 2: "nd", 3: "rd"}.get(day % 10, "th")
    return f"{day}{ending}"


def _first_day(day: int) -> str:
    return "1er" if day == 1 else str(day)


def _english(d: datetime.date) -> list[str]:
    month, weekday = _MONTHS["English"][d.month - 1], _DAYS["English"][d.weekday()]
    return [
        f"{d.day} {month} {d.year}",
        f"{month} {d.day}, {d.year}",
        f"{weekday}, {month} {_ordinal(d.day)}, {d.year}",
        f"the {_ordinal(d.day)} of {month} {d.year}",
        f"{d.day} {month[:3]} '{d.year % 100:02}",
        f"{weekday[:3]} {d.day} {month[:3]} {d.year}",
    ]


def _french(d: datetime.date) -> list[str]:
    month, weekday = _MONTHS["French"][d.month - 1], _DAYS["French"][d.weekday()]
    return [
        f"{_first_day(d.day)} {month} {d.year}",
        f"le {_first_day(d.day)} {month} {d.year}",
        f"{weekday} {_first_day(d.day)} {month} {d.year}",
        f"{d.day:02}/{d.month:02}/{d.year}",
    ]


def _german(d: datetime.date) -> list[str]:
    month, weekday = _MONTHS["German"][d.month - 1], _DAYS["German"][d.weekday()]
    return [
        f"{d.day}. {month} {d.year}",
        f"{weekday}, {d.day}. {month} {d.year}",
        f"{d.day:02}.{d.month:02}.{d.year}",
        f"{d.day}.{d.month}.{d.year % 100:02}",
    ]


def _spanish(d: datetime.date) -> list[str]:
    month, weekday = _MONTHS["Spanish"][d.month - 1], _DAYS["Spanish"][d.weekday()]
    return [
        f"{d.day} de {month} de {d.year}",
        f"{weekday}, {d.day} de {month} de {d.year}",
        f"{d.day} {month} {d.year}",
        f"{d.day}-{d.month}-{d.year}",
    ]


def _korean(d: datetime.date) -> list[str]:
    weekday = _DAYS["Korean"][d.weekday()]
    return [
        f"{d.year}년 {d.month}월 {d.day}일",
        f"{d.year}년 {d.month}월 {d.day}일 {weekday}요일",
        f"{d.year}. {d.month}. {d.day}.",
        f"{d.year % 100:02}년 {d.month}월 {d.day}일",
    ]


LANGUAGES: Mapping[str, Callable[[datetime.date], list[str]]] = {
    "English": _english,
    "French": _french,
    "German": _german,
    "Spanish": _spanish,
    "Korean": _korean,
}


def generate_dates(sizes: Mapping[str, int], seed: int) -> dict[str, list[Pair]]:
    """Returns pairs of a written date and its ISO form for each split, determined by sizes and seed.

    Languages are equally frequent, and so are the formats of each; a third of the dates is in lower case. The days,
    from 1950 to 2049, of one split occur in no other. Every date has a single reading: numeric forms begin with the
    day, Korean ones with the year, and years of two digits are within these hundred.

    Raises:
      ValueError: if there are more splits than days.
    """
    rng = np.random.default_rng(seed)
    days = rng.permutation((_LAST - _FIRST).days + 1)
    total = sum(sizes.values())
    # At least a day for each split, however small; the last one takes what rounding leaves.
    ends = np.cumsum([max(1, round(len(days) * size / total)) for size in sizes.values()])
    if len(sizes) > len(days):
        raise ValueError(f"there are {len(days)} days for {len(sizes)} splits; ask for fewer")
    parts = np.split(days, ends[:-1])
    return {
        split: [_pair(rng, int(day)) for day in rng.choice(part, size)]
        for (split, size), part in zip(sizes.items(), parts)
    }


def _pair(rng: np.random.Generator, day: int) -> Pair:
    date = _FIRST + datetime.timedelta(days=day)
    formats = list(LANGUAGES.values())[rng.integers(len(LANGUAGES))](date)
    text = formats[rng.integers(len(formats))]
    return text.lower() if rng.random() < 1 / 3 else text, date.isoformat()
