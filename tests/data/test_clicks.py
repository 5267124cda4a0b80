import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rnnjax.data.click_windows import (
    UNKNOWN,
    Windows,
    click_data,
    distinct_windows,
    item_ids,
    make_windows,
    split_windows,
)
from rnnjax.data.clicks import Clicks, find_click_files, markov_clicks, read_clicks
from rnnjax.errors import DataError

CHALLENGE = "1,2014-04-07T10:51:09.277Z,214536502,0\n2,2014-04-07T13:56:37.614Z,214662742,S\n"


@pytest.fixture
def written(tmp_path):
    def write(text, name="yoochoose-clicks.dat"):
        (tmp_path / name).write_text(text)
        return tmp_path / name

    return write


@pytest.fixture(scope="module")
def sample():
    beside = Path(__file__).resolve().parents[3] / "shared" / "data"
    root = Path(os.environ.get("RNNJAX_DATA") or beside)
    if not (root / "yoochoose").is_dir():
        pytest.skip(f"the real clicks are not in {root}")
    return read_clicks(find_click_files(str(root)))


def clicks(*rows):
    session, time, item = zip(*rows)
    return Clicks(np.array(session), np.array(time, float), np.array(item))


# Reading


def test_the_sample_has_21659_windows_of_five(sample):
    assert len(make_windows(sample).items) == 21659


def test_the_sample_is_split_by_time_with_no_session_in_two_splits(sample):
    windows = make_windows(sample)
    splits = split_windows(windows)
    assert sum(len(part.session) for part in splits.values()) == 21659
    last = {session: sample.time[sample.session == session].max() for session in np.unique(windows.session)}
    ends = [[last[session] for session in np.unique(part.session)] for part in splits.values()]
    assert max(ends[0]) <= min(ends[1])
    assert max(ends[1]) <= min(ends[2])
    sessions = [set(part.session.tolist()) for part in splits.values()]
    assert not sessions[0] & sessions[1]
    assert not sessions[1] & sessions[2]


def test_a_line_of_the_challenge_is_session_time_item_and_category(written):
    read = read_clicks([written(CHALLENGE)])
    np.testing.assert_array_equal(read.session, [1, 2])
    np.testing.assert_array_equal(read.item, [214536502, 214662742])
    np.testing.assert_allclose(read.time, [1396867869.277, 1396878997.614], atol=1e-4)


def test_seconds_may_be_negative_or_have_an_exponent(written):
    read = read_clicks([written("1,-5,1,0\n1,1.5e-3,2,0\n2,2014-04-07,3,0\n")])
    assert sorted(read.time.tolist()) == [-5.0, 0.0015, 1396828800.0]


@pytest.mark.parametrize(
    "text",
    [
        "1,1396867869.277,214536502,0\n2,1396878997.614,214662742,0\n",
        "SessionId\tItemId\tTime\n1\t214536502\t1396867869.277\n2\t214662742\t1396878997.614\n",
        "timestamp,item,category,session\r\n1396867869.277,214536502,0,1\r\n1396878997.614,214662742,S,2\r\n\r\n",
        "\ufeffsession,timestamp,item\n1,2014-04-07 10:51:09.277,214536502\n2,2014-04-07T15:56:37.614+02:00,214662742",
    ],
    ids=["seconds", "the sample's header", "another order", "other times"],
)
def test_columns_may_be_named_and_times_be_seconds(written, text):
    read, wanted = read_clicks([written(text)]), read_clicks([written(CHALLENGE, "other.dat")])
    for a, b in zip(read, wanted):
        np.testing.assert_allclose(a, b, atol=1e-4)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (CHALLENGE + "3,2014-04-07T10:51:09.277Z\n", "line 3: 4 columns are expected, and there are 2"),
        (CHALLENGE + "x,2014-04-07T10:51:09.277Z,1,0\n", "line 3: the session must be a whole number, not 'x'"),
        (CHALLENGE + "\n3,2014-04-07T10:51:09.277Z,1.5,0\n", "line 4: the item must be a whole number, not '1.5'"),
        (CHALLENGE + "3,2014-13-07T10:51:09.277Z,1,0\n", "line 3: the time must be seconds or like 2014"),
        (CHALLENGE + "3,nan,1,0\n", "line 3: the time must be"),
        (CHALLENGE + f"{2**63},5,1,0\n", "line 3: the session 9223372036854775808 does not fit"),
        ("SessionId\tTime\n1\t5\n", "line 1: the first line is neither a click nor a header"),
        ("<html>\n", "line 1: the first line is neither a click nor a header"),
        ("", "holds no clicks"),
        ("SessionId\tItemId\tTime\n", "holds no clicks"),
    ],
    ids=["cut off", "session", "item", "date", "no number", "too large", "header", "no clicks", "empty", "no lines"],
)
def test_what_is_wrong_is_named_with_file_and_line(written, text, message):
    file = written(text)
    with pytest.raises(DataError, match=message) as caught:
        read_clicks([file])
    assert str(file) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_files_are_looked_for_by_name(written, tmp_path, monkeypatch):
    (tmp_path / "yoochoose").mkdir()
    sample = written(CHALLENGE, "yoochoose/yoochoose-clicks-100k_test.txt")
    written("", "yoochoose/yoochoose-buys.dat")
    monkeypatch.setenv("RNNJAX_DATA", str(tmp_path))
    assert (
        find_click_files() == find_click_files(str(tmp_path / "yoochoose")) == find_click_files(str(sample)) == [sample]
    )
    whole = written(CHALLENGE, "yoochoose/yoochoose-clicks.dat")
    assert find_click_files() == [whole]


