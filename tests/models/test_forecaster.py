import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from fixtures.parameters import drawn_parameters

import rnnjax
from rnnjax.models import Forecaster, HorizonForecaster, continue_series

XS = np.random.default_rng(0).standard_normal((2, 5, 3)).astype(np.float32)
CELLS = {"gru": rnnjax.GRU(4), "stack": rnnjax.Stack((rnnjax.BasicRNN(4, activation="relu"), rnnjax.LSTM(3)))}


def forecaster(cell=CELLS["gru"], **options):
    model = Forecaster(cell, 3, **options)
    return model, drawn_parameters(lambda key: model.init(key, XS))


@functools.partial(jax.jit, static_argnums=0)
def apply(model, variables, xs):
    return model.apply(variables, xs)


@pytest.mark.parametrize("cell", CELLS.values(), ids=CELLS)
def test_predictions_are_a_dense_layer_on_the_outputs_of_every_step(cell):
    model, variables = forecaster(cell)
    params = variables["params"]
    ys, _ = jax.jit(functools.partial(rnnjax.unroll, cell))(params["RNN_0"]["rnn"], XS)
    expected = ys @ params["Dense_0"]["kernel"] + params["Dense_0"]["bias"]
    np.testing.assert_allclose(apply(model, variables, XS), expected, rtol=1e-5, atol=1e-6)


def test_a_project_cell_predicts_what_a_dense_layer_of_the_same_weights_does():
    model, variables = forecaster()
    dense = variables["params"]["Dense_0"]
    rnn = variables["params"]["RNN_0"]["rnn"]
    projected = Forecaster(rnnjax.Project(CELLS["gru"], 3), 3, dense=False)
    params = {"RNN_0": {"rnn": rnnjax.cells.ProjectParams(rnn, dense["kernel"], dense["bias"])}}
    np.testing.assert_allclose(
        apply(projected, {"params": params}, XS),
        apply(model, variables, XS),
        rtol=1e-5,
        atol=1e-6,
    )


@pytest.mark.parametrize("cell", CELLS.values(), ids=CELLS)
def test_no_prediction_depends_on_later_inputs(cell):
    model, variables = forecaster(cell)
    gradients = jax.jit(jax.jacobian(lambda xs: model.apply(variables, xs).sum((0, 2))))(XS)  # [T, B, T, I]
    depends = (np.abs(gradients) > 0).any((1, 3))
    np.testing.assert_array_equal(depends, np.tri(5, dtype=bool))


def test_without_a_dense_layer_the_cell_must_have_as_many_outputs_as_predictions():
    with pytest.raises(ValueError, match=r"must have 3 outputs, got 4: wrap it as Project\(cell, 3\)"):
        forecaster(dense=False)


@pytest.mark.promotes_types
def test_in_bfloat16_predictions_are_float32():
    model, variables = forecaster(dtype=jnp.bfloat16)
    found = apply(model, variables, XS)
    assert found.dtype == jnp.float32
    exact = apply(forecaster()[0], variables, XS)
    np.testing.assert_allclose(found, exact, atol=0.05)
    assert not np.array_equal(found, exact)


def test_a_series_is_continued_by_the_last_prediction_of_the_last_window():
    model, variables = forecaster()
    predict = functools.partial(apply, model, variables)
    found = continue_series(predict, jax.device_put(XS[0]), 7)
    values = list(XS[0])
    for _ in range(7):
        values.append(np.asarray(predict(np.stack(values[-5:])[None]))[0, -1])
    np.testing.assert_allclose(found, values[5:], rtol=1e-5, atol=1e-6)


def test_a_longer_continuation_begins_with_the_shorter_one():
    predict = jax.jit(lambda xs: jnp.sin(xs + xs.sum(1, keepdims=True)))
    window = jax.device_put(XS[0])
    np.testing.assert_array_equal(continue_series(predict, window, 9)[:4], continue_series(predict, window, 4))


def test_the_next_steps_are_departures_from_the_last_known_values_by_the_last_output_that_is_there():
    model, last = HorizonForecaster(CELLS["gru"], 4, 2), np.array([[1.0, 2.0], [3.0, 4.0]], np.float32)
    variables = drawn_parameters(lambda key: model.init(key, XS, last))
    predicted = jax.jit(lambda xs, mask: model.apply(variables, xs, last, mask=mask))
    ys, _ = jax.jit(functools.partial(rnnjax.unroll, CELLS["gru"]))(variables["params"]["RNN_0"]["rnn"], XS)
    dense = variables["params"]["Dense_0"]
    changes = (ys @ dense["kernel"] + dense["bias"]).reshape(2, 5, 4, 2)
    np.testing.assert_allclose(predicted(XS, None), last[:, None] + changes[:, 4], rtol=1e-5, atol=1e-6)
    there = np.arange(5) < np.array([3, 5])[:, None]
    expected = last[:, None] + np.stack([changes[0, 2], changes[1, 4]])
    np.testing.assert_allclose(predicted(XS, there), expected, rtol=1e-5, atol=1e-6)
