"""Windows of lanes: what follows what, and what counts."""

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from rnnjax.data.lanes import evaluation_windows, training_windows

SHAPES = {"lanes": st.integers(1, 5), "length": st.integers(1, 6)}


def test_training_windows_of_a_small_text():
    fields = training_windows(np.arange(20), lanes=2, length=3)
    # Lanes of ten tokens; rows in the order window 0 of both lanes, then window 1, then window 2.
    assert fields["tokens"].tolist() == [
        [0, 1, 2, 3],
        [10, 11, 12, 13],
        [3, 4, 5, 6],
        [13, 14, 15, 16],
        [6, 7, 8, 9],
        [16, 17, 18, 19],
    ]
    assert fields["start"].tolist() == [True, True, False, False, False, False]
    assert fields["counted"].all()
    assert {name: values.dtype for name, values in fields.items()} == {
        "tokens": np.int32,
        "counted": bool,
        "start": bool,
    }


@given(st.integers(2, 90), *SHAPES.values())
def test_training_goes_on_where_the_window_before_stopped(count, lanes, length):
    if count < lanes * (length + 1):
        with pytest.raises(ValueError, match=rf"{count} training tokens .* that takes {lanes * (length + 1)}$"):
            training_windows(np.arange(count), lanes, length)
        return
    by_lane = training_windows(np.arange(count), lanes, length)["tokens"].reshape(-1, lanes, length + 1)
    np.testing.assert_array_equal(by_lane[1:, :, 0], by_lane[:-1, :, -1])
    read = by_lane[..., :-1].ravel()
    assert len(set(read)) == len(read)
    assert len(read) > count - lanes * (length + 1)


def test_evaluation_windows_of_a_small_text():
    fields = evaluation_windows(np.arange(1, 8), 0, lanes=2, length=2)
    rows = fields["tokens"].reshape(3, 2, 3)
    # The first lane predicts 1 to 4 and has nothing before it; the second predicts 5 to 7 and reads 2, 3 first.
    assert rows[1:, 0].tolist() == [[0, 1, 2], [2, 3, 4]]
    assert rows[:, 1].tolist() == [[2, 3, 4], [4, 5, 6], [6, 7, 7]]
    assert fields["counted"].reshape(3, 2, 2).tolist() == [
        [[False, False], [False, False]],
        [[True, True], [True, True]],
        [[True, True], [True, False]],
    ]
    assert fields["start"].reshape(3, 2).tolist() == [[True, True], [True, False], [False, False]]


@given(st.integers(1, 90), *SHAPES.values())
def test_every_token_is_predicted_and_counted_exactly_once(count, lanes, length):
    tokens = np.arange(1, count + 1)
    fields = evaluation_windows(tokens, 0, lanes, length)
    counted = fields["counted"]
    assert sorted(fields["tokens"][:, 1:][counted]) == tokens.tolist()
    # Each is read one place before it is predicted.
    np.testing.assert_array_equal(fields["tokens"][:, :-1][counted] + 1, fields["tokens"][:, 1:][counted])
    assert len(counted) % lanes == 0


@given(st.integers(1, 90), *SHAPES.values())
def test_what_counts_is_read_after_what_came_before_it(count, lanes, length):
    fields = evaluation_windows(np.arange(1, count + 1), 0, lanes, length)
    rows = {name: values.reshape(-1, lanes, *values.shape[1:]) for name, values in fields.items()}
    for before, after in zip(range(len(rows["start"])), range(1, len(rows["start"]))):
        goes_on = ~rows["start"][after] & rows["counted"][after].any(-1)
        np.testing.assert_array_equal(rows["tokens"][after, goes_on, 0], rows["tokens"][before, goes_on, -1])
    assert rows["start"][0].all()
    assert not rows["start"][2:].any()
