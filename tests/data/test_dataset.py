import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from rnnjax.data.dataset import content_checksum

arrays = hnp.arrays(st.sampled_from([np.uint8, np.int32, np.float32]), hnp.array_shapes(max_dims=3, max_side=4))


@given(arrays)
def test_the_checksum_does_not_depend_on_memory_layout_or_byte_order(values):
    expected = content_checksum({"train": {"x": values}})
    assert content_checksum({"train": {"x": np.asfortranarray(values)}}) == expected
    assert content_checksum({"train": {"x": values.astype(values.dtype.newbyteorder(">"))}}) == expected


def test_the_checksum_does_not_depend_on_the_order_of_names():
    a, b = np.arange(3), np.arange(4)
    forward = {"train": {"x": a, "y": b}, "test": {"x": b}}
    backward = {"test": {"x": b}, "train": {"y": b, "x": a}}
    assert content_checksum(forward) == content_checksum(backward)


def test_the_checksum_tells_apart_values_shapes_dtypes_and_names():
    x = np.arange(6, dtype=np.int32)
    changed = x.copy()
    changed[3] += 1
    different = [
        {"train": {"x": x}},
        {"train": {"x": changed}},
        {"train": {"x": x.reshape(2, 3)}},
        {"train": {"x": x.view(np.uint32)}},
        {"train": {"y": x}},
        {"test": {"x": x}},
    ]
    assert len({content_checksum(splits) for splits in different}) == len(different)
