"""MNIST as a TFDS data set that is prepared and read without TensorFlow.

TFDS's own `mnist` needs TensorFlow to prepare (it encodes PNG images with it) and shuffles the images. Here an image is
stored as its 784 bytes, in the original order, so that the first 5,000 training images are `train[:5000]`. The files
are an ordinary TFDS directory of ArrayRecord files, which `tfds.builder_from_directory` reads too.
"""

import errno
import logging
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import requests
import tensorflow_datasets as tfds
from array_record.python import array_record_module  # pyright: ignore[reportAttributeAccessIssue] (compiled)
from tensorflow_datasets.core.download.checksums import UrlInfo
from tensorflow_datasets.core.utils import Size

from rnnjax.data import mnist_files
from rnnjax.data.dataset import Arrays, content_checksum
from rnnjax.data.locate import OTHER_SOURCES
from rnnjax.errors import DataError

MIRRORS = (
    "https://storage.googleapis.com/cvdf-datasets/mnist/",
    "https://ossci-datasets.s3.amazonaws.com/mnist/",
)

_PROBE_SECONDS = 10
_WRONG_CHECKSUM = "NonMatchingChecksumError"  # TFDS does not export it
_log = logging.getLogger(__name__)

_CITATION = """\
@article{lecun1998gradient,
  title={Gradient-based learning applied to document recognition},
  author={LeCun, Yann and Bottou, L{\\'e}on and Bengio, Yoshua and Haffner, Patrick},
  journal={Proceedings of the IEEE},
  volume={86},
  number={11},
  pages={2278--2324},
  year={1998}
}
"""


class RnnjaxMnist(tfds.core.GeneratorBasedBuilder):
    """Builder of `rnnjax_mnist`: splits `train` (60,000) and `test` (10,000) in the original order.

    Given a `manual_dir` with the original files, it prepares them and downloads nothing.
    """

    VERSION = tfds.core.Version(mnist_files.PREPARED)
    RELEASE_NOTES = {mnist_files.PREPARED: "Raw bytes instead of PNG, original order."}  # noqa: RUF012

    mirror = MIRRORS[0]

    @property
    def url_infos(self) -> dict[str, UrlInfo]:
        """Size and SHA-256 of every file at every mirror; TFDS refuses a download that differs."""
        return {
            mirror + file.name: UrlInfo(Size(file.size), file.sha256, file.name)
            for mirror in {*MIRRORS, self.mirror}
            for file in mnist_files.original_files()
        }

    def _info(self) -> tfds.core.DatasetInfo:
        image = tfds.features.Tensor(shape=(*mnist_files.IMAGE_SHAPE, 1), dtype=np.uint8, encoding="bytes")
        label = tfds.features.ClassLabel(num_classes=mnist_files.NUM_CLASSES)
        return tfds.core.DatasetInfo(
            builder=self,
            description="The MNIST database of handwritten digits, as raw bytes in the original order.",
            features=tfds.features.FeaturesDict({"image": image, "label": label}),
            supervised_keys=("image", "label"),
            disable_shuffling=True,
            homepage="http://yann.lecun.com/exdb/mnist/",
            citation=_CITATION,
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Iterator]:
        # One at a time: after a failure, downloads that run beside it would go on writing to the folder being removed.
        return {
            split: self._generate_examples(
                **{field: dl_manager.download(self.mirror + file.name) for field, file in fields.items()}
            )
            for split, fields in mnist_files.ORIGINALS.items()
        }

    def _generate_examples(self, image: os.PathLike, label: os.PathLike) -> Iterator[tuple[int, dict]]:
        images = mnist_files.parse_idx(Path(image).read_bytes())[..., np.newaxis]
        labels = mnist_files.parse_idx(Path(label).read_bytes())
        for index, (pixels, digit) in enumerate(zip(images, labels, strict=True)):
            yield index, {"image": pixels, "label": int(digit)}

    def _download_and_prepare(self, dl_manager, download_config) -> None:
        super()._download_and_prepare(dl_manager, download_config)
        # Still under a temporary name: what cannot be read back never gets the final one.
        _checked_content(self)


def mnist_builder(data_dir: str | None = None) -> RnnjaxMnist:
    """Returns the builder for `data_dir` (default: `TFDS_DATA_DIR`, or else TFDS's own), prepared or not.

    Raises:
      DataError: the directory exists but the description of its content is missing or damaged.
    """
    # TFDS reads the variable only when it is imported.
    root = data_dir or os.environ.get("TFDS_DATA_DIR")
    root = os.path.expanduser(root) if root else None
    try:
        builder = RnnjaxMnist(data_dir=root, file_format="array_record")
    except Exception as error:
        raise DataError(
            f"the prepared MNIST of {root or 'the default TFDS directory'} cannot be opened ({_first_line(error)}): "
            f"delete its folder {RnnjaxMnist.name} and run again"
        ) from error
    if builder.data_path.exists():
        _refuse_missing_files(builder)
    return builder


