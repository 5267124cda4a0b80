"""Texts and their splits; what is missing or no text is refused in one sentence."""

import os
import sys
from pathlib import Path

import pytest

from rnnjax.data import text
from rnnjax.data.download import downloaded
from rnnjax.data.text import Cuts, cut, load_embedded_text, load_own_text, load_ptb, load_tiny_shakespeare, read_text
from rnnjax.data.vocabulary import CharacterVocabulary, WordVocabulary, split_words
from rnnjax.errors import DataError


@pytest.fixture(scope="module")
def shared():
    """The folder of real data: RNNJAX_DATA, or `shared/data` beside the repository."""
    return Path(os.environ.get("RNNJAX_DATA") or Path(__file__).resolve().parents[3] / "shared" / "data")


def real(folder: Path) -> str:
    if not folder.is_dir():
        pytest.skip(f"{folder} is not there")
    return str(folder)


# The published texts


def test_tiny_shakespeare_is_validated_on_its_last_tenth(shared):
    texts = load_tiny_shakespeare(real(shared / "tinyshakespeare"))
    assert {split: len(part) for split, part in texts.splits.items()} == {
        "train": 948_084,
        "test": 55_770,
        "validation": 111_540,
    }
    whole = "".join(texts.splits[split] for split in ("train", "test", "validation"))
    assert whole.startswith("First Citizen:\nBefore we proceed")
    assert CharacterVocabulary.of([whole]).size == CharacterVocabulary.of([texts.splits["train"]]).size == 65
    assert texts.source == f"Tiny Shakespeare in {shared / 'tinyshakespeare'} (--config.data.path)"


def test_ptb_has_the_published_numbers_of_tokens_and_words(shared):
    texts = load_ptb(real(shared / "ptb"))
    counts = {split: len(split_words(part)) for split, part in texts.splits.items()}
    assert counts == {"train": 929_589, "validation": 73_760, "test": 82_430}
    vocabulary = WordVocabulary.of(texts.splits["train"], 10_000)
    assert vocabulary.size == 10_000
    assert set(split_words(texts.splits["train"])) == set(vocabulary.words)


def test_data_sets_are_found_below_the_folder_that_the_environment_names(shared, monkeypatch):
    real(shared / "ptb")
    monkeypatch.setenv("RNNJAX_DATA", str(shared))
    assert load_ptb().source == f"the Penn Treebank in {shared / 'ptb'} (RNNJAX_DATA)"
    assert load_tiny_shakespeare().checksum == load_tiny_shakespeare(str(shared)).checksum
    by_file = load_tiny_shakespeare(str(shared / "tinyshakespeare" / "input.txt"))
    assert by_file.checksum == load_tiny_shakespeare().checksum


def test_the_embedded_text_is_pythons_own(monkeypatch):
    texts = load_embedded_text()
    assert sum(map(len, texts.splits.values())) > 200_000
    assert "pydoc_data" in texts.source
    monkeypatch.setitem(sys.modules, "pydoc_data.topics", None)
    with pytest.raises(DataError, match="without the module pydoc_data"):
        load_embedded_text()


def test_another_text_under_a_published_name_is_refused(tmp_path):
    (tmp_path / "input.txt").write_text("not Shakespeare")
    with pytest.raises(DataError, match=r"input.txt is not the published .* --config.data.name=text"):
        load_tiny_shakespeare(str(tmp_path))
    for name in ("train", "valid", "test"):
        (tmp_path / f"ptb.{name}.txt").write_text("one two\n")
    with pytest.raises(DataError, match=r"ptb.train.txt has 3 tokens where the original has 929589"):
        load_ptb(str(tmp_path))


@pytest.mark.parametrize(("load", "file"), [(load_ptb, "ptb.train.txt"), (load_tiny_shakespeare, "input.txt")])
def test_a_folder_without_the_files_is_refused_by_name(load, file, tmp_path):
    with pytest.raises(DataError, match=rf"{file}.* is not in .* {tmp_path} \(--config.data.path\): .*data.name=text"):
        load(str(tmp_path))
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(
        DataError, match=rf"{file}.* is not in {tmp_path}/mine.txt \(--config.data.path\): .*data.name=text"
    ):
        load(str(tmp_path / "mine.txt"))


