import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.errors import InvalidRngError

import rnnjax
from rnnjax.models import SequenceClassifier

XS = jax.random.normal(jax.random.key(0), (4, 6, 3))
CELLS = {
    "lstm": rnnjax.LSTM(5),
    "stack": rnnjax.Stack((rnnjax.GRU(5), rnnjax.BasicRNN(4))),
    "project": rnnjax.Stack((rnnjax.GRU(5), rnnjax.Project(rnnjax.LSTM(4), 3))),
    "residual": rnnjax.Residual(rnnjax.GRU(3)),
}


def classifier(cell=CELLS["lstm"], **options):
    model = SequenceClassifier(cell, 7, **options)
    return model, model.init(jax.random.key(1), XS)


@pytest.mark.parametrize("cell", CELLS.values(), ids=CELLS)
def test_logits_are_a_dense_layer_on_the_last_output(cell):
    model, variables = classifier(cell)
    found = model.apply(variables, XS)
    assert found.shape == (4, 7)
    params = variables["params"]
    ys, _ = rnnjax.unroll(cell, params["RNN_0"]["rnn"], XS)
    expected = ys[:, -1] @ params["Dense_0"]["kernel"] + params["Dense_0"]["bias"]
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("cell", CELLS.values(), ids=CELLS)
def test_the_last_valid_step_is_classified(cell):
    model, variables = classifier(cell)
    lengths = np.array([6, 3, 1, 2])
    found = model.apply(variables, XS, lengths=lengths)
    for b, length in enumerate(lengths):
        alone = model.apply(variables, XS[b : b + 1, :length])
        np.testing.assert_allclose(found[b], alone[0], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("cell", CELLS.values(), ids=CELLS)
def test_nothing_valid_is_classified_by_zeros(cell):
    model, variables = classifier(cell)
    found = model.apply(variables, XS, lengths=jnp.zeros(4, int))
    np.testing.assert_array_equal(found, jnp.broadcast_to(variables["params"]["Dense_0"]["bias"], (4, 7)))


def test_no_output_is_kept_for_the_last_one():
    model, variables = classifier(rnnjax.LSTM(16))
    text = jax.jit(model.apply).lower(variables, jnp.zeros((4, 50, 3))).compile().as_text()
    assert "f32[50,4,16]" not in text


def test_padding_changes_neither_logits_nor_gradients():
    model, variables = classifier()
    lengths = jnp.array([6, 3, 1, 2])
    padding = jnp.arange(6)[:, None] >= lengths[:, None, None]

    def loss(variables, xs):
        return (model.apply(variables, xs, lengths=lengths) ** 2).sum()

    values = [
        jax.value_and_grad(loss, argnums=(0, 1))(variables, jnp.where(padding, filler, XS))
        for filler in (0.0, 1e3, jnp.nan)
    ]
    for other in values[1:]:
        for a, b in zip(jax.tree.leaves(values[0]), jax.tree.leaves(other), strict=True):
            np.testing.assert_array_equal(a, b)
    assert not np.asarray(values[0][1][1])[np.broadcast_to(padding, XS.shape)].any()


def test_lengths_of_t_are_no_lengths():
    model, variables = classifier()
    whole = model.apply(variables, XS, lengths=jnp.full(4, 6))
    np.testing.assert_allclose(whole, model.apply(variables, XS), rtol=1e-6, atol=1e-6)  # two programs


def test_an_empty_sequence_is_classified_by_the_bias_alone():
    model, variables = classifier()
    variables["params"]["Dense_0"]["bias"] = jnp.arange(7.0)
    found = model.apply(variables, XS, lengths=jnp.array([0, 6, 6, 6]))
    np.testing.assert_array_equal(found[0], jnp.arange(7.0))


@pytest.mark.promotes_types
def test_in_bfloat16_logits_and_parameters_are_float32():
    model, variables = classifier(dtype=jnp.bfloat16)
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
    found = model.apply(variables, XS)
    assert found.dtype == jnp.float32
    exact = SequenceClassifier(CELLS["lstm"], 7).apply(variables, XS)
    np.testing.assert_allclose(found, exact, atol=0.05)
    assert not np.array_equal(found, exact)


def test_dropout_needs_the_rng():
    model, variables = classifier(rnnjax.Dropout(rnnjax.LSTM(5), input_rate=0.5))
    with pytest.raises(InvalidRngError, match="dropout"):
        model.apply(variables, XS)
    plain = model.apply(variables, XS, deterministic=True)
    dropped = [model.apply(variables, XS, rngs={"dropout": jax.random.key(seed)}) for seed in (0, 0, 1)]
    assert np.array_equal(dropped[0], dropped[1])
    assert not np.allclose(dropped[0], dropped[2])
    assert not np.allclose(dropped[0], plain)