def prepare_mnist(data_dir: str | None = None, *, source_dir: str | None = None) -> RnnjaxMnist:
    """Prepares MNIST under `data_dir` and returns its builder; an existing directory is not changed.

    It is written under a temporary name and renamed when all of it has been read back, so that a directory with the
    final name is complete.

    Args:
      data_dir: where TFDS keeps its data sets, as for `mnist_builder`.
      source_dir: a folder with the original files (or whose `mnist` subfolder has them); without it, they are
        downloaded from the first mirror that answers, and deleted afterwards.

    Raises:
      DataError: the files could not be obtained or stored. Nothing incomplete is left under the final name.
    """
    builder = mnist_builder(data_dir)
    if builder.data_path.exists():
        return builder
    manual_dir = _checked_source(source_dir) if source_dir is not None else None
    mirror = MIRRORS[0] if manual_dir else reachable_mirror()
    try:
        _prepare_or_try_again(data_dir, mirror, manual_dir)
    except Exception as error:
        # Another process may have finished the same work first, and a finished directory is not replaced.
        if not builder.data_path.exists():
            raise _preparation_error(error, builder, mirror) from error
    builder = mnist_builder(data_dir)
    builder.mirror = mirror
    return builder


def reachable_mirror() -> str:
    """Returns the first mirror that answers. TFDS itself would retry an unreachable one for minutes.

    Raises:
      DataError: none does.
    """
    failures = []
    for mirror in MIRRORS:
        try:
            url = mirror + next(mnist_files.original_files()).name
            requests.head(url, timeout=_PROBE_SECONDS, allow_redirects=True).raise_for_status()
            return mirror
        except requests.RequestException as error:
            failures.append(f"{urlsplit(mirror).hostname}: {type(error).__name__}")
    raise DataError(f"MNIST cannot be downloaded ({', '.join(failures)}): {OTHER_SOURCES}")


def read_prepared(builder: RnnjaxMnist) -> dict[str, Arrays]:
    """Returns splits `train` and `test` of a prepared directory: `image` uint8 [N, 28, 28], `label` int32 [N].

    Raises:
      DataError: the directory is not complete and unchanged.
    """
    try:
        return _checked_content(builder)
    except DataError as error:
        raise DataError(f"{error}: delete {builder.data_path} and run again to prepare it anew") from error


def _checked_source(source_dir: str) -> Path:
    root = Path(os.path.expanduser(source_dir))
    folder = mnist_files.originals_folder(root) or root
    mnist_files.verify_originals(folder)
    return folder


def _prepare_or_try_again(data_dir: str | None, mirror: str, manual_dir: Path | None) -> None:
    """Prepares with a fresh builder, and once more where what was downloaded broke off or is damaged."""
    for tries_left in (1, 0):
        builder = mnist_builder(data_dir)
        builder.mirror = mirror
        try:
            _prepare(builder, manual_dir)
            return
        except Exception as error:
            if not (tries_left and _is_bad_download(error)) or builder.data_path.exists():
                raise
            _log.warning("the download of MNIST from %s failed (%s) and is tried again", mirror, _first_line(error))


def _is_bad_download(error: Exception) -> bool:
    known = isinstance(error, tfds.download.DownloadError | requests.RequestException)
    return known or type(error).__name__ == _WRONG_CHECKSUM


def _prepare(builder: RnnjaxMnist, manual_dir: Path | None) -> None:
    builder.data_dir_root.mkdir(parents=True, exist_ok=True)
    # What cannot be removed must not hide why the preparation failed.
    temporary = {"prefix": "incomplete.downloads_", "dir": builder.data_dir_root, "ignore_cleanup_errors": True}
    with tempfile.TemporaryDirectory(**temporary) as downloads:
        builder.download_and_prepare(
            file_format="array_record",
            download_dir=downloads,
            download_config=tfds.download.DownloadConfig(
                manual_dir=manual_dir, try_download_gcs=False, force_checksums_validation=True
            ),
        )


def _preparation_error(error: Exception, builder: RnnjaxMnist, mirror: str) -> DataError:
    place = builder.data_dir_root
    if _is_out_of_space(error):
        return DataError(
            f"no space left on the device while preparing MNIST in {place}: free 100 MB there, "
            "or name another directory with TFDS_DATA_DIR"
        )
    if isinstance(error, tfds.download.DownloadError | requests.RequestException):
        return DataError(f"downloading MNIST from {mirror} failed ({_first_line(error)}): {OTHER_SOURCES}")
    if type(error).__name__ == _WRONG_CHECKSUM:
        return DataError(f"what {mirror} sent is not the original MNIST (wrong checksum): {OTHER_SOURCES}")
    if isinstance(error, PermissionError):
        return DataError(
            f"MNIST cannot be prepared in {place} ({error.strerror}): name a directory "
            "that can be written to with TFDS_DATA_DIR"
        )
    return DataError(f"MNIST could not be prepared in {place} ({_first_line(error)}): {OTHER_SOURCES}")


