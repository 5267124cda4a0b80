"""MNIST in memory, from a local folder, a prepared TFDS directory or the download, whichever comes first."""

from types import ModuleType

from rnnjax.data import mnist_files
from rnnjax.data.dataset import Arrays, DataSet, content_checksum
from rnnjax.data.locate import OTHER_SOURCES, Store, locate
from rnnjax.errors import DataError

VALIDATION_SIZE = 5000


def load_mnist(path: str | None = None, *, data_dir: str | None = None, download: bool = True) -> DataSet:
    """Loads MNIST (LeCun, Cortes and Burges, 1998) with the splits of TensorFlow's classic tutorials.

    `validation` is the first 5,000 training images, `train` the other 55,000, `test` the 10,000 test images, each with
    `image` uint8 [N, 28, 28] and `label` int32 [N], in the original order. The first of these sources is used:

    1. the four original `.gz` files in a folder, found as `locate` says;
    2. the TFDS directory `rnnjax_mnist` prepared under `data_dir`;
    3. the download, which is prepared under `data_dir` and then read.

    Args:
      path: a folder with the original files; no other source is tried.
      data_dir: where TFDS keeps its data sets; by default `TFDS_DATA_DIR`, or else `~/tensorflow_datasets`.
      download: whether the third source may be used.

    Raises:
      DataError: the data is missing, incomplete or altered, or could not be downloaded or stored.
    """
    mirrors = []

    def fetch() -> None:
        mirrors.append(_builders().prepare_mnist(data_dir).mirror)

    store = Store(mnist_files.PREPARED, fetch if download else None, data_dir)
    place = locate(path, "mnist", mnist_files.names(), store=store)
    if not place.stored:
        source = f"the original MNIST files in {place.folder} ({place.named_by})"
        return _dataset(mnist_files.read_originals(place.folder), source)
    builders = _builders()
    builder = builders.mnist_builder(data_dir)
    how = f"downloaded from {mirrors[0]} and prepared" if mirrors else "prepared"
    return _dataset(builders.read_prepared(builder), f"MNIST {how} by TFDS in {builder.data_path}")


def _builders() -> ModuleType:
    try:
        # Imported here because it takes over a second, which only what TFDS stores needs.
        from rnnjax.data import mnist_builder
    except ImportError as error:
        raise DataError(
            f'MNIST in a TFDS directory cannot be read without the package {error.name}: pip install "rnnjax[train]", '
            f"or {OTHER_SOURCES}"
        ) from error
    return mnist_builder


def _dataset(originals: dict[str, Arrays], source: str) -> DataSet:
    train = originals["train"]
    splits = {
        "train": {field: values[VALIDATION_SIZE:] for field, values in train.items()},
        "validation": {field: values[:VALIDATION_SIZE] for field, values in train.items()},
        "test": originals["test"],
    }
    return DataSet("mnist", splits, source, content_checksum(originals))
