import itertools
import os
import zipfile
from pathlib import Path

import numpy as np
import pytest

from rnnjax.data.sentence_vocabulary import END, UNKNOWN
from rnnjax.data.translation import load_pairs, load_translation, padded, split_by_source
from rnnjax.errors import DataError

WORDS = {"kind": "word", "source_size": 60, "target_size": 60}


def write_pairs(path, count=40):
    lines = [f"word{i} of the day\tmot{i} du{' tres' * (i % 5)} jour\tcredits" for i in range(count)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def real_root(name):
    beside = Path(__file__).resolve().parents[3] / "shared" / "data"
    root = Path(os.environ.get("RNNJAX_DATA") or beside)
    if not (root / name).is_dir():
        pytest.skip(f"the real {name} files are not in {root}")
    return str(root)


def test_arrays_hold_tokens_with_the_end_behind_the_target(tmp_path):
    text = load_translation("tsv", str(write_pairs(tmp_path / "pairs.tsv")), max_length=20, **WORDS)
    assert {split: len(part) for split, part in text.pairs.items()} == {"train": 32, "validation": 4, "test": 4}
    for split, part in text.data.splits.items():
        for row, (source, target) in enumerate(text.pairs[split]):
            length = part["source_length"][row]
            assert part["source"][row, :length].tolist() == text.source.encode(source)
            assert not part["source"][row, length:].any()
            length = part["target_length"][row]
            assert part["target"][row, :length].tolist() == [*text.target.encode(target), END]
            assert not part["target"][row, length:].any()


def test_vocabularies_know_the_training_split_only(tmp_path):
    text = load_translation("tsv", str(write_pairs(tmp_path / "pairs.tsv")), max_length=20, **WORDS)
    assert all(text.source.encode(source)[0] == UNKNOWN for source, _ in text.pairs["test"])


def test_a_folder_of_pairs_has_a_file_for_each_split(tmp_path):
    for name, count in (("train.tsv", 9), ("valid.tsv", 3), ("test.txt", 2)):
        write_pairs(tmp_path / name, count)
    pairs, source = load_pairs("tsv", str(tmp_path))
    assert ({split: len(part) for split, part in pairs.items()}, source) == (
        {"train": 9, "validation": 3, "test": 2},
        f"the pairs in {tmp_path}",
    )
    (tmp_path / "test.txt").write_text("\t\n")
    with pytest.raises(DataError, match=r"the test file in .* has no pairs"):
        load_pairs("tsv", str(tmp_path))


def test_pairs_past_the_limit_are_left_out_of_training_and_cut_elsewhere(tmp_path, caplog):
    text = load_translation("tsv", str(write_pairs(tmp_path / "pairs.tsv")), max_length=5, **WORDS)
    assert "training pairs have more than 5 tokens" in caplog.text
    assert len(text.pairs["train"]) == len(text.data.splits["train"]["source"]) < 32
    assert all(len(text.target.encode(target)) < 5 for _, target in text.pairs["train"])
    for part in text.data.splits.values():
        assert part["target"].shape[1] == 5
    lengths = (
        text.data.splits["test"]["target_length"].tolist() + text.data.splits["validation"]["target_length"].tolist()
    )
    assert len(text.pairs["test"]) == 4
    assert max(lengths) == 5
    with pytest.raises(DataError, match=r"no training pair .* at most 3 tokens"):
        load_translation("tsv", str(tmp_path / "pairs.tsv"), max_length=3, **WORDS)


def test_no_source_is_in_two_splits_whatever_the_order():
    pairs = [(f"s{i // 3}", f"t{i}") for i in range(90)]
    split = split_by_source(pairs)
    assert split == split_by_source(pairs[::-1])
    sources = [{source for source, _ in part} for part in split.values()]
    assert sum(map(len, sources)) == 30
    assert sum(len(part) for part in split.values()) == 90
    with pytest.raises(DataError, match="too few different sources"):
        split_by_source([("same", str(i)) for i in range(40)])
    with pytest.raises(DataError, match="give at least 10"):
        split_by_source(pairs[:3])


def test_sequences_are_padded_and_cut():
    table, lengths = padded([[5, 6, 7], [], [4]], 2)
    np.testing.assert_array_equal(table, [[5, 6], [0, 0], [4, 0]])
    assert lengths.tolist() == [2, 0, 1]


def test_an_archive_is_read(tmp_path):
    write_pairs(tmp_path / "fra.txt")
    with zipfile.ZipFile(tmp_path / "fra-eng_x.zip", "w") as archive:
        archive.writestr("_about.txt", "about")
        archive.write(tmp_path / "fra.txt", "fra.txt")
    (tmp_path / "fra.txt").unlink()
    pairs, source = load_pairs("tatoeba_en_fr", str(tmp_path))
    assert sum(map(len, pairs.values())) == 40
    assert "fra-eng_x.zip" in source


def test_what_is_wrong_with_the_files_is_said(tmp_path, monkeypatch):
    monkeypatch.delenv("RNNJAX_DATA", raising=False)
    for name, message in [
        ("multi30k_de_en", "multi30k .* looked for nowhere, .*: get it from https://github.com/multi30k"),
        ("tatoeba_en_fr", "tatoeba .* looked for nowhere, .*: get it from https://www.manythings.org"),
        ("tsv", "needs a file"),
    ]:
        with pytest.raises(DataError, match=message):
            load_pairs(name, None)
    with pytest.raises(DataError, match=r"tatoeba \(eng-kor.* is not in"):
        load_pairs("tatoeba_en_ko", str(tmp_path))
    with pytest.raises(DataError, match=r"multi30k \(train.lc.norm.tok.de, .* is not in"):
        load_pairs("multi30k_de_en", str(tmp_path))
    (tmp_path / "pairs.tsv").write_text("one\ttwo\nno tab here\n")
    with pytest.raises(DataError, match=r"line 2 of .* has no tab"):
        load_pairs("tsv", str(tmp_path / "pairs.tsv"))
    (tmp_path / "pairs.tsv").write_bytes(b"\xff\xfe\tx")
    with pytest.raises(DataError, match="cannot be read as text"):
        load_pairs("tsv", str(tmp_path / "pairs.tsv"))
    for language, lines in (("de", "a\nb\n"), ("en", "a\n")):
        (tmp_path / f"train.lc.norm.tok.{language}").write_text(lines)
    with pytest.raises(DataError, match=r"val.lc.norm.tok.de, .* of multi30k are missing in"):
        load_pairs("multi30k_de_en", str(tmp_path))
    for stem, language in itertools.product(("val", "test_2016_flickr"), ("de", "en")):
        (tmp_path / f"{stem}.lc.norm.tok.{language}").write_text("a\n")
    with pytest.raises(DataError, match="2 German lines of train, but 1 English"):
        load_pairs("multi30k_de_en", str(tmp_path))
    with pytest.raises(ValueError, match="name must be one of"):
        load_pairs("klingon", None)


def test_the_real_multi30k_has_its_sizes():
    pairs, _ = load_pairs("multi30k_de_en", real_root("multi30k"))
    assert {split: len(part) for split, part in pairs.items()} == {"train": 29000, "validation": 1014, "test": 1000}
    assert pairs["train"][1][0] == "mehrere männer mit schutzhelmen bedienen ein antriebsradsystem ."
    assert pairs["train"][1][1] == "several men in hard hats are operating a giant pulley system ."


@pytest.mark.parametrize(("name", "count"), [("tatoeba_en_fr", 142_787), ("tatoeba_en_ko", 5_749)])
def test_the_real_tatoeba_has_its_sizes(name, count):
    pairs, _ = load_pairs(name, real_root("tatoeba"))
    assert sum(map(len, pairs.values())) == count


def archive(path, **options):
    with zipfile.ZipFile(path, "w", **options) as file:
        file.writestr("fra.txt", "".join(f"word {i}\tmot {i}\n" for i in range(40)))
    return bytearray(path.read_bytes())


def patched(content, *places):
    """An archive with other bytes at places behind the signatures of its member and of its entry in the directory."""
    for signature, offset, value in places:
        at = content.index(signature) + offset
        content[at : at + len(value)] = value
    return content


MEMBER, ENTRY = b"PK\x03\x04", b"PK\x01\x02"
ARCHIVES = {
    "encrypted": lambda content: patched(content, (MEMBER, 6, b"\1"), (ENTRY, 8, b"\1")),
    "unknown compression": lambda content: patched(content, (MEMBER, 8, b"\x55"), (ENTRY, 10, b"\x55")),
    "damaged": lambda content: patched(content, (MEMBER, 50, b"\xff" * 20)),
    "wrong checksum": lambda content: patched(content, (ENTRY, 16, b"\0\0\0\0")),
    "too large": lambda content: patched(content, (ENTRY, 24, b"\xff\xff\xff\xfe"), (ENTRY, 20, b"\xff\xff\xff\xfe")),
    "cut off": lambda content: content[: len(content) // 2],
    "no archive": lambda content: b"word\tmot\n",
    "empty": lambda content: b"",
}


@pytest.mark.parametrize("change", ARCHIVES.values(), ids=ARCHIVES)
@pytest.mark.parametrize("compression", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_an_archive_that_cannot_be_unpacked_is_refused_in_one_sentence(change, compression, tmp_path, monkeypatch):
    monkeypatch.setattr("rnnjax.data.translation.free_memory", lambda: 2**30)
    path = tmp_path / "fra-eng.zip"
    path.write_bytes(change(archive(path, compression=compression)))
    with pytest.raises(DataError, match=r"fra-eng.zip cannot be unpacked \(.+\); unpack it yourself") as error:
        load_pairs("tatoeba_en_fr", str(tmp_path))
    assert "\n" not in str(error.value)


def test_an_archive_without_a_text_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "fra-eng.zip", "w") as file:
        file.writestr("fra.pdf", "word\tmot")
    with pytest.raises(DataError, match=r"fra-eng.zip cannot be unpacked \(there is no text in it\)"):
        load_pairs("tatoeba_en_fr", str(tmp_path))


def test_a_device_is_no_file():
    with pytest.raises(DataError, match="/dev/zero is a device, not a file"):
        load_pairs("tsv", "/dev/zero")


def test_a_mark_at_the_beginning_and_blank_lines_of_a_file_are_no_text(tmp_path):
    lines = [f"source{number}\ttarget{number}" for number in range(12)]
    for name, content in (("plain", "\n".join(lines)), ("marked", "\ufeff" + "\n\n".join(lines) + "\n\n")):
        (tmp_path / f"{name}.tsv").write_text(content, encoding="utf-8")
    plain, marked = (load_pairs("tsv", str(tmp_path / f"{name}.tsv")) for name in ("plain", "marked"))
    assert plain[0] == marked[0]
