import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rnnjax.data.word_vectors import read_word_vectors, write_word_vectors
from rnnjax.data.words import (
    NO_WORD,
    count_words,
    keep_probability,
    known_words,
    noise_bounds,
    text_rows,
    tokenise,
    word_ids,
)
from rnnjax.errors import DataError


def test_words_are_in_lower_case_with_what_is_within_them():
    assert tokenise("Don't re-read: the __init__ of ÉTÉ 1999!") == [
        "don't",
        "re-read",
        "the",
        "__init__",
        "of",
        "été",
        "1999",
    ]
    assert tokenise(" -- '' ") == []


def test_the_marks_of_rare_words_are_no_words():
    assert known_words(" the <unk> company N \n mr. <unk> \n") == ["the", "company", "N", "mr."]


def test_the_vocabulary_is_by_frequency_then_alphabet():
    found = count_words(["b", "a", "c", "b", "a", "d", "b"], min_count=1)
    assert found.words == ("b", "a", "c", "d")
    np.testing.assert_array_equal(found.counts, [3, 2, 1, 1])
    assert count_words(["b", "a", "c", "b", "a", "d", "b"], min_count=2).words == ("b", "a")
    assert count_words(["b", "a", "c", "b", "a", "d", "b"], max_size=3).words == ("b", "a", "c")
    with pytest.raises(DataError, match="only 1 words occur 3 times or more"):
        count_words(["b", "a", "c", "b", "a", "d", "b"], min_count=3)


def test_words_out_of_the_vocabulary_are_left_out():
    vocabulary = count_words(["b", "a", "c", "b", "a", "d", "b"], min_count=2)
    np.testing.assert_array_equal(word_ids(["a", "x", "b", "d", "a"], vocabulary), [1, 0, 1])


def test_frequent_words_are_kept_with_the_root_of_the_threshold_over_their_frequency():
    np.testing.assert_allclose(keep_probability(np.array([900, 90, 9, 1]), 0.01), [np.sqrt(1 / 90), 1 / 3, 1, 1])
    np.testing.assert_array_equal(keep_probability(np.array([3, 2]), np.inf), [1, 1])


def test_noise_is_drawn_by_the_frequency_to_three_quarters():
    bounds = noise_bounds(np.array([16, 1, 1]))
    np.testing.assert_allclose(bounds, np.array([8, 9, 10]) / 10)


@given(st.integers(1, 50), st.integers(2, 9))
def test_rows_hold_the_text_and_nothing_else(count, length):
    rows = text_rows(np.arange(count), length)
    assert rows.shape[1] == length
    np.testing.assert_array_equal(rows.ravel()[:count], np.arange(count))
    assert (rows.ravel()[count:] == NO_WORD).all()
    assert rows.size - count < length


# Vectors


def test_vectors_come_back_bit_for_bit(tmp_path):
    words = ["the", "été", "<unk>", "don't"]
    vectors = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32) * np.float32([1e-30, 1, 1e30])
    write_word_vectors(tmp_path / "vectors.txt", words, vectors)
    assert (tmp_path / "vectors.txt").read_text("utf-8").startswith("4 3\nthe ")
    found, read = read_word_vectors(tmp_path / "vectors.txt")
    assert found == words
    assert read.dtype == np.float32
    np.testing.assert_array_equal(read, vectors)


def test_what_word2vec_writes_is_read(tmp_path):
    (tmp_path / "c.txt").write_text("2 2\n</s> 0.5 -1.25 \nthe 1e-3 2 \n")  # word2vec ends its lines with a space
    words, vectors = read_word_vectors(tmp_path / "c.txt")
    assert words == ["</s>", "the"]
    np.testing.assert_array_equal(vectors, np.float32([[0.5, -1.25], [1e-3, 2]]))


@pytest.mark.parametrize(
    ("words", "shape", "message"),
    [
        (["a", "b"], (3, 2), r"shape \[V, D\] with V = 2 words, got \[3, 2\]"),
        (["a", "b c"], (2, 2), "white space in it, got 'b c'"),
        (["a", ""], (2, 2), "must not be empty"),
        (["a", "a"], (2, 2), "must occur once"),
    ],
)
def test_words_that_the_format_cannot_hold_are_refused(tmp_path, words, shape, message):
    with pytest.raises(ValueError, match=message):
        write_word_vectors(tmp_path / "no.txt", words, np.zeros(shape))
    assert not (tmp_path / "no.txt").exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "line 1: the numbers of words and of dimensions are expected"),
        ("2\na 1\n", "line 1"),
        ("2 1\na 1\n", "says that it has 2 words, and has 1"),
        ("1 2\na 1\n", "line 2: a word and 2 numbers are expected, got 'a 1'"),
        ("1 2\na 1 2 3\n", "line 2"),
        ("1 2\na 1 x\n", "line 2"),
        ("1 999999999999\na 1\n", "says that its vectors have 999999999999 numbers, which its 19 characters cannot"),
        ("0 999999999999\n", "says that its vectors have 999999999999 numbers"),
        ("1 ²\na 1\n", "line 1"),
        (f"1 {'9' * 5000}\na 1\n", "line 1"),
        ("1 2\n\n", "says that it has 1 words, and has 0"),
    ],
    ids=[
        "empty",
        "header",
        "cut off",
        "too few",
        "too many",
        "no number",
        "absurd size",
        "absurd size of none",
        "no digit",
        "long number",
        "no word",
    ],
)
def test_a_damaged_file_is_refused_with_its_line(tmp_path, text, message):
    (tmp_path / "bad.txt").write_text(text)
    with pytest.raises(DataError, match=rf"bad\.txt.*{message}"):
        read_word_vectors(tmp_path / "bad.txt")


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(DataError, match=r"none\.txt cannot be read"):
        read_word_vectors(tmp_path / "none.txt")
