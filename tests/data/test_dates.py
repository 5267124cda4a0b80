import datetime
import re

import pytest

from rnnjax.data.dates import LANGUAGES, generate_dates

SIZES = {"train": 400, "validation": 50, "test": 60}


def test_dates_are_a_function_of_sizes_and_seed():
    assert generate_dates(SIZES, 0) == generate_dates(SIZES, 0)
    assert generate_dates(SIZES, 0) != generate_dates(SIZES, 1)


def test_each_split_has_its_size_and_days_that_no_other_has():
    pairs = generate_dates(SIZES, 0)
    assert {split: len(part) for split, part in pairs.items()} == SIZES
    days = [{iso for _, iso in part} for part in pairs.values()]
    assert not days[0] & days[1] | days[0] & days[2] | days[1] & days[2]


def test_targets_are_iso_dates_of_these_hundred_years():
    for part in generate_dates(SIZES, 3).values():
        for _, iso in part:
            assert 1950 <= datetime.date.fromisoformat(iso).year <= 2049


@pytest.mark.parametrize(
    ("language", "expected"),
    {
        "English": "Sunday, March 3rd, 2019",
        "French": "dimanche 3 mars 2019",
        "German": "Sonntag, 3. März 2019",
        "Spanish": "domingo, 3 de marzo de 2019",
        "Korean": "2019년 3월 3일 일요일",
    }.items(),
)
def test_every_language_writes_dates_its_own_way(language, expected):
    assert expected in LANGUAGES[language](datetime.date(2019, 3, 3))


def test_no_text_has_two_readings():
    read = {}
    first = datetime.date(1950, 1, 1)
    for day in range(0, 36525, 7):
        date = first + datetime.timedelta(days=day)
        for write in LANGUAGES.values():
            for text in write(date):
                assert read.setdefault(text.lower(), date) == date
                assert re.search(r"\d", text)
