import errno
import functools
import os
import pickle
import shutil
import subprocess
import sys

import numpy as np
import pytest
import requests
import tensorflow_datasets as tfds
from array_record.python import array_record_module
from hypothesis import given
from hypothesis import strategies as st
from tensorflow_datasets.proto import tf_example_pb2

from rnnjax.data import mnist_builder, mnist_files
from rnnjax.data.mnist import load_mnist
from rnnjax.errors import DataError

SHARD = "rnnjax_mnist-train.array_record-00000-of-00001"


@pytest.fixture
def prepared(synthetic, prepared_once, tmp_path):
    """A copy that a test may damage."""
    shutil.copytree(prepared_once, tmp_path / "prepared")
    return tmp_path / "prepared"


def version_folder(data_dir):
    return data_dir / "rnnjax_mnist" / "1.0.0"


def left_behind(data_dir):
    return sorted(path.name for path in data_dir.rglob("*") if path.is_file() or "incomplete" in path.name)


# What is prepared


def test_what_was_prepared_is_read_back(synthetic, prepared_once):
    content = mnist_builder.read_prepared(mnist_builder.mnist_builder(str(prepared_once)))
    for split, fields in synthetic.content.items():
        for field, values in fields.items():
            np.testing.assert_array_equal(content[split][field], values)
            assert content[split][field].dtype == values.dtype


@pytest.mark.parametrize("split", ["train[5000:]", "train[:5000]", "train[10:20]", "test[50%:]"])
def test_subsplits_are_read_by_random_access_in_the_original_order(synthetic, prepared_once, split):
    name, part = split[:-1].split("[")
    labels = synthetic.content[name]["label"]
    expected = labels[30:] if part == "50%:" else eval(f"labels[{part}]", {"labels": labels})
    source = mnist_builder.mnist_builder(str(prepared_once)).as_data_source(split)
    assert len(source) == len(expected)
    assert [source[i]["label"] for i in (0, 5, len(source) - 1)] == expected[[0, 5, -1]].tolist()


def test_other_tfds_readers_can_read_the_directory(synthetic, prepared_once):
    builder = tfds.builder_from_directory(str(version_folder(prepared_once)))
    source = builder.as_data_source("train[5000:]")
    images, labels = (synthetic.content["train"][field][5000:] for field in ("image", "label"))
    assert len(source) == len(labels)
    for i in (0, 17, 39):
        np.testing.assert_array_equal(source[i]["image"][..., 0], images[i])
        assert source[i]["label"] == labels[i]


def test_the_builder_can_be_sent_to_a_worker_process(synthetic, prepared_once):
    builder = pickle.loads(pickle.dumps(mnist_builder.mnist_builder(str(prepared_once))))
    assert len(builder.as_data_source("test")) == 60


def test_preparing_again_leaves_a_prepared_directory_alone(synthetic, prepared):
    before = (version_folder(prepared) / SHARD).stat().st_mtime_ns
    mnist_builder.prepare_mnist(str(prepared))
    assert (version_folder(prepared) / SHARD).stat().st_mtime_ns == before


# What is refused


@pytest.mark.parametrize("name", ["dataset_info.json", "features.json", SHARD])
def test_a_prepared_directory_without_a_file_is_refused_by_name(prepared, name):
    (version_folder(prepared) / name).unlink()
    with pytest.raises(DataError, match=rf"{name} is missing.*delete .*1\.0\.0"):
        load_mnist(data_dir=str(prepared), download=False)


def test_an_empty_prepared_directory_is_refused_by_name(synthetic, tmp_path):
    version_folder(tmp_path).mkdir(parents=True)
    with pytest.raises(DataError, match=rf"{version_folder(tmp_path)} is incomplete"):
        load_mnist(data_dir=str(tmp_path), download=False)


def test_an_unreadable_description_is_refused_by_name(prepared):
    (version_folder(prepared) / "dataset_info.json").write_text("{")
    with pytest.raises(DataError, match=rf"{prepared} cannot be opened .*delete"):
        load_mnist(data_dir=str(prepared), download=False)


@pytest.mark.parametrize("size", [0, 100_000, -1])
def test_a_truncated_record_file_is_refused_by_name(prepared, size):
    path = version_folder(prepared) / SHARD
    os.truncate(path, size % path.stat().st_size)
    with pytest.raises(DataError, match=rf"{SHARD} is damaged .*delete"):
        load_mnist(data_dir=str(prepared), download=False)


def test_an_altered_record_file_is_refused_by_name(prepared):
    path = version_folder(prepared) / SHARD
    content = bytearray(path.read_bytes())
    content[1000] ^= 255
    path.write_bytes(content)
    with pytest.raises(DataError, match=rf"{SHARD} is damaged .*delete"):
        load_mnist(data_dir=str(prepared), download=False)


