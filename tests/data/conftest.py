"""A small stand-in for MNIST, so that everything but the real figures is tested on a bare machine."""

import gzip
import hashlib
import os
import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from rnnjax.data import mnist_files
from rnnjax.data.dataset import content_checksum

# More training images than the 5,000 that become the validation split.
SIZES = {"train": 5040, "test": 60}


@dataclass(frozen=True)
class SyntheticMnist:
    """What `mnist_files` says of MNIST, said of the stand-in, and where its files are: `root/mnist`."""

    root: Path
    content: dict[str, dict[str, np.ndarray]]
    originals: dict[str, dict[str, mnist_files.OriginalFile]]

    @property
    def folder(self) -> Path:
        return self.root / "mnist"

    def replace_mnist(self, monkeypatch) -> None:
        monkeypatch.setattr(mnist_files, "ORIGINALS", self.originals)
        monkeypatch.setattr(mnist_files, "CONTENT_CHECKSUM", content_checksum(self.content))


def idx_gz(values: np.ndarray) -> bytes:
    header = struct.pack(f">BBBB{values.ndim}I", 0, 0, 8, values.ndim, *values.shape)
    return gzip.compress(header + values.astype(np.uint8).tobytes(), compresslevel=1)


def write_original(folder: Path, name: str, values: np.ndarray) -> mnist_files.OriginalFile:
    content = idx_gz(values)
    (folder / name).write_bytes(content)
    md5, sha256 = hashlib.md5(content).hexdigest(), hashlib.sha256(content).hexdigest()
    return mnist_files.OriginalFile(name, len(content), md5, sha256)


@pytest.fixture(scope="session")
def synthetic_files(tmp_path_factory) -> SyntheticMnist:
    root = tmp_path_factory.mktemp("originals")
    (root / "mnist").mkdir()
    rng = np.random.default_rng(0)
    content, originals = {}, {}
    for split, size in SIZES.items():
        labels = rng.integers(0, 10, size, dtype=np.int32)
        images = rng.integers(0, 256, (size, 28, 28), dtype=np.uint8)
        images[:, :14] = 0  # compressible, as digits are
        content[split] = {"image": images, "label": labels}
        originals[split] = {
            field: write_original(root / "mnist", mnist_files.ORIGINALS[split][field].name, values)
            for field, values in content[split].items()
        }
    return SyntheticMnist(root, content, originals)


@pytest.fixture
def synthetic(synthetic_files, monkeypatch, tmp_path) -> SyntheticMnist:
    """The stand-in in place of MNIST, on a machine that has neither data nor settings of its own."""
    synthetic_files.replace_mnist(monkeypatch)
    monkeypatch.delenv("RNNJAX_DATA", raising=False)
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "default_tfds"))
    return synthetic_files


@pytest.fixture(scope="session")
def prepared_once(synthetic_files, tmp_path_factory) -> Path:
    from rnnjax.data import mnist_builder

    data_dir = tmp_path_factory.mktemp("prepared")
    with pytest.MonkeyPatch.context() as monkeypatch:
        synthetic_files.replace_mnist(monkeypatch)
        mnist_builder.prepare_mnist(str(data_dir), source_dir=str(synthetic_files.root))
    return data_dir


@pytest.fixture(scope="session")
def real_root() -> Path:
    """The folder that holds the real `mnist/`: RNNJAX_DATA, or `shared/data` beside the repository."""
    beside = Path(__file__).resolve().parents[3] / "shared" / "data"
    root = Path(os.environ.get("RNNJAX_DATA") or beside)
    if mnist_files.originals_folder(root) is None:
        pytest.skip(f"the real MNIST files are not in {root}")
    return root