def test_ptb_is_not_downloaded(monkeypatch):
    monkeypatch.delenv("RNNJAX_DATA", raising=False)
    with pytest.raises(DataError, match=r"not free to download, .* name its folder"):
        load_ptb()


# Downloads


def test_a_file_is_downloaded_once(tmp_path, monkeypatch):
    source = tmp_path / "source.txt"
    source.write_text("text")
    path = downloaded(source.as_uri(), "made", "input.txt", str(tmp_path / "kept"))
    assert path == tmp_path / "kept" / "rnnjax_made" / "input.txt"
    assert path.read_text() == "text"
    source.unlink()
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "kept"))
    assert downloaded(source.as_uri(), "made", "input.txt") == path
    assert [file.name for file in path.parent.iterdir()] == ["input.txt"]


def test_a_download_that_fails_leaves_no_file_and_says_what_to_do(tmp_path):
    with pytest.raises(DataError, match=r"made cannot be downloaded from file://.*name its folder"):
        downloaded((tmp_path / "nothing").as_uri(), "made", "input.txt", str(tmp_path))
    assert not list((tmp_path / "rnnjax_made").iterdir())


def test_without_a_folder_tiny_shakespeare_is_downloaded(tmp_path, monkeypatch):
    monkeypatch.delenv("RNNJAX_DATA", raising=False)
    monkeypatch.setattr(text, "_URL", (tmp_path / "nothing").as_uri())
    with pytest.raises(DataError, match="tinyshakespeare cannot be downloaded"):
        load_tiny_shakespeare(data_dir=str(tmp_path))


# A text of one's own


def test_one_file_is_cut_into_train_test_and_validation(tmp_path):
    (tmp_path / "mine.txt").write_text("0123456789" * 2)
    texts = load_own_text(str(tmp_path / "mine.txt"), Cuts(0.1, 0.2))
    assert texts.splits == {"train": "01234567890123", "test": "4567", "validation": "89"}
    assert texts.name == "mine"
    assert str(tmp_path / "mine.txt") in texts.source


def test_words_are_cut_between_lines():
    splits = cut("one two\nthree four\nfive six\nseven\n", Cuts(0.3, 0.3, at_lines=True), "made")
    assert splits == {"train": "one two\nthree four\n", "test": "five six\n", "validation": "seven\n"}


@pytest.mark.parametrize("prefix", ["", "mine."])
def test_a_folder_has_a_file_a_split(tmp_path, prefix):
    for split in ("train", "valid", "test"):
        (tmp_path / f"{prefix}{split}.txt").write_text(f"the {split}\r\n", newline="")
    texts = load_own_text(str(tmp_path))
    assert texts.splits == {"train": "the train\n", "validation": "the valid\n", "test": "the test\n"}


def test_a_folder_must_say_which_file_is_meant(tmp_path):
    with pytest.raises(DataError, match=r"must hold one file train.txt or NAME.train.txt, got none"):
        load_own_text(str(tmp_path))
    for name in ("a", "b"):
        (tmp_path / f"{name}.train.txt").write_text("text")
    with pytest.raises(DataError, match=r"got a.train.txt, b.train.txt"):
        load_own_text(str(tmp_path))


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "is empty"), (b" \n\n ", "is empty"), (b"caf\xe9", "not text in UTF-8 .at byte 3.: convert it")],
)
def test_what_is_no_text_is_refused(tmp_path, content, message):
    (tmp_path / "mine.txt").write_bytes(content)
    with pytest.raises(DataError, match=f"mine.txt .*{message}") as error:
        load_own_text(str(tmp_path / "mine.txt"))
    assert "\n" not in str(error.value)


def test_a_missing_text_is_refused_by_name(tmp_path):
    with pytest.raises(DataError, match=r"nothing\.txt does not exist: give the data with --config\.data\.path"):
        load_own_text(str(tmp_path / "nothing.txt"))


def test_a_text_too_short_for_three_splits_is_refused(tmp_path):
    (tmp_path / "mine.txt").write_text("abc")
    with pytest.raises(DataError, match=r"mine.txt has only 3 characters, which leaves none for \w+"):
        load_own_text(str(tmp_path / "mine.txt"))


def test_a_byte_order_mark_is_no_text(tmp_path):
    (tmp_path / "mine.txt").write_bytes("\ufeffabc".encode())
    assert read_text(tmp_path / "mine.txt") == "abc"