def test_a_folder_without_clicks_is_named(tmp_path, monkeypatch):
    with pytest.raises(DataError, match=rf"yoochoose-clicks\*.* is not in .* {tmp_path} \(--config"):
        find_click_files(str(tmp_path))
    monkeypatch.delenv("RNNJAX_DATA", raising=False)
    with pytest.raises(DataError, match=r"--config\.data\.path or RNNJAX_DATA"):
        find_click_files()


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(DataError, match=r"none\.dat cannot be read"):
        read_clicks([tmp_path / "none.dat"])


# Windows


def test_windows_follow_time_within_a_session_and_the_sessions_ends():
    late, early = [(1, t, 10 + t) for t in (3, 1, 2, 9)], [(2, t, 20 + t) for t in (4, 5, 6)]
    short = [(3, 0, 30), (3, 1, 31)]
    windows = make_windows(clicks(*late, *short, *early), 3)
    np.testing.assert_array_equal(windows.items, [[24, 25, 26], [11, 12, 13], [12, 13, 19]])
    np.testing.assert_array_equal(windows.session, [2, 1, 1])


@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 9), st.integers(0, 5)), min_size=1, max_size=60))
def test_a_session_of_n_clicks_has_n_minus_4_windows(rows):
    counts = np.bincount([row[0] for row in rows])
    wanted = np.maximum(counts - 4, 0)
    if not wanted.sum():
        with pytest.raises(DataError, match="no session has 5 clicks"):
            make_windows(clicks(*rows))
        return
    windows = make_windows(clicks(*rows))
    np.testing.assert_array_equal(np.bincount(windows.session, minlength=len(counts)), wanted)
    whole = clicks(*rows)
    for session in np.flatnonzero(wanted):
        chosen = whole.session == session
        ordered = whole.item[chosen][np.argsort(whole.time[chosen], kind="stable")]
        np.testing.assert_array_equal(windows.items[windows.session == session][0], ordered[:5])
        np.testing.assert_array_equal(windows.items[windows.session == session][-1], ordered[-5:])


def test_a_given_number_of_windows_is_exact_and_no_session_is_cut_in_two():
    session = np.repeat(np.arange(30), 3)
    splits = split_windows(Windows(np.zeros((90, 5), int), session), 40)
    assert [len(part.session) for part in splits.values()] == [40, 10, 10]
    assert splits["train"].session.max() == 13
    assert splits["validation"].session.min() == 14
    assert splits["test"].session.min() == 18
    with pytest.raises(DataError, match="90 windows of clicks are too few for a test split"):
        split_windows(Windows(np.zeros((90, 5), int), session), 64)


def test_of_windows_that_contradict_each_other_the_first_is_kept():
    items = np.array([[5, 6, 1], [1, 2, 3], [5, 6, 2], [1, 2, 3], [2, 1, 3]])
    found = distinct_windows(Windows(items, np.arange(5)))
    np.testing.assert_array_equal(found.items, items[[0, 1, 4]])
    np.testing.assert_array_equal(found.session, [0, 1, 4])


def test_items_are_numbered_by_their_clicks_in_training_and_others_are_unknown():
    train = Windows(np.array([[70, 70, 5, 9, 70], [70, 5, 9, 8, 5]]), np.array([4, 4]))
    other = Windows(np.array([[5, 99, 70, 1, 8], [8, 8, 8, 8, 100]]), np.array([7, 3]))
    found = click_data("toy", "here", {"train": train, "test": other})
    np.testing.assert_array_equal(found.items, [70, 5, 9, 8])
    np.testing.assert_array_equal(found.data.splits["train"]["items"], [[0, 0, 1, 2], [0, 1, 2, 3]])
    np.testing.assert_array_equal(found.data.splits["train"]["session"], [0, 0])
    np.testing.assert_array_equal(found.data.splits["test"]["items"], [[1, UNKNOWN, 0, UNKNOWN], [3, 3, 3, 3]])
    np.testing.assert_array_equal(found.data.splits["test"]["next"], [3, UNKNOWN])
    np.testing.assert_array_equal(found.data.splits["test"]["session"], [0, 1])
    np.testing.assert_array_equal(found.items[item_ids(np.array([9, 70]), found.items)], [9, 70])


def test_the_generated_sessions_follow_the_last_two_items():
    generated = markov_clicks(2000, 20)
    windows = make_windows(generated).items
    last, before, after = windows[:, 3], windows[:, 2] % 4, windows[:, 4]
    best = [np.bincount(after[(last == i) & (before == c)]).max() for i in range(20) for c in range(4)]
    of_last = [np.bincount(after[last == i]).max() for i in range(20)]
    assert 0.75 < sum(best) / len(windows) < 0.9
    assert sum(of_last) / len(windows) < 0.45
    for a, b in zip(generated, markov_clicks(2000, 20)):
        np.testing.assert_array_equal(a, b)
    assert not np.array_equal(generated.item[:50], markov_clicks(2000, 20, seed=1).item[:50])
