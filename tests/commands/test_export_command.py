"""``python -m rnnjax.export``: one run in every format, each read back and compared with the run."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from fixtures.parameters import drawn_parameters

import rnnjax
from rnnjax import GRU, Project
from rnnjax.export import main, recurrent_layer
from rnnjax.interop import from_arrays, read_safetensors, to_torch, write_torch

IMAGES = np.random.default_rng(0).integers(0, 256, (3, 28, 28), dtype=np.uint8)


@pytest.fixture(scope="module")
def run(trained):
    return rnnjax.load_run(trained[0])


def test_a_run_is_written_as_programs_that_predict_what_it_predicts(run, call, tmp_path):
    code, printed, _, _ = call(main, run.directory, "--to", "stablehlo", "--out", tmp_path / "out")
    assert code == 0
    names = ["predict.stablehlo", "unroll.stablehlo", "initial_state.stablehlo", "signature.json"]
    signature = json.loads((tmp_path / "out" / "signature.json").read_text())
    assert signature["unroll"]["arguments"] == {"0": "float32[B,T,28]", "1": "int32[B]", "2.h": "float32[B,8]"}
    assert printed.split() == [str(tmp_path / "out" / name) for name in names]
    predict, unroll, start = (jax.export.deserialize((tmp_path / "out" / name).read_bytes()).call for name in names[:3])
    expected = run.predict(IMAGES)
    np.testing.assert_allclose(predict({"image": IMAGES}), expected, rtol=1e-4, atol=1e-5)
    lengths = np.full(len(IMAGES), 28, np.int32)
    ys, _ = unroll(np.float32(IMAGES) / 255, lengths, start(lengths))  # rows of pixels, the dense layer at every step
    np.testing.assert_allclose(ys[:, -1], expected, rtol=1e-4, atol=1e-5)


def test_all_parameters_of_a_run_are_written_as_safetensors(run, call, tmp_path):
    assert call(main, run.directory, "--to", "safetensors", "--out", tmp_path / "new" / "a")[0] == 0
    again = from_arrays(run.params, read_safetensors(tmp_path / "new" / "a"))
    jax.tree.map(np.testing.assert_array_equal, again, run.params)


def test_its_recurrent_layer_is_written_for_torch(run, call, tmp_path):
    cell, params, _ = recurrent_layer(run.cell, run.params)
    assert call(main, run.directory, "--to", "torch", "--out", tmp_path / "a.pt")[0] == 0
    write_torch(tmp_path / "b.pt", to_torch(cell, params))
    assert (tmp_path / "a.pt").read_bytes() == (tmp_path / "b.pt").read_bytes()


def test_what_a_format_cannot_express_is_said_in_one_sentence(run, call, tmp_path):
    code, _, sentences, _ = call(main, run.directory, "--to", "keras", "--out", tmp_path / "a.h5")
    assert code == 2
    assert len(sentences) == 1
    assert "cannot be written as keras: " in sentences[0]


def test_a_path_that_cannot_be_written_is_named_and_nothing_is_left(run, call, tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("mine")
    for to, out, why in [
        ("torch", tmp_path / "folder", "Is a directory"),
        ("stablehlo", tmp_path / "file", "File exists"),
        ("safetensors", tmp_path / "file" / "a", "File exists"),
    ]:
        code, _, sentences, _ = call(main, run.directory, "--to", to, "--out", out)
        assert (code, sentences) == (2, [f"rnnjax: --out {out} cannot be written ({why}); choose another"])
    assert sorted(tmp_path.iterdir()) == [tmp_path / "file", tmp_path / "folder"]
    assert (tmp_path / "file").read_text() == "mine"


def test_a_recurrent_layer_and_a_dense_one_are_a_projection(run, call, tmp_path):
    cell, params, others = recurrent_layer(run.cell, run.params)
    assert (cell, others) == (Project(run.cell, 10), ())
    xs = jnp.asarray(IMAGES, jnp.float32) / 255
    np.testing.assert_allclose(rnnjax.unroll(cell, params, xs)[0][:, -1], run.predict(IMAGES), rtol=1e-4, atol=1e-5)


def test_other_parts_of_a_model_are_named_and_an_ambiguous_one_is_refused():
    cell = GRU(4)
    params = drawn_parameters(lambda key: cell.init(key, 3))
    model = {"params": {"Embed_0": {"embedding": np.ones((5, 3))}, "RNN_0": {"rnn": params}}}
    assert recurrent_layer(cell, model).others == ("Embed_0",)
    before = {"Dense_0": {"kernel": np.ones((2, 3)), "bias": np.ones(3)}}
    assert recurrent_layer(cell, {"params": {**before, "RNN_0": {"rnn": params}}}).others == ("Dense_0",)
    for several in ({"a": params, "b": params}, {"a": np.ones(3)}):
        with pytest.raises(ValueError, match="recurrent layers with the parameters of its cell, and one is needed"):
            recurrent_layer(cell, several)
    with pytest.raises(ValueError, match="its model has 0 recurrent layers"):
        recurrent_layer(None, model)
