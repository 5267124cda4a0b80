import http.server
import shutil
import subprocess
import sys
import threading
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from rnnjax.data import mnist_files
from rnnjax.data.mnist import load_mnist
from rnnjax.errors import DataError

FILE_NAMES = [file.name for file in mnist_files.original_files()]


def assert_is(data, expected):
    """`data` is the stand-in, cut into train, validation and test."""
    train = expected["train"]
    wanted = {
        "train": {field: values[5000:] for field, values in train.items()},
        "validation": {field: values[:5000] for field, values in train.items()},
        "test": expected["test"],
    }
    assert data.splits.keys() == wanted.keys()
    for split, fields in wanted.items():
        for field, values in fields.items():
            np.testing.assert_array_equal(data.splits[split][field], values)
            assert data.splits[split][field].dtype == values.dtype


@pytest.fixture
def copied(synthetic, tmp_path):
    folder = tmp_path / "copied"
    shutil.copytree(synthetic.folder, folder)
    return folder


@pytest.fixture
def no_network(monkeypatch):
    from rnnjax.data import mnist_builder

    # Nothing listens on the discard port of this machine.
    monkeypatch.setattr(mnist_builder, "MIRRORS", ("http://127.0.0.1:9/a/", "http://127.0.0.1:9/b/"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@pytest.fixture
def serve(monkeypatch):
    """Serves a folder as the second of two mirrors, the first of which is down; returns its address."""
    from rnnjax.data import mnist_builder

    servers = []

    def start(folder: Path) -> str:
        class Quiet(http.server.SimpleHTTPRequestHandler):
            def log_message(self, *args):
                pass

        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        url = f"http://127.0.0.1:{server.server_port}/"
        monkeypatch.setattr(mnist_builder, "MIRRORS", ("http://127.0.0.1:9/", url))
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        return url

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


# A local folder


@pytest.mark.parametrize("subfolder", ["", "mnist"])
def test_a_path_may_be_the_folder_with_the_files_or_the_one_above(synthetic, subfolder):
    data = load_mnist(str(synthetic.root / subfolder))
    assert_is(data, synthetic.content)
    assert str(synthetic.folder) in data.source


@pytest.mark.parametrize("name", FILE_NAMES)
def test_a_missing_file_is_named(copied, name):
    (copied / name).unlink()
    with pytest.raises(
        DataError, match=rf"{name} of mnist is missing in {copied} \(--config\.data\.path\): put it there"
    ):
        load_mnist(str(copied))


@pytest.mark.parametrize("name", FILE_NAMES)
def test_a_truncated_file_is_named(copied, name):
    content = (copied / name).read_bytes()
    (copied / name).write_bytes(content[:-7])
    with pytest.raises(DataError, match=rf"{name} has {len(content) - 7} bytes where the original has {len(content)}"):
        load_mnist(str(copied))


@pytest.mark.parametrize("name", FILE_NAMES)
def test_an_altered_file_is_named(copied, name):
    content = bytearray((copied / name).read_bytes())
    content[len(content) // 2] ^= 1
    (copied / name).write_bytes(content)
    with pytest.raises(DataError, match=rf"{name} has been altered .* replace it"):
        load_mnist(str(copied))


def test_a_file_that_cannot_be_read_is_named(copied):
    (copied / FILE_NAMES[0]).unlink()
    (copied / FILE_NAMES[0]).mkdir()
    with pytest.raises(DataError, match=FILE_NAMES[0]):
        load_mnist(str(copied))


# The order of the sources


def test_a_path_without_the_files_is_an_error_even_where_other_data_is_at_hand(
    synthetic, prepared_once, tmp_path, monkeypatch
):
    monkeypatch.setenv("RNNJAX_DATA", str(synthetic.root))
    with pytest.raises(
        DataError, match=rf"mnist \({FILE_NAMES[0]}, .*\) is not in {tmp_path}/nowhere/mnist or {tmp_path}/nowhere"
    ):
        load_mnist(str(tmp_path / "nowhere"), data_dir=str(prepared_once))


def test_a_path_comes_before_the_environment(synthetic, copied, monkeypatch, tmp_path):
    monkeypatch.setenv("RNNJAX_DATA", str(tmp_path / "nowhere"))
    assert str(copied) in load_mnist(str(copied)).source


def test_the_environment_comes_before_a_prepared_directory(synthetic, prepared_once, monkeypatch):
    monkeypatch.setenv("RNNJAX_DATA", str(synthetic.root))
    data = load_mnist(data_dir=str(prepared_once))
    assert str(synthetic.folder) in data.source
    assert "RNNJAX_DATA" in data.source


def test_an_environment_folder_with_no_mnist_is_passed_over_with_a_note(
    synthetic, prepared_once, monkeypatch, tmp_path, caplog
):
    monkeypatch.setenv("RNNJAX_DATA", str(tmp_path))
    data = load_mnist(data_dir=str(prepared_once))
    assert str(prepared_once) in data.source
    assert f"RNNJAX_DATA={tmp_path} holds no files of mnist, so it is looked for in {prepared_once}" in caplog.text


def test_an_environment_folder_with_half_of_mnist_is_an_error(synthetic, copied, prepared_once, monkeypatch):
    (copied / FILE_NAMES[3]).unlink()
    monkeypatch.setenv("RNNJAX_DATA", str(copied))
    with pytest.raises(DataError, match=f"{FILE_NAMES[3]} of mnist is missing"):
        load_mnist(data_dir=str(prepared_once))


def test_a_prepared_directory_comes_before_the_download(synthetic, prepared_once, no_network):
    data = load_mnist(data_dir=str(prepared_once))
    assert_is(data, synthetic.content)
    assert str(prepared_once) in data.source


def test_the_default_directory_is_tfds_data_dir(synthetic, prepared_once, no_network, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(prepared_once))
    assert str(prepared_once) in load_mnist().source


def test_every_source_gives_the_same_checksum(synthetic, prepared_once):
    assert load_mnist(str(synthetic.root)).checksum == load_mnist(data_dir=str(prepared_once)).checksum


# The download


def test_the_download_is_prepared_read_and_named(synthetic, serve, tmp_path):
    url = serve(synthetic.folder)
    data = load_mnist(data_dir=str(tmp_path / "tfds"))
    assert_is(data, synthetic.content)
    assert url in data.source
    assert str(tmp_path / "tfds") in data.source
    again = load_mnist(data_dir=str(tmp_path / "tfds"), download=False)
    assert again.checksum == data.checksum
    assert [path.name for path in (tmp_path / "tfds").iterdir()] == ["rnnjax_mnist"]


def test_no_network_is_one_sentence_with_the_options(synthetic, no_network, tmp_path):
    with pytest.raises(DataError, match=r"--config\.data\.path.*RNNJAX_DATA.*`embedded`") as caught:
        load_mnist(data_dir=str(tmp_path / "tfds"))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "tfds").exists()


def test_a_download_that_is_not_mnist_is_refused(synthetic, serve, copied, tmp_path):
    (copied / FILE_NAMES[1]).write_bytes(b"please log in to this network")
    serve(copied)
    with pytest.raises(DataError, match=r"is not the original MNIST .*--config\.data\.path"):
        load_mnist(data_dir=str(tmp_path / "tfds"))
    assert not list((tmp_path / "tfds").rglob("*.gz"))


def test_a_download_that_breaks_off_is_refused(synthetic, serve, copied, tmp_path):
    (copied / FILE_NAMES[2]).unlink()
    serve(copied)
    with pytest.raises(DataError, match=r"downloading MNIST from .* failed .*--config\.data\.path"):
        load_mnist(data_dir=str(tmp_path / "tfds"))


def test_without_download_the_missing_directory_is_named(synthetic, tmp_path):
    with pytest.raises(DataError, match=rf"is not in {tmp_path}/rnnjax_mnist/1\.0\.0: put it there"):
        load_mnist(data_dir=str(tmp_path), download=False)


def test_a_missing_package_is_named(synthetic, monkeypatch, tmp_path):
    import rnnjax.data

    monkeypatch.delitem(sys.modules, "rnnjax.data.mnist_builder", raising=False)
    monkeypatch.delattr(rnnjax.data, "mnist_builder", raising=False)
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    with pytest.raises(DataError, match=r"package tensorflow_datasets: pip install \"rnnjax\[train\]\""):
        load_mnist(data_dir=str(tmp_path))


def test_importing_the_loaders_imports_no_data_library():
    script = """
import sys, rnnjax.data, rnnjax.data.mnist, rnnjax.data.embedded
print([name for name in ("tensorflow", "tensorflow_datasets", "mlxtend", "array_record") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# The real files


def test_the_real_mnist_has_the_splits_of_the_classic_course(real_root):
    data = load_mnist(str(real_root))
    assert {split: len(fields["label"]) for split, fields in data.splits.items()} == {
        "train": 55_000,
        "validation": 5_000,
        "test": 10_000,
    }
    for fields in data.splits.values():
        assert fields["image"].shape == (len(fields["label"]), 28, 28)
        assert fields["image"].dtype == np.uint8
        assert fields["label"].dtype == np.int32
    assert data.splits["validation"]["label"][:5].tolist() == [5, 0, 4, 1, 9]
    assert data.splits["test"]["label"][:5].tolist() == [7, 2, 1, 0, 4]
    assert data.checksum == mnist_files.CONTENT_CHECKSUM
