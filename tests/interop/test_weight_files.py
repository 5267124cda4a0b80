"""Weights in files: written, read back, and refused where they are damaged."""

import json
import pickle
import zipfile

import jax.numpy as jnp
import numpy as np
import pytest
from fixtures.parameters import drawn_parameters
from foreign_variables import H, I, P, same

from rnnjax import GRU, LSTM, Project, Stack
from rnnjax.interop import (
    from_arrays,
    from_keras,
    from_torch,
    read_safetensors,
    to_arrays,
    to_keras,
    to_torch,
    write_keras,
    write_safetensors,
    write_torch,
)

CELL = Project(Stack([LSTM(H, param_dtype=jnp.bfloat16), GRU(H)]), P)
PARAMS = drawn_parameters(lambda key: CELL.init(key, I))


def test_parameters_are_read_back_from_safetensors_as_they_were(tmp_path):
    path = tmp_path / "a.safetensors"
    write_safetensors(path, to_arrays(PARAMS), {"cell": repr(CELL)})
    read = read_safetensors(path)
    assert list(read)[:2] == ["cell.0.w_x", "cell.0.w_h"]
    again = from_arrays(PARAMS, read)
    assert same(again, PARAMS)
    assert again.cell[0].w_x.dtype == jnp.bfloat16
    assert [each.name for each in tmp_path.iterdir()] == ["a.safetensors"]


def test_the_format_is_a_length_a_header_and_the_bytes_in_order(tmp_path):
    path = tmp_path / "a.safetensors"
    write_safetensors(path, {"a": np.float32([1, 2]), "b": np.array(True)}, {"by": "me"})
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    assert length % 8 == 0
    assert json.loads(content[8 : 8 + length]) == {
        "__metadata__": {"by": "me"},
        "a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]},
        "b": {"dtype": "BOOL", "shape": [], "data_offsets": [8, 9]},
    }
    assert content[8 + length :] == np.array([1, 2], "<f4").tobytes() + b"\x01"


def test_the_field_s_own_package_reads_and_writes_the_same_files(tmp_path):
    numpy = pytest.importorskip("safetensors.numpy")
    arrays = to_arrays(PARAMS.cell[1])
    write_safetensors(tmp_path / "a", arrays)
    numpy.save_file(arrays, tmp_path / "b")
    for read in (numpy.load_file(tmp_path / "a"), read_safetensors(tmp_path / "b")):
        assert read.keys() == arrays.keys()
        assert all(np.array_equal(read[name], arrays[name]) for name in arrays)


@pytest.mark.parametrize(
    "content",
    [b"", b"\xff" * 9, (4).to_bytes(8, "little") + b"[1]]", (2).to_bytes(8, "little") + b"[]"],
    ids=["empty", "too long", "no JSON", "no object"],
)
def test_what_is_no_safetensors_file_is_refused(content, tmp_path):
    (tmp_path / "a").write_bytes(content)
    with pytest.raises(ValueError, match="is no safetensors file, or it is damaged: its header cannot be read"):
        read_safetensors(tmp_path / "a")


def test_a_cut_file_is_refused_by_the_array_that_is_damaged(tmp_path):
    write_safetensors(tmp_path / "a", {"w": np.ones(3, np.float32)})
    (tmp_path / "a").write_bytes((tmp_path / "a").read_bytes()[:-1])
    with pytest.raises(ValueError, match="is damaged: w cannot be read as"):
        read_safetensors(tmp_path / "a")


def test_arrays_that_do_not_fit_are_refused_by_name():
    like = PARAMS.cell[1]
    arrays = to_arrays(like)
    with pytest.raises(ValueError, match="there is no w_h among the 3 arrays for parameters w_x, w_h, b, b_hn"):
        from_arrays(like, {name: value for name, value in arrays.items() if name != "w_h"})
    with pytest.raises(ValueError, match="there is no use for w_p among the 5 arrays"):
        from_arrays(like, arrays | {"w_p": np.ones(1)})
    with pytest.raises(ValueError, match=r"b must be float32 of shape \[3, 4\], got float64 \[3\]"):
        from_arrays(like, arrays | {"b": np.ones(3)})


class Torch(pickle.Unpickler):
    """Reads PyTorch's pickles as PyTorch does, with NumPy's arrays for tensors."""

    def __init__(self, archive):
        super().__init__(archive.open("archive/data.pkl"))
        self.archive = archive

    def find_class(self, module, name):
        known = {"FloatStorage": np.float32, "_rebuild_tensor_v2": rebuilt, "OrderedDict": dict}
        assert (module, name) in [("torch", "FloatStorage"), ("torch._utils", name), ("collections", "OrderedDict")]
        return known[name]

    def persistent_load(self, pid):
        kind, dtype, key, device, size = pid
        assert (kind, device) == ("storage", "cpu")
        values = np.frombuffer(self.archive.read(f"archive/data/{key}"), dtype)
        assert len(values) == size
        return values


def rebuilt(storage, offset, shape, strides, requires_grad, hooks):
    assert (requires_grad, hooks) == (False, {})
    return np.lib.stride_tricks.as_strided(storage[offset:], shape, [4 * stride for stride in strides])


def test_a_file_for_torch_is_the_archive_that_torch_reads(tmp_path):
    cell, params = Stack([GRU(H)] * 2), (PARAMS.cell[1],) * 2
    write_torch(tmp_path / "a.pt", to_torch(cell, params))
    with zipfile.ZipFile(tmp_path / "a.pt") as archive:
        assert archive.read("archive/version") == b"3\n"
        read = Torch(archive).load()
    assert same(from_torch(cell, read), params)
    with pytest.raises(TypeError, match="w must be float32 or float64, got int64"):
        write_torch(tmp_path / "b.pt", {"w": np.ones(2, np.int64)})


def test_a_file_for_keras_reads_back_as_it_was(tmp_path):
    h5py = pytest.importorskip("h5py")
    cell = Project(Stack([LSTM(H), LSTM(H)]), P)
    params = drawn_parameters(lambda key: cell.init(key, I))
    write_keras(tmp_path / "a.weights.h5", to_keras(cell, params))
    with h5py.File(tmp_path / "a.weights.h5") as file:
        assert same(from_keras(cell, file), params)


def test_a_file_for_keras_has_the_ending_that_keras_wants(tmp_path):
    with pytest.raises(ValueError, match=r"end in .weights.h5, got a.h5"):
        write_keras(tmp_path / "a.h5", {})
