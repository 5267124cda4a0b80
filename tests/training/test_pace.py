"""How many steps a call takes."""

import pytest

from rnnjax.training.pace import Pace


def test_without_a_bound_a_call_takes_all_that_there_is_room_for():
    assert Pace(0.0).count(468) == 468
    assert Pace(0.0, step=100.0, longest=1).count(468) == 468


def test_the_first_call_takes_one_step_to_measure_it():
    assert Pace(5.0).count(468) == 1


@pytest.mark.parametrize(("seconds", "expected"), [(0.1, 50), (0.09, 55), (4.9, 1), (6.0, 1), (1e-9, 468), (0.0, 468)])
def test_a_call_takes_as_many_steps_as_fit_into_the_bound_and_one_at_least(seconds, expected):
    assert Pace(5.0, seconds, longest=468).count(468) == expected


def test_calls_grow_by_a_factor_of_8_at_most_because_steps_need_not_take_the_same_time():
    pace, counts = Pace(5.0), []
    for _ in range(5):
        counts.append(pace.count(1000))
        pace = pace.after(counts[-1], 0.001 * counts[-1])
    assert counts == [1, 8, 64, 512, 1000]


def test_the_last_call_that_was_measured_counts():
    pace = Pace(5.0).after(1, 30.0).after(1, 0.5)  # the first had to warm up
    assert pace.count(1000) == 8
    assert pace.after(8, 4.0).count(1000) == 10
    assert pace.after(8, 40.0).count(1000) == 1


@pytest.mark.parametrize("room", [1, 7, 49])
def test_there_are_never_more_steps_than_there_is_room_for(room):
    assert Pace(5.0, 0.1, longest=1000).count(room) == room
