"""A series of one's own: what is read, what windows hold, and that no window or scale has anything of another split."""

import numpy as np
import pytest

from rnnjax.data.own.baselines import likely_season, seasonal_forecast
from rnnjax.data.own.series import Wanted, load_series
from rnnjax.data.own.windows import SeriesReading, Sizes, read_windows, traced_windows
from rnnjax.errors import DataError

SIZES = Sizes(window=4, horizon=2, stride=1, validation=0.2, test=0.2)
PLAIN = Wanted(scale=False, relative=False, season=1)


def series(values, header="date,a,b"):
    days = [f"2024-01-{day:02d}" for day in range(1, 32)] + [f"2024-02-{day:02d}" for day in range(1, 29)]
    lines = [",".join([day, *map(str, row)]) for day, row in zip(days, values)]
    return "\n".join([header, *lines]) + "\n"


COUNT = series([(t, 100 - t) for t in range(50)])


@pytest.fixture
def load(tmp_path):
    def loaded(text, wanted=PLAIN, sizes=SIZES, reading=None):
        (tmp_path / "series.csv").write_text(text)
        return load_series(str(tmp_path / "series.csv"), wanted, sizes, reading)

    return loaded


def test_windows_are_of_one_split_each_and_targets_follow_them(load):
    splits = load(COUNT).data.splits
    spans = {"train": (0, 30), "validation": (30, 40), "test": (40, 50)}
    for split, (first, end) in spans.items():
        fields = splits[split]
        starts = np.arange(first, end - 5)
        np.testing.assert_array_equal(fields["inputs"][..., 0], starts[:, None] + np.arange(4))
        np.testing.assert_array_equal(fields["following"][..., 0], starts[:, None] + 4 + np.arange(2))
        np.testing.assert_array_equal(fields["following"][..., 1], 96 - starts[:, None] - np.arange(2))
        np.testing.assert_array_equal(fields["last"], np.stack([starts + 3, 97 - starts], 1))
        assert fields["counted"].all()
        assert "mask" not in fields
    strided = load(COUNT, sizes=SIZES._replace(stride=5)).data.splits
    assert [len(strided[split]["last"]) for split in spans] == [5, 5, 5]


def test_scaling_is_of_training_alone_and_levels_can_be_taken_away(load):
    own = load(COUNT, Wanted(season=1))
    scaling = own.reading.scaling
    np.testing.assert_allclose([scaling.mean, scaling.scale], [(14.5, 85.5), (np.std(np.arange(30)),) * 2])
    test = own.data.splits["test"]
    np.testing.assert_allclose(test["inputs"][..., 0] * scaling.scale[0], [[-3, -2, -1, 0]] * 5, atol=1e-5)
    np.testing.assert_allclose(own.reading.unscaled(test["last"])[:, 0], np.arange(43, 48), rtol=1e-5)


def test_only_columns_that_are_chosen_are_read_and_forecast(load):
    own = load(COUNT, PLAIN._replace(features=("b", "a"), targets=("a",)))
    assert (own.reading.scaling.names, own.reading.names) == (("b", "a"), ["a"])
    np.testing.assert_array_equal(own.data.splits["train"]["following"][0], [[4], [5]])


def test_missing_values_are_no_targets_and_missing_steps_are_no_inputs(load):
    rows = [(t, 100 - t) for t in range(50)]
    rows[3], rows[5] = ("", ""), ("", 95)
    own = load(series(rows), PLAIN._replace(relative=True))
    fields = own.data.splits["train"]
    np.testing.assert_array_equal(fields["counted"][0], [[True, True], [False, True]])
    np.testing.assert_array_equal(fields["mask"][0], [True, True, True, False])
    np.testing.assert_array_equal(fields["last"][[0, 2], 0], [2, 4])
    # Of columns a and b, differences to the last known value, then whether a is missing.
    np.testing.assert_array_equal(fields["inputs"][2], [[-2, 3, 0], [0, 0, 1], [0, 1, 0], [0, 0, 1]])
    values = np.array([[np.nan, 9], [3, np.nan], [np.nan, 5], [np.nan, np.nan]])
    traced, read = traced_windows(values[None], own.reading), read_windows(values, own.reading, np.array([0]), 4)
    for name, expected in read.items():
        np.testing.assert_allclose(traced[name], expected, rtol=1e-6)


def test_rows_of_nothing_are_missing_steps_but_at_the_end(load):
    one, two = "a\n" + "1\n" * 20 + "\n" + "2\n" * 20 + "\n\n", "a,b\n" + "1,1\n" * 20 + ",\n\n" + "2,2\n" * 20 + ",\n"
    for text in (one, two):
        own = load(text, sizes=SIZES._replace(window=2))
        assert sum(len(part.values) for part in own.parts.values()) == 41
        assert not own.data.splits["train"]["mask"].all()


