import numpy as np
import pytest

from rnnjax.data.click_rows import find_click_rows, read_click_rows
from rnnjax.errors import DataError


@pytest.fixture
def write(tmp_path):
    def written(clicked, following, stem="1000_index"):
        (tmp_path / f"{stem}_x.txt").write_text(clicked)
        (tmp_path / f"{stem}_y.txt").write_text(following)
        return tmp_path

    return written


@pytest.mark.parametrize(
    ("clicked", "following"),
    [
        ("1,2,3\n2,3,4\n7,8,9\n", "4\n5\n7\n"),
        ("1 2 3\n2\t3 4\n7  8 9", "2 3 4\n3 4 5\n8 9 7\n\n"),
        ("1.0e+00 2.0e+00 3.0e+00\n2 3 4.0\n7 8 9\n", "4.000e+00\n5\n7\n"),
    ],
    ids=["the next", "the next of each", "as NumPy writes"],
)
def test_rows_and_what_follows_are_windows_and_a_session_goes_on_while_they_overlap(write, clicked, following):
    files = find_click_rows(write(clicked, following))
    windows = read_click_rows(*files)
    np.testing.assert_array_equal(windows.items, [[1, 2, 3, 4], [2, 3, 4, 5], [7, 8, 9, 7]])
    np.testing.assert_array_equal(windows.session, [0, 0, 1])


def test_a_single_stream_is_cut_by_time(write):
    windows = read_click_rows(*find_click_rows(write("1 2\n2 3\n3 4\n", "3\n4\n5\n")))
    np.testing.assert_array_equal(windows.session, [0, 1, 2])


def test_either_file_or_their_folder_names_both(write, tmp_path):
    write("1\n", "2\n")
    both = (tmp_path / "1000_index_x.txt", tmp_path / "1000_index_y.txt")
    assert find_click_rows(tmp_path) == find_click_rows(both[0]) == find_click_rows(both[1]) == both
    assert find_click_rows(tmp_path / "clicks.csv") is None
    both[1].unlink()
    with pytest.raises(DataError, match=r"1000_index_y\.txt is missing beside"):
        find_click_rows(tmp_path)
    write("1\n", "2\n")
    write("1\n", "2\n", stem="other")
    with pytest.raises(DataError, match=r"several files of clicked items, 1000_index_x\.txt, other_x\.txt"):
        find_click_rows(tmp_path)


@pytest.mark.parametrize(
    ("clicked", "following", "message"),
    [
        ("1 2\n3 4\n", "5\n", "has 2 rows, but"),
        ("1 2\n3 4 5\n", "5\n6\n", r"_x.txt, row 2 has 3 items, and row 1 2"),
        ("1 2\n3 4\n", "5\n6 7 8\n", r"_y.txt, row 2 has 3 items for 2 clicked ones"),
        ("1 2\n3 4\n", "2 5\n6 7\n", r"_y.txt, row 2 does not hold the items after those of row 2"),
        ("1 2\n3 x\n", "5\n6\n", r"_x.txt, row 2: 'x' is no item"),
        ("1 2\n3 4\n", "5\n6.5\n", r"_y.txt, row 2: '6.5' is no item"),
        ("1 2\n\n3 4\n", "5\n6\n7\n", r"_x.txt, row 2 is empty"),
        ("\n", "5\n", r"_x.txt is empty"),
    ],
    ids=["rows", "items", "more after", "not after", "no number", "half", "an empty row", "empty"],
)
def test_what_does_not_fit_is_said_with_its_row(write, clicked, following, message):
    with pytest.raises(DataError, match=message):
        read_click_rows(*find_click_rows(write(clicked, following)))
