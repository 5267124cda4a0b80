import sys

import pytest

from rnnjax.data.sentence_vocabulary import END, FIRST, PADDING, UNKNOWN, learn_vocabulary
from rnnjax.errors import DataError

LINES = ["a man walks the dog", "the dog walks", "a woman with the dog", "ein Mädchen, 안녕"] * 3


@pytest.mark.parametrize(("kind", "size"), [("char", 100), ("word", 100), ("bpe", 40), ("unigram", 34)])
def test_text_comes_back_from_its_tokens(kind, size):
    vocabulary = learn_vocabulary(LINES, kind, size)
    assert vocabulary.size <= size
    for line in LINES:
        tokens = vocabulary.encode(line)
        assert vocabulary.decode(tokens) == line
        assert min(tokens) > UNKNOWN
        assert vocabulary.decode([FIRST, *tokens, END, 5, 6, PADDING]) == line
    assert vocabulary.pieces([PADDING, FIRST, END, UNKNOWN]) == ["<pad>", "<bos>", "<eos>", "<unk>"]


@pytest.mark.parametrize("kind", ["char", "word"])
def test_what_is_not_in_the_vocabulary_is_unknown(kind):
    vocabulary = learn_vocabulary(LINES, kind, 100)
    tokens = vocabulary.encode("the Q dog")
    assert tokens.count(UNKNOWN) == 1
    assert vocabulary.decode(tokens) == "the <unk> dog"


def test_nothing_has_no_tokens_and_no_tokens_are_nothing():
    vocabulary = learn_vocabulary(LINES, "bpe", 40)
    assert vocabulary.encode("") == []
    assert vocabulary.decode([]) == vocabulary.decode([END, 7]) == ""


def test_the_same_text_gives_the_same_vocabulary():
    one, other = (learn_vocabulary(LINES, "bpe", 40) for _ in range(2))
    assert one.pieces(range(one.size)) == other.pieces(range(other.size))


def test_what_cannot_be_learned_is_named(monkeypatch):
    with pytest.raises(ValueError, match="kind must be one of"):
        learn_vocabulary(LINES, "syllable", 40)
    with pytest.raises(DataError, match="no bpe vocabulary of 40 tokens can be learned from 0 lines"):
        learn_vocabulary([], "bpe", 40)
    monkeypatch.setitem(sys.modules, "sentencepiece", None)
    with pytest.raises(DataError, match=r"rnnjax\[translate\]"):
        learn_vocabulary(LINES, "bpe", 40)