def test_times_bring_rows_into_order_and_gaps_are_said(load, caplog):
    lines = COUNT.splitlines()
    turned = load("\n".join([lines[0], *lines[:0:-1]]))
    assert turned.data.checksum == load(COUNT).data.checksum
    assert not caplog.messages
    load("\n".join(lines[:12] + lines[14:]))
    assert "before row 13 is 3 times the usual one" in caplog.text


def test_another_series_is_read_as_that_of_the_training_and_all_of_it(load):
    reading = load(COUNT, Wanted(season=3)).reading
    kept = SeriesReading.from_json(reading.to_json())
    assert kept.to_json() == reading.to_json()
    np.testing.assert_array_equal(kept.end[:, 0], [46, 47, 48, 49])
    other = load(series([(t, 0) for t in range(6)]), sizes=SIZES._replace(whole=True), reading=kept)
    np.testing.assert_allclose(other.data.splits["test"]["last"], kept.scaling.inputs([[3, 0]]), rtol=1e-6)
    assert other.reading.season == 3
    assert load(COUNT, sizes=SIZES._replace(window=2), reading=kept).reading.season == 1  # no window has three steps


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (COUNT.replace("2024-01-05,4", "2024-01-05,four"), "series.csv, row 6, column 'a': 'four' is no number"),
        (COUNT.replace("2024-01-05", "2024-01-04"), "row 6, column 'date': '2024-01-04' is the time of row 5, too"),
        (COUNT.replace("2024-01-05", "5 Jan"), "row 6, column 'date': '5 Jan' is not a date"),
        (
            COUNT.replace("date", "day"),
            "row 2, column 'day': '2024-01-01' is no number; if the column holds the times, give",
        ),
        (series([(t, 1) for t in range(20)]), "the validation split of"),
        ("date\n2024-01-01\n", "has no column beside its times 'date'"),
        (series([(t, "") for t in range(50)]), "all values of 'b' are missing in the training split"),
    ],
    ids=["no number", "a time twice", "no date", "another name of times", "too short", "times alone", "no values"],
)
def test_what_is_wrong_is_said(load, text, message):
    with pytest.raises(DataError) as caught:
        load(text)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_column_to_forecast_that_is_not_there_is_said(load):
    with pytest.raises(DataError, match="has no column 'c' to forecast among a, b"):
        load(COUNT, PLAIN._replace(targets=("c",)))


def test_a_season_is_found_where_there_is_one():
    rng = np.random.default_rng(0)
    weekly = np.sin(2 * np.pi * np.arange(140) / 7) + 0.1 * np.arange(140) + 0.05 * rng.standard_normal(140)
    assert likely_season(weekly[:, None], 30) == 7
    assert likely_season(rng.standard_normal((140, 1)), 30) == 0
    assert likely_season(np.ones((140, 1)), 30) == likely_season(np.ones((3, 1)), 30) == 0


@pytest.mark.parametrize("noise", [0, 0.05, 0.1, 0.3])
@pytest.mark.parametrize("period", [3, 7, 12, 24, 31.4, 50])
@pytest.mark.parametrize("drift", ["none", "line", "curve"])
def test_the_season_of_a_smooth_series_is_found_in_noise(period, noise, drift):
    steps = np.arange(int(12 * period))
    trend = {"none": 0, "line": 0.1 * steps, "curve": 5 * np.square(steps / len(steps))}[drift]
    for seed in range(3):
        random = noise * np.random.default_rng(seed).standard_normal(len(steps))
        values = np.sin(2 * np.pi * steps / period + seed) + trend + random
        assert likely_season(values[:, None], 120) == pytest.approx(period, abs=max(0.5, 0.06 * period))


@pytest.mark.parametrize("noise", [0, 0.3])
def test_a_season_of_any_shape_is_found_on_a_random_walk(noise):
    for seed in range(10):
        rng = np.random.default_rng(seed)
        days, walk = np.arange(210), 0.3 * np.cumsum(rng.standard_normal(210))
        values = 2 * rng.permutation(np.linspace(-1, 1, 7))[days % 7] + walk + noise * rng.standard_normal(210)
        assert likely_season(values[:, None], 60) == 7


def test_columns_without_a_season_and_missing_values_hide_none():
    steps = np.arange(200)
    wave = np.where(steps % 17 == 3, np.nan, np.sin(2 * np.pi * steps / 12))
    line = 0.1 + 0.3 * steps  # nothing is left of it but rounding
    assert likely_season(np.stack([wave, line, np.full(200, np.nan)], 1), 50) == 12
    assert likely_season(line[:, None], 50) == 0


def test_a_seasonal_forecast_repeats_the_last_season():
    windows = np.arange(8.0)[None, :, None]
    np.testing.assert_array_equal(seasonal_forecast(windows, 5, 3)[0, :, 0], [5, 6, 7, 5, 6])
    np.testing.assert_array_equal(seasonal_forecast(windows, 2, 1)[0, :, 0], [7, 7])
