"""MNIST in memory, from a local folder, a prepared TFDS directory or the download, whichever comes first."""

import logging
import os
from pathlib import Path

from rnnjax.data import mnist_files
from rnnjax.data.dataset import Arrays, DataSet, content_checksum
from rnnjax.errors import DataError

VALIDATION_SIZE = 5000

_log = logging.getLogger(__name__)


def load_mnist(path: str | None = None, *, data_dir: str | None = None, download: bool = True) -> DataSet:
    """Loads MNIST (LeCun, Cortes and Burges, 1998) with the splits of TensorFlow's classic tutorials.

    `validation` is the first 5,000 training images, `train` the other 55,000, `test` the 10,000 test images, each with
    `image` uint8 [N, 28, 28] and `label` int32 [N], in the original order. The first of these sources is used:

    1. the four original `.gz` files in `path` or its `mnist` subfolder; without `path`, in the folder that the
       environment variable `RNNJAX_DATA` names, unless it holds no MNIST at all;
    2. the TFDS directory `rnnjax_mnist` prepared under `data_dir`;
    3. the download, which is prepared under `data_dir` and then read.

    Args:
      path: a folder with the original files; no other source is tried.
      data_dir: where TFDS keeps its data sets; by default `TFDS_DATA_DIR`, or else `~/tensorflow_datasets`.
      download: whether the third source may be used.

    Raises:
      DataError: the data is missing, incomplete or altered, or could not be downloaded or stored.
    """
    folder, named_by = _local_folder(path)
    if folder is None:
        return _load_from_tfds(data_dir, download)
    return _dataset(mnist_files.read_originals(folder), f"the original MNIST files in {folder} ({named_by})")


def _local_folder(path: str | None) -> tuple[Path | None, str]:
    """Returns the folder with the original files, if one is named, and what named it."""
    if path is not None:
        root = Path(os.path.expanduser(path))
        # With no original file in either place, `path` itself is what the error should name.
        return mnist_files.originals_folder(root) or root, "--config.data.path"
    root = os.environ.get("RNNJAX_DATA")
    if not root:
        return None, ""
    folder = mnist_files.originals_folder(Path(os.path.expanduser(root)))
    if folder is None:
        _log.warning("RNNJAX_DATA=%s holds no MNIST files, so MNIST is looked for in the TFDS directory", root)
    return folder, "RNNJAX_DATA"


def _load_from_tfds(data_dir: str | None, download: bool) -> DataSet:
    try:
        # Imported here because it takes over a second, which only this source needs.
        from rnnjax.data import mnist_builder
    except ImportError as error:
        raise DataError(
            f'MNIST in a TFDS directory cannot be read without the package {error.name}: pip install "rnnjax[train]", '
            "or give the folder with the original files as --config.data.path"
        ) from error
    builder = mnist_builder.mnist_builder(data_dir)
    if builder.data_path.exists():
        return _dataset(mnist_builder.read_prepared(builder), f"MNIST prepared by TFDS in {builder.data_path}")
    if not download:
        raise DataError(
            f"MNIST is not prepared in {builder.data_path} and download is off: {mnist_builder.OTHER_SOURCES}"
        )
    builder = mnist_builder.prepare_mnist(data_dir)
    source = f"MNIST downloaded from {builder.mirror} and prepared by TFDS in {builder.data_path}"
    return _dataset(mnist_builder.read_prepared(builder), source)


def _dataset(originals: dict[str, Arrays], source: str) -> DataSet:
    train = originals["train"]
    splits = {
        "train": {field: values[VALIDATION_SIZE:] for field, values in train.items()},
        "validation": {field: values[:VALIDATION_SIZE] for field, values in train.items()},
        "test": originals["test"],
    }
    return DataSet("mnist", splits, source, content_checksum(originals))
