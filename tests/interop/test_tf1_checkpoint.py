"""A checkpoint that TensorFlow wrote, with an optimiser's variables in it, is read without TensorFlow."""

import contextlib
import shutil
from pathlib import Path

import numpy as np
import pytest

from rnnjax import LSTM, Project, Stack, unroll
from rnnjax.interop import from_tf1, read_tf1_checkpoint

FOLDER = Path(__file__).parents[1] / "goldens" / "tf1_checkpoint"


@pytest.fixture
def copy(tmp_path):
    """A copy of the checkpoint's files, to be damaged: its path, that of the index, and that of the numbers."""
    shutil.copytree(FOLDER, tmp_path / "copy")
    path = tmp_path / "copy" / "model.ckpt-3"
    return path, path.with_name(f"{path.name}.index"), path.with_name(f"{path.name}.data-00000-of-00001")


def test_a_trained_stack_and_its_dense_layer_compute_what_they_did_in_tensorflow():
    variables = read_tf1_checkpoint(FOLDER / "model.ckpt-3")
    assert variables["global_step"] == 3
    assert {"beta1_power", "dense/kernel/Adam_1"} < variables.keys()
    cell = Project(Stack([LSTM(4, peephole=True)] * 2), 2)
    golden = np.load(FOLDER / "outputs.npz")
    ys, _ = unroll(cell, from_tf1(cell, variables), golden["xs"])
    np.testing.assert_allclose(ys, golden["ys"], rtol=1e-5, atol=1e-6)


def test_a_checkpoint_that_is_not_there_is_not_found(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"model.ckpt-4.index"):
        read_tf1_checkpoint(tmp_path / "model.ckpt-4")


def test_a_damaged_checkpoint_is_refused_in_one_sentence(copy):
    path, index, numbers = copy
    whole = index.read_bytes()
    numbers.write_bytes(numbers.read_bytes()[:-4])
    with pytest.raises(ValueError, match=r"has not the bytes that .*: it is damaged"):
        read_tf1_checkpoint(path)
    for cut in (b"", whole[:-1], whole[100:], whole[:-48] + b"\xff" * 40 + whole[-8:]):
        index.write_bytes(cut)
        with pytest.raises(ValueError, match="is no index of a TensorFlow checkpoint, is damaged, or is compressed"):
            read_tf1_checkpoint(path)


def test_no_byte_of_an_index_ends_reading_in_another_error(copy):
    path, index, _ = copy
    whole = index.read_bytes()
    for place in range(len(whole)):
        index.write_bytes(whole[:place] + bytes([whole[place] ^ 0xA5]) + whole[place + 1 :])
        with contextlib.suppress(ValueError, FileNotFoundError):
            read_tf1_checkpoint(path)
