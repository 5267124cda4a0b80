import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from fixtures.parameters import drawn_parameters
from flax.errors import InvalidRngError

import rnnjax
from rnnjax.models import SequenceClassifier

XS = np.random.default_rng(0).standard_normal((4, 6, 3)).astype(np.float32)
LENGTHS = np.array([6, 3, 1, 0])
CELLS = {
    "lstm": rnnjax.LSTM(5),
    "stack": rnnjax.Stack((rnnjax.GRU(5), rnnjax.BasicRNN(4))),
    "project": rnnjax.Stack((rnnjax.GRU(5), rnnjax.Project(rnnjax.LSTM(4), 3))),
    "residual": rnnjax.Residual(rnnjax.GRU(3)),
}


def classifier(cell=CELLS["lstm"], **options):
    model = SequenceClassifier(cell, 7, **options)
    return model, drawn_parameters(lambda key: model.init(key, XS))


@functools.partial(jax.jit, static_argnames=("model", "deterministic"))
def apply(model, variables, xs, lengths=None, key=None, deterministic=False, mask=None):
    rngs = None if key is None else {"dropout": key}
    return model.apply(variables, xs, lengths=lengths, mask=mask, deterministic=deterministic, rngs=rngs)


@pytest.mark.parametrize("cell", CELLS.values(), ids=CELLS)
def test_logits_are_a_dense_layer_on_the_last_output_that_is_valid_and_its_bias_where_none_is(cell):
    model, variables = classifier(cell)
    params = variables["params"]

    @jax.jit
    def of_every_step(params):
        ys, _ = rnnjax.unroll(cell, params["RNN_0"]["rnn"], XS)
        return ys @ params["Dense_0"]["kernel"] + params["Dense_0"]["bias"]

    expected, bias = of_every_step(params), params["Dense_0"]["bias"]
    np.testing.assert_allclose(apply(model, variables, XS), expected[:, -1], rtol=1e-5, atol=1e-6)
    for lengths in (LENGTHS, LENGTHS[::-1], np.zeros(4, int)):
        last = [expected[b, length - 1] if length else bias for b, length in enumerate(lengths)]
        np.testing.assert_allclose(apply(model, variables, XS, lengths), last, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("name", "pooled"), [("lstm", False), ("project", False), ("stack", True)])
def test_a_sequence_with_missing_steps_is_the_sequence_without_them(name, pooled):
    model, variables = classifier(CELLS[name], pooled=pooled)
    mask = np.array([[0, 1, 1, 0, 1, 0], [1, 1, 1, 1, 1, 1], [0, 0, 0, 0, 0, 0], [1, 0, 1, 1, 1, 1]], bool)
    without, counts = np.zeros_like(XS), mask.sum(1)
    for row, (values, there) in enumerate(zip(XS, mask)):
        without[row, : counts[row]] = values[there]
    damaged = np.where(mask[..., None], XS, np.nan)
    expected = apply(model, variables, without, counts)
    np.testing.assert_allclose(apply(model, variables, damaged, mask=mask), expected, rtol=1e-5, atol=1e-6)
    both = apply(model, variables, damaged, np.array([6, 3, 0, 1]), mask=mask)
    np.testing.assert_allclose(both[2], expected[2], rtol=1e-5, atol=1e-6)
    first_step = apply(model, variables, XS, np.array([6, 3, 0, 1]))
    for row in (1, 3):
        np.testing.assert_allclose(both[row], first_step[row], rtol=1e-5, atol=1e-6)


def test_no_output_is_kept_for_the_last_one():
    model, variables = classifier(rnnjax.LSTM(16))
    text = jax.jit(model.apply).lower(variables, jnp.zeros((4, 50, 3))).compile().as_text()
    assert "f32[50,4,16]" not in text


def test_padding_changes_neither_logits_nor_gradients():
    model, variables = classifier()
    padding = np.arange(6)[:, None] >= LENGTHS[:, None, None]

    @jax.jit
    @functools.partial(jax.value_and_grad, argnums=(0, 1))
    def loss(variables, xs):
        return (model.apply(variables, xs, lengths=LENGTHS) ** 2).sum()

    values = [loss(variables, jnp.where(padding, filler, XS)) for filler in (0.0, 1e3, jnp.nan)]
    for other in values[1:]:
        for a, b in zip(jax.tree.leaves(values[0]), jax.tree.leaves(other), strict=True):
            np.testing.assert_array_equal(a, b)
    assert not np.asarray(values[0][1][1])[np.broadcast_to(padding, XS.shape)].any()


@pytest.mark.promotes_types
def test_in_bfloat16_logits_and_parameters_are_float32():
    model, variables = classifier(dtype=jnp.bfloat16)
    parameters = jax.eval_shape(model.init, jax.random.key(0), XS)
    assert {leaf.dtype for leaf in jax.tree.leaves(parameters)} == {jnp.dtype("float32")}
    found = apply(model, variables, XS)
    assert found.dtype == jnp.float32
    exact = apply(classifier()[0], variables, XS)
    np.testing.assert_allclose(found, exact, atol=0.05)
    assert not np.array_equal(found, exact)


def test_dropout_needs_the_rng():
    model, variables = classifier(rnnjax.Dropout(rnnjax.LSTM(5), input_rate=0.5))
    with pytest.raises(InvalidRngError, match="dropout"):
        model.apply(variables, XS)
    plain = apply(model, variables, XS, deterministic=True)
    dropped = [apply(model, variables, XS, key=jax.random.key(seed)) for seed in (0, 0, 1)]
    assert np.array_equal(dropped[0], dropped[1])
    assert not np.allclose(dropped[0], dropped[2])
    assert not np.allclose(dropped[0], plain)
