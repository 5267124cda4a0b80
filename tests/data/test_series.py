import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rnnjax.data.series import load_series, longest_window, series, window_at

DATA = load_series(200, 20, 0)


def test_values_of_the_function_by_hand():
    quarter = np.pi / 2  # sin t = 1, sin 5t = 1
    np.testing.assert_allclose(series(np.array([0, quarter, np.pi])), [0, quarter / 3 + 2, 0], atol=1e-14)


@given(st.floats(0, 25), st.integers(1, 30))
def test_a_window_holds_values_a_tenth_apart(start, steps):
    window = window_at(np.array([start]), steps)
    assert window.shape == (1, steps + 1)
    assert window.dtype == np.float32
    np.testing.assert_allclose(window[0, steps], series(np.array(start + steps / 10)), rtol=1e-6, atol=1e-6)
    np.testing.assert_array_equal(window[0, 0], np.float32(series(np.array(start))))


def test_training_windows_are_as_many_as_asked_and_as_long():
    assert DATA.splits["train"]["window"].shape == (200, 21)
    assert {DATA.splits[split]["window"].shape for split in ("validation", "test")} == {(1000, 21)}


def test_every_window_is_of_the_series_between_0_and_30():
    # Searched for on a fine grid of starts: a window is there if all of its values are.
    starts = np.linspace(0, 28, 28_001)
    grid = window_at(starts, 20)
    for split in DATA.splits.values():
        for window in split["window"][::40]:
            assert np.abs(grid - window).max(1).min() < 0.02


def test_the_seed_says_where_training_windows_start_and_nothing_else():
    same, other = load_series(200, 20, 0), load_series(200, 20, 1)
    assert same.checksum == DATA.checksum != other.checksum
    assert not np.array_equal(other.splits["train"]["window"], DATA.splits["train"]["window"])
    for split in ("validation", "test"):
        np.testing.assert_array_equal(other.splits[split]["window"], DATA.splits[split]["window"])


def test_no_window_is_in_two_splits():
    windows = [window.tobytes() for split in DATA.splits.values() for window in split["window"]]
    assert len(set(windows)) == len(windows) == 2200


def test_fewer_windows_are_the_first_of_more():
    fewer = load_series(50, 20, 0).splits["train"]["window"]
    np.testing.assert_array_equal(fewer, DATA.splits["train"]["window"][:50])


def test_a_window_as_long_as_the_series_is_refused():
    assert load_series(2, longest_window(), 0).splits["train"]["window"].shape == (2, longest_window() + 1)
    with pytest.raises(ValueError, match="a window must be shorter than the series, 299 steps, got 300"):
        load_series(2, longest_window() + 1, 0)
