"""The four files in which MNIST was published: which they are, and how they are checked and read."""

import gzip
import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rnnjax.data.dataset import Arrays
from rnnjax.data.files import readable
from rnnjax.data.locate import OTHER_SOURCES, fullest_folder
from rnnjax.errors import DataError

IMAGE_SHAPE = (28, 28)
NUM_CLASSES = 10


@dataclass(frozen=True)
class OriginalFile:
    """A published file: its name, its size in bytes, and its digests."""

    name: str
    size: int
    md5: str
    sha256: str


ORIGINALS: Mapping[str, Mapping[str, OriginalFile]] = {
    "train": {
        "image": OriginalFile(
            "train-images-idx3-ubyte.gz",
            9912422,
            "f68b3c2dcbeaaa9fbdd348bbdeb94873",
            "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
        ),
        "label": OriginalFile(
            "train-labels-idx1-ubyte.gz",
            28881,
            "d53e105ee54ea40749a09fcbcd1e9432",
            "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
        ),
    },
    "test": {
        "image": OriginalFile(
            "t10k-images-idx3-ubyte.gz",
            1648877,
            "9fb629c4189551a2d022fa330f9573f3",
            "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
        ),
        "label": OriginalFile(
            "t10k-labels-idx1-ubyte.gz",
            4542,
            "ec29112dd5afa0611ce80d1b7f02629c",
            "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
        ),
    },
}

# The name of the folder that TFDS prepares: its version.
PREPARED = "1.0.0"

# `content_checksum` of the four files as read by `read_originals`: what any copy of MNIST must come to.
CONTENT_CHECKSUM = "472778cb57c316383af248d039a77b40ab59ba806d73f8b19dd773745bbff181"


def original_files() -> Iterator[OriginalFile]:
    """Returns the four files."""
    return (file for fields in ORIGINALS.values() for file in fields.values())


def names() -> list[str]:
    """Returns the names of the four files."""
    return [file.name for file in original_files()]


def originals_folder(root: Path) -> Path | None:
    """Returns `root/mnist` or `root`, whichever holds more of the original files, or None where neither holds any."""
    return fullest_folder(root, "mnist", names())


def read_originals(folder: Path) -> dict[str, Arrays]:
    """Returns splits `train` and `test`, in the order of the files: `image` uint8 [N, 28, 28], `label` int32 [N].

    Raises:
      DataError: a file is missing, cannot be read, or is not the published one.
    """
    return {
        split: {
            "image": parse_idx(_verified_bytes(folder, fields["image"])),
            "label": parse_idx(_verified_bytes(folder, fields["label"])).astype(np.int32),
        }
        for split, fields in ORIGINALS.items()
    }


def verify_originals(folder: Path) -> None:
    """Raises the `DataError` that `read_originals` would, without unpacking anything."""
    for file in original_files():
        _verified_bytes(folder, file)


def parse_idx(compressed: bytes) -> np.ndarray:
    """Returns the uint8 array in a gzip-compressed idx file.

    The format (LeCun, 1998): two zero bytes, the type (8 for uint8), the number of axes, each axis's length as a
    big-endian 32-bit integer, then the values.
    """
    raw = gzip.decompress(compressed)
    axes = raw[3]
    shape = np.frombuffer(raw, ">u4", count=axes, offset=4)
    return np.frombuffer(raw, np.uint8, offset=4 + 4 * axes).reshape(shape)


def _verified_bytes(folder: Path, file: OriginalFile) -> bytes:
    path = folder / file.name
    try:
        content = readable(path, copies=1).read_bytes()
    except FileNotFoundError:
        raise DataError(
            f"the MNIST file {file.name} is missing in {folder}: put the four original .gz files there, {OTHER_SOURCES}"
        ) from None
    except OSError as error:
        raise DataError(f"the MNIST file {path} cannot be read ({error.strerror}): make it readable") from error
    if len(content) != file.size:
        raise DataError(
            f"the MNIST file {path} has {len(content)} bytes where the original has {file.size}: "
            "replace it with the original"
        )
    md5 = hashlib.md5(content, usedforsecurity=False).hexdigest()
    if md5 != file.md5:
        raise DataError(
            f"the MNIST file {path} has been altered (MD5 {md5}, the original's is {file.md5}): "
            "replace it with the original"
        )
    return content
