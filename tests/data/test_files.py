"""Files that are larger than memory are refused before they are read: by one rule, which every loader asks."""

from pathlib import Path

import pytest

from rnnjax import memory
from rnnjax.data import mnist_files
from rnnjax.data.click_rows import read_click_rows
from rnnjax.data.clicks import read_clicks
from rnnjax.data.files import readable
from rnnjax.data.own.arrays import read_array_inputs
from rnnjax.data.own.table import read_table
from rnnjax.data.text import load_own_text
from rnnjax.data.translation import load_pairs
from rnnjax.data.word_vectors import read_word_vectors
from rnnjax.errors import DataError

GIB = 2**30  # where nothing is written a file takes no place on the disk
MNIST = mnist_files.ORIGINALS["train"]["image"].name
LOADERS = {
    "own.txt": lambda file: load_own_text(str(file)),
    "pairs.tsv": lambda file: load_pairs("tsv", str(file)),
    "pairs.zip": lambda file: load_pairs("tsv", str(file)),
    "clicks.dat": lambda file: read_clicks([file]),
    "rows.txt": lambda file: read_click_rows(file, file),
    "vectors.txt": read_word_vectors,
    "own.csv": read_table,
    "own.npz": read_array_inputs,
    "own.npy": read_array_inputs,
    MNIST: lambda file: mnist_files.read_originals(file.parent),
}


@pytest.mark.parametrize("name", LOADERS)
def test_a_file_larger_than_memory_is_refused_before_it_is_read(name, tmp_path, monkeypatch):
    monkeypatch.setattr("rnnjax.data.files.free_memory", lambda: GIB // 2)
    with (tmp_path / name).open("wb") as file:
        file.truncate(GIB)
    with pytest.raises(DataError, match=rf"{name} takes at least \d.0 GiB of memory when it is read, of which 0.5 GiB"):
        LOADERS[name](tmp_path / name)


def test_what_is_free_is_what_the_system_says_and_no_more_than_the_container_has(tmp_path, monkeypatch):
    (tmp_path / "file").write_bytes(bytes(1000))
    (tmp_path / "meminfo").write_text("MemTotal: 9999999 kB\nMemFree:  1 kB\nMemAvailable:   2 kB\n")
    monkeypatch.setattr(memory, "_MEMORY", tmp_path / "meminfo")
    assert memory.free_memory() == 2048
    assert readable(tmp_path / "file") == tmp_path / "file"
    with pytest.raises(DataError, match="file takes at least"):
        readable(tmp_path / "file", copies=3)
    monkeypatch.setattr(memory, "machine_memory", lambda: 1024)
    assert memory.free_memory() == 1024
    monkeypatch.setattr(memory, "_MEMORY", Path("/nowhere"))
    assert memory.free_memory() == 1024