def test_intact_records_with_other_content_are_refused_by_name(prepared):
    path = version_folder(prepared) / SHARD
    records = array_record_module.ArrayRecordReader(str(path)).read_all()
    records[3], records[4] = records[4], records[3]
    writer = array_record_module.ArrayRecordWriter(str(path), "group_size:1")
    for record in records:
        writer.write(record)
    writer.close()
    with pytest.raises(DataError, match=rf"{version_folder(prepared)} are not those of MNIST: delete"):
        load_mnist(data_dir=str(prepared), download=False)


@pytest.mark.parametrize("damage", ["unlink", "truncate"])
def test_preparing_from_damaged_files_names_the_file(synthetic, tmp_path, damage):
    shutil.copytree(synthetic.folder, tmp_path / "originals")
    path = tmp_path / "originals" / "t10k-images-idx3-ubyte.gz"
    path.unlink() if damage == "unlink" else os.truncate(path, 100)
    with pytest.raises(DataError, match=r"t10k-images-idx3-ubyte\.gz"):
        mnist_builder.prepare_mnist(str(tmp_path / "tfds"), source_dir=str(tmp_path / "originals"))
    assert not (tmp_path / "tfds").exists()


# What interrupts preparing


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)),
        OSError(errno.EDQUOT, os.strerror(errno.EDQUOT)),
        RuntimeError("write() failed: No space left on device; writing x; at byte 5242880"),
    ],
)
def test_no_space_left_is_one_sentence_and_leaves_nothing(synthetic, tmp_path, monkeypatch, error):
    class FullDisk:
        def __init__(self, path, options):
            self.file = open(path, "wb")  # noqa: SIM115

        def write(self, record):
            self.file.write(record)
            if self.file.tell() > 1_000_000:
                raise error

    monkeypatch.setattr(array_record_module, "ArrayRecordWriter", FullDisk)
    with pytest.raises(DataError, match=rf"no space left on the device while preparing MNIST in {tmp_path}") as caught:
        mnist_builder.prepare_mnist(str(tmp_path), source_dir=str(synthetic.root))
    assert "\n" not in str(caught.value)
    assert left_behind(tmp_path) == []


def test_records_lost_on_the_way_to_the_disk_leave_nothing(synthetic, tmp_path, monkeypatch):
    real = array_record_module.ArrayRecordWriter

    class Forgetful:
        def __init__(self, path, options):
            self.writer, self.written = real(path, options), 0

        def write(self, record):
            self.written += 1
            if self.written != 10:
                self.writer.write(record)

        def close(self):
            self.writer.close()

    monkeypatch.setattr(array_record_module, "ArrayRecordWriter", Forgetful)
    with pytest.raises(DataError, match="could not be prepared"):
        mnist_builder.prepare_mnist(str(tmp_path), source_dir=str(synthetic.root))
    assert left_behind(tmp_path) == []


def test_an_interrupt_from_the_keyboard_leaves_nothing(synthetic, tmp_path, monkeypatch):
    def interrupt(builder):
        raise KeyboardInterrupt

    monkeypatch.setattr(mnist_builder, "_checked_content", interrupt)
    with pytest.raises(KeyboardInterrupt):
        mnist_builder.prepare_mnist(str(tmp_path), source_dir=str(synthetic.root))
    assert left_behind(tmp_path) == []


def test_a_killed_preparation_is_not_mistaken_for_a_finished_one(synthetic, tmp_path):
    script = """
import os, pickle, sys
from rnnjax.data import mnist_builder, mnist_files
mnist_files.ORIGINALS = pickle.loads(bytes.fromhex(sys.argv[1]))
mnist_builder._checked_content = lambda builder: os._exit(9)  # all is written, and not yet renamed
mnist_builder.prepare_mnist(sys.argv[2], source_dir=sys.argv[3])
"""
    originals = pickle.dumps(synthetic.originals).hex()
    arguments = [originals, str(tmp_path), str(synthetic.root)]
    killed = subprocess.run([sys.executable, "-c", script, *arguments], capture_output=True, text=True)
    assert killed.returncode == 9, killed.stderr
    assert list(tmp_path.rglob(SHARD)), "it was killed before it wrote anything"
    with pytest.raises(DataError, match="is not in"):
        load_mnist(data_dir=str(tmp_path), download=False)
    mnist_builder.prepare_mnist(str(tmp_path), source_dir=str(synthetic.root))
    assert len(load_mnist(data_dir=str(tmp_path), download=False).splits["test"]["label"]) == 60


