"""A checkpoint that TensorFlow wrote, with an optimiser's variables in it, is read without TensorFlow."""

import contextlib
import shutil
from pathlib import Path

import numpy as np
import pytest

from rnnjax import LSTM, Project, Stack, unroll
from rnnjax.interop import from_tf1, read_tf1_checkpoint
from rnnjax.interop.crc32c import crc32c

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


def test_no_byte_can_change_unnoticed(copy):
    path, index, numbers = copy
    read_tf1_checkpoint(path)
    footer = len(index.read_bytes()) - 48  # which has no check sum, and zeros at its end
    for file, count in ((numbers, len(numbers.read_bytes())), (index, footer)):
        whole = file.read_bytes()
        for place in range(0, count, 29):
            file.write_bytes(whole[:place] + bytes([whole[place] ^ 0xA5]) + whole[place + 1 :])
            with pytest.raises((ValueError, FileNotFoundError)):
                read_tf1_checkpoint(path)
        file.write_bytes(whole)


def test_no_byte_of_a_footer_ends_reading_in_another_error(copy):
    path, index, _ = copy
    whole = index.read_bytes()
    for place in range(len(whole) - 48, len(whole)):
        index.write_bytes(whole[:place] + bytes([whole[place] ^ 0xA5]) + whole[place + 1 :])
        with contextlib.suppress(ValueError):
            read_tf1_checkpoint(path)


@pytest.mark.parametrize(
    ("text", "checksum"),
    [(b"", 0), (b"123456789", 0xE3069283), (bytes(32), 0x8A9136AA), (bytes(range(32)), 0x46DD794E)],
)
def test_check_sums_are_those_of_rfc_3720(text, checksum):
    assert crc32c(text) == checksum


def test_the_check_sum_of_a_long_text_is_that_of_its_bytes_one_after_the_other():
    text = np.random.default_rng(0).integers(0, 256, 2**22 + 777, np.uint8).tobytes()
    register = 0xFFFFFFFF
    for byte in text[-5000:]:
        register ^= byte
        for _ in range(8):
            register = register >> 1 ^ (0x82F63B78 if register & 1 else 0)
    assert crc32c(text[-5000:]) == register ^ 0xFFFFFFFF
    # A text and its check sum leave the same remainder, whatever the text.
    assert crc32c(text + crc32c(text).to_bytes(4, "little")) == 0x48674BC7
