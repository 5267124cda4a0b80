import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from rnnjax.data.vocabulary import CharacterVocabulary, WordVocabulary, split_words

TEXT = st.text(min_size=1, max_size=60)


@given(TEXT)
def test_characters_go_there_and_back(text):
    vocabulary = CharacterVocabulary.of([text])
    tokens = vocabulary.encode(text)
    assert tokens.dtype == np.int32
    assert vocabulary.decode(tokens) == text
    assert vocabulary.size == len(set(text))


def test_characters_are_numbered_by_their_code_points():
    vocabulary = CharacterVocabulary.of(["cab", "\n😀é"])
    assert vocabulary.characters == "\nabcé😀"
    assert vocabulary.encode("a😀\n").tolist() == [1, 5, 0]


@pytest.mark.parametrize("unknown", ["z", "é", "\x00", "😀", "\udc80"])
def test_an_unknown_character_is_refused_by_name(unknown):
    with pytest.raises(ValueError, match=r"the character .* is not in the text") as error:
        CharacterVocabulary.of(["abc"]).encode("ab" + unknown)
    assert repr(unknown) in str(error.value)


def test_a_text_starts_after_a_line_end():
    assert CharacterVocabulary.of(["b\na"]).start == 0
    assert CharacterVocabulary.of(["\tb\na"]).start == 1
    assert CharacterVocabulary.of(["ba"]).start == 0
    assert WordVocabulary.of("the cat\nthe cat", 9).start == WordVocabulary.of("a", 3).encode("\n")[0]


def test_line_ends_become_eos():
    assert split_words(" the cat \n\n sat\n") == ["the", "cat", "<eos>", "<eos>", "sat", "<eos>"]


def test_the_most_frequent_words_are_kept_and_of_equal_ones_the_first_by_name():
    text = "b b b c c a a d <unk>"
    assert WordVocabulary.of(text, 10).words == ("<eos>", "<unk>", "b", "a", "c", "d")
    assert WordVocabulary.of(text, 4).words == ("<eos>", "<unk>", "b", "a")


def test_unknown_words_become_unk():
    vocabulary = WordVocabulary.of("the cat <unk>\n", 10)
    assert vocabulary.decode(vocabulary.encode("the dog sat\ncat")) == "the <unk> <unk>\ncat"


def test_without_unk_in_the_text_words_seen_once_teach_what_it_is():
    vocabulary = WordVocabulary.of("the cat sees the dog\n", 10)
    assert vocabulary.words == ("<eos>", "<unk>", "the")
    assert vocabulary.encode("the cat").tolist() == [2, 1]