def test_two_processes_may_prepare_at_once(synthetic, prepared_once, tmp_path, monkeypatch):
    checked_content = mnist_builder._checked_content

    def finish_after_the_other(builder):
        if not version_folder(tmp_path).exists():
            shutil.copytree(version_folder(prepared_once), version_folder(tmp_path))
        return checked_content(builder)

    monkeypatch.setattr(mnist_builder, "_checked_content", finish_after_the_other)
    builder = mnist_builder.prepare_mnist(str(tmp_path), source_dir=str(synthetic.root))
    assert len(mnist_builder.read_prepared(builder)["test"]["label"]) == 60
    assert not [name for name in left_behind(tmp_path) if "incomplete" in name]


def test_a_directory_that_cannot_be_written_to_is_named(synthetic, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match=f"{tmp_path / 'file'}"):
        mnist_builder.prepare_mnist(str(tmp_path / "file"), source_dir=str(synthetic.root))


# The wire format


def example(image: np.ndarray, label: int, *, label_first: bool, packed: bool = True) -> bytes:
    """A tf.train.Example put together by hand, to fix what protobuf leaves open."""

    def field(key: bytes, content: bytes) -> bytes:
        size = len(content)
        length = bytes([size]) if size < 128 else bytes([size & 127 | 128, size >> 7])
        return key + length + content

    values = field(b"\n", bytes([label])) if packed else b"\x08" + bytes([label])
    image_entry = field(b"\n", field(b"\n", b"image") + field(b"\x12", field(b"\n", field(b"\n", image.tobytes()))))
    label_entry = field(b"\n", field(b"\n", b"label") + field(b"\x12", field(b"\x1a", values)))
    record = field(b"\n", label_entry + image_entry if label_first else image_entry + label_entry)
    assert tf_example_pb2.Example.FromString(record).features.feature["label"].int64_list.value[0] == label
    return record


wire_forms = st.tuples(st.booleans(), st.booleans())


@given(st.one_of(wire_forms.map(lambda form: [form] * 5), st.lists(wire_forms, min_size=5, max_size=5)), st.integers(0))
def test_records_in_any_wire_form_give_the_same_arrays(tmp_path_factory, forms, seed):
    rng = np.random.default_rng(seed)
    images, labels = rng.integers(0, 256, (5, 28, 28), dtype=np.uint8), rng.integers(0, 10, 5)
    records = [
        example(image, label, label_first=first, packed=packed)
        for image, label, (first, packed) in zip(images, labels, forms, strict=True)
    ]
    decoded = mnist_builder._decode(records, features())
    np.testing.assert_array_equal(decoded["image"], images)
    np.testing.assert_array_equal(decoded["label"], labels)
    assert decoded["image"].dtype == np.uint8
    assert decoded["label"].dtype == np.int32


def features():
    image = tfds.features.Tensor(shape=(28, 28, 1), dtype=np.uint8, encoding="bytes")
    return tfds.features.FeaturesDict({"image": image, "label": tfds.features.ClassLabel(num_classes=10)})


def test_a_record_of_something_else_is_refused(synthetic):
    with pytest.raises(DataError, match="no image and label"):
        mnist_builder._decode([b"\n\x00", b"something else"], features())


# The real files


@pytest.mark.thorough
def test_the_real_mnist_is_prepared_and_opened(real_root, tmp_path):
    # How long opening takes, benchmarks/data.py measures.
    mnist_builder.prepare_mnist(str(tmp_path), source_dir=str(real_root))
    assert load_mnist_from(tmp_path).checksum == mnist_files.CONTENT_CHECKSUM
    assert "tensorflow" not in sys.modules


def load_mnist_from(data_dir):
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.delenv("RNNJAX_DATA", raising=False)
        return load_mnist(data_dir=str(data_dir), download=False)


@pytest.mark.parametrize("error", [requests.exceptions.ChunkedEncodingError("cut"), tfds.download.DownloadError("cut")])
def test_a_download_that_breaks_off_is_said_and_tried_once_more(error, synthetic, tmp_path, monkeypatch, caplog):
    tried, prepare = [], mnist_builder._prepare

    def broken(builder, manual_dir, *, times):
        tried.append(builder.mirror)
        if len(tried) <= times:
            raise error
        prepare(builder, synthetic.root / "mnist")

    monkeypatch.setattr(mnist_builder, "reachable_mirror", lambda: "http://127.0.0.1/")
    monkeypatch.setattr(mnist_builder, "_prepare", functools.partial(broken, times=1))
    assert mnist_builder.prepare_mnist(str(tmp_path / "one")).data_path.exists()
    assert caplog.messages == ["the download of MNIST from http://127.0.0.1/ failed (cut) and is tried again"]
    tried.clear()
    monkeypatch.setattr(mnist_builder, "_prepare", functools.partial(broken, times=2))
    with pytest.raises(DataError, match=r"downloading MNIST from http://127.0.0.1/ failed \(cut\)"):
        mnist_builder.prepare_mnist(str(tmp_path / "other"))
    assert tried == ["http://127.0.0.1/"] * 2