def _is_out_of_space(error: BaseException | None) -> bool:
    # The ArrayRecord writer reports it in words only, and TFDS wraps what it gets.
    while error is not None:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            return True
        if any(os.strerror(code) in str(error) for code in (errno.ENOSPC, errno.EDQUOT)):
            return True
        error = error.__cause__ or error.__context__
    return False


def _first_line(error: Exception) -> str:
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__


def _refuse_missing_files(builder: RnnjaxMnist) -> None:
    shards = [path for split in builder.info.splits.values() for path in split.filepaths]
    described = [builder.data_path / name for name in ("dataset_info.json", "features.json")]
    missing = [path.name for path in [*described, *shards] if not path.exists()]
    if missing:
        raise DataError(
            f"the prepared MNIST in {builder.data_path} is incomplete, {', '.join(missing)} is missing: "
            f"delete {builder.data_path} and run again to prepare it anew"
        )


def _checked_content(builder: RnnjaxMnist) -> dict[str, Arrays]:
    content = {split: _decode(_read_records(builder, split), builder.info.features) for split in mnist_files.ORIGINALS}
    if content_checksum(content) != mnist_files.CONTENT_CHECKSUM:
        raise DataError(f"the images and labels in {builder.data_path} are not those of MNIST")
    return content


def _read_records(builder: RnnjaxMnist, split: str) -> list[bytes]:
    """Returns the split's serialised records, read by one call per file; TFDS itself would make one per record."""
    if split not in builder.info.splits:
        raise DataError(f"the prepared MNIST in {builder.data_path} has no split {split}")
    records = []
    for part in builder.info.splits[split].file_instructions:
        try:
            reader = array_record_module.ArrayRecordReader(os.fspath(part.filename))
            records += reader.read(part.skip, part.skip + part.take)
            reader.close()
        except (RuntimeError, ValueError, IndexError) as error:
            raise DataError(f"the prepared MNIST file {part.filename} is damaged ({_first_line(error)})") from error
    return records


# A record is a serialised tf.train.Example. The serialised forms of two records differ only in the pixels, the label
# and the order of the two, which protobuf does not guarantee.
_EXAMPLE = b"\n\xb3\x06"
_IMAGE = b"\n\xa0\x06\n\x05image\x12\x96\x06\n\x93\x06\n\x90\x06"
_LABEL = b"\n\x0e\n\x05label\x12\x05\x1a\x03\n\x01"
_PIXELS = ("image", np.uint8, mnist_files.IMAGE_SHAPE)
_DIGIT = ("label", np.uint8)
_LAYOUTS = (
    ((_EXAMPLE + _IMAGE, _PIXELS), (_LABEL, _DIGIT)),
    ((_EXAMPLE + _LABEL, _DIGIT), (_IMAGE, _PIXELS)),
)


def _decode(records: list[bytes], features: Any) -> Arrays:
    """Returns `image` uint8 [N, 28, 28] and `label` int32 [N] of N records of these TFDS features."""
    joined = b"".join(records)
    for layout in _LAYOUTS:
        rows = _match(joined, len(records), layout)
        if rows is not None:
            return {"image": np.ascontiguousarray(rows["image"]), "label": rows["label"].astype(np.int32)}
    # Valid examples that another program has serialised differently: this takes seconds, but gives the same result.
    return _decode_one_by_one(records, features)


def _match(joined: bytes, count: int, layout: tuple) -> np.ndarray | None:
    """Returns the records as rows with fields `image` and `label`, or None if they do not all have this layout."""
    (head, first), (middle, second) = layout
    dtype = np.dtype([("head", np.uint8, (len(head),)), first, ("middle", np.uint8, (len(middle),)), second])
    if len(joined) != count * dtype.itemsize:
        return None
    rows = np.frombuffer(joined, dtype)
    fixed = (("head", head), ("middle", middle))
    return rows if all((rows[name] == np.frombuffer(text, np.uint8)).all() for name, text in fixed) else None


def _decode_one_by_one(records: list[bytes], features: Any) -> Arrays:
    try:
        examples = [features.deserialize_example_np(record) for record in records]
        return {
            "image": np.stack([example["image"][..., 0] for example in examples]),
            "label": np.array([example["label"] for example in examples], np.int32),
        }
    except Exception as error:
        raise DataError(f"the prepared MNIST has a record that is no image and label ({_first_line(error)})") from error
