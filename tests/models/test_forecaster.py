import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rnnjax
from rnnjax.models import Forecaster, continue_series

XS = jax.random.normal(jax.random.key(0), (2, 5, 3))
CELLS = {"gru": rnnjax.GRU(4), "stack": rnnjax.Stack((rnnjax.BasicRNN(4, activation="relu"), rnnjax.LSTM(3)))}


def forecaster(cell=CELLS["gru"], **options):
    model = Forecaster(cell, 3, **options)
    return model, model.init(jax.random.key(1), XS)


@pytest.mark.parametrize("cell", CELLS.values(), ids=CELLS)
def test_predictions_are_a_dense_layer_on_the_outputs_of_every_step(cell):
    model, variables = forecaster(cell)
    params = variables["params"]
    params["Dense_0"]["bias"] = jnp.arange(3.0)
    ys, _ = rnnjax.unroll(cell, params["RNN_0"]["rnn"], XS)
    expected = ys @ params["Dense_0"]["kernel"] + jnp.arange(3.0)
    np.testing.assert_allclose(model.apply(variables, XS), expected, rtol=1e-5, atol=1e-6)


def test_a_project_cell_predicts_what_a_dense_layer_of_the_same_weights_does():
    model, variables = forecaster()
    dense = {"kernel": variables["params"]["Dense_0"]["kernel"], "bias": jnp.arange(3.0)}
    rnn = variables["params"]["RNN_0"]["rnn"]
    projected = Forecaster(rnnjax.Project(CELLS["gru"], 3), 3, dense=False)
    params = {"RNN_0": {"rnn": rnnjax.cells.ProjectParams(rnn, dense["kernel"], dense["bias"])}}
    np.testing.assert_allclose(
        projected.apply({"params": params}, XS),
        model.apply({"params": {"RNN_0": {"rnn": rnn}, "Dense_0": dense}}, XS),
        rtol=1e-5,
        atol=1e-6,
    )


@pytest.mark.parametrize("cell", CELLS.values(), ids=CELLS)
def test_no_prediction_depends_on_later_inputs(cell):
    model, variables = forecaster(cell)
    gradients = jax.jacobian(lambda xs: model.apply(variables, xs).sum((0, 2)))(XS)  # [T, B, T, I]
    depends = (np.abs(gradients) > 0).any((1, 3))
    np.testing.assert_array_equal(depends, np.tri(5, dtype=bool))


def test_without_a_dense_layer_the_cell_must_have_as_many_outputs_as_predictions():
    with pytest.raises(ValueError, match=r"must have 3 outputs, got 4: wrap it as Project\(cell, 3\)"):
        forecaster(dense=False)


@pytest.mark.promotes_types
def test_in_bfloat16_predictions_are_float32():
    model, variables = forecaster(dtype=jnp.bfloat16)
    found = model.apply(variables, XS)
    assert found.dtype == jnp.float32
    exact = Forecaster(CELLS["gru"], 3).apply(variables, XS)
    np.testing.assert_allclose(found, exact, atol=0.05)
    assert not np.array_equal(found, exact)


def test_a_series_is_continued_by_the_last_prediction_of_the_last_window():
    model, variables = forecaster()
    predict = jax.jit(lambda xs: model.apply(variables, xs))
    found = continue_series(predict, XS[0], 7)
    values = list(XS[0])
    for _ in range(7):
        values.append(predict(jnp.stack(values[-5:])[None])[0, -1])
    np.testing.assert_allclose(found, values[5:], rtol=1e-5, atol=1e-6)


def test_a_longer_continuation_begins_with_the_shorter_one():
    predict = jax.jit(lambda xs: jnp.sin(xs + xs.sum(1, keepdims=True)))
    np.testing.assert_array_equal(continue_series(predict, XS[0], 9)[:4], continue_series(predict, XS[0], 4))
