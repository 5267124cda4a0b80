"""Cells without biases, and with other activations than the usual ones."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from fixtures.parameters import array
from fixtures.thorough import once_more
from numpy_cells import gru, lstm, randomised

from rnnjax import GRU, LSTM, BasicRNN, Fused, LSTMState, Scan, Static, unroll
from rnnjax.cells import HiddenState
from rnnjax.cells.joint import JointBasicRNN
from rnnjax.nn import unroll_one_hot

B, T, I, H = 3, 5, 4, 6
KINDS = {
    "rnn": BasicRNN,
    "joint": JointBasicRNN,
    "lstm": LSTM,
    "lstm_coupled": lambda H, **options: LSTM(H, coupled_gates=True, layer_norm=True, peephole=True, **options),
    "gru": GRU,
    "gru_before": lambda H, **options: GRU(H, reset="before", **options),
}
PLAIN = {
    "cell_clip": None,
    "projection_clip": None,
    "projection_size": None,
    "layer_norm": False,
    "peephole": False,
}


def drawn(cell):
    return jax.tree.map(array, randomised(cell, I))


def inputs(seed=1):
    return array(np.random.default_rng(seed).standard_normal((B, T, I)))


def with_zero_biases(params):
    """Returns the parameters with biases of zero where there are none."""
    gates = params.w_x.shape[1:]
    params = params._replace(b=jnp.zeros(gates))
    return params._replace(b_hn=jnp.zeros(gates[1])) if hasattr(params, "b_hn") else params


def close(got, expected):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), got, expected)


LOOP = Scan(remat_every=2)
MAIN = [("rnn", Fused()), ("joint", Fused()), ("lstm_coupled", Fused()), ("gru", Fused()), ("lstm", LOOP)]
AGAIN = [once_more("lstm", Fused()), once_more("gru_before", Fused()), once_more("gru", LOOP)]


@pytest.mark.parametrize(("kind", "method"), MAIN + AGAIN)
def test_without_biases_a_cell_computes_what_biases_of_zero_would(kind, method):
    bare, biased, xs = KINDS[kind](H, use_bias=False), KINDS[kind](H), inputs()
    params = drawn(bare)

    def gradient(cell, params):
        def loss(params):
            ys, state = unroll(cell, params, xs, method=method)
            return jnp.sin(ys).sum(), (ys, state)

        return jax.grad(loss, has_aux=True)(params)

    full = with_zero_biases(params)
    if kind == "gru_before":
        full = full._replace(b_hn=None)
    both = jax.jit(lambda params, full: (gradient(bare, params), gradient(biased, full)))
    (got, values), (expected, wanted) = both(params, full)
    close(values, wanted)
    close((got.w_x, got.w_h), (expected.w_x, expected.w_h))


@pytest.mark.parametrize("kind", KINDS)
def test_without_biases_there_is_no_parameter_of_one(kind):
    params, biased = (KINDS[kind](H, use_bias=use).init(jax.random.key(0), I) for use in (False, True))
    assert params.b is None
    assert getattr(params, "b_hn", None) is None
    np.testing.assert_array_equal(params.w_x, biased.w_x)
    np.testing.assert_array_equal(params.w_h, biased.w_h)


def test_biases_given_to_a_cell_without_are_refused():
    with pytest.raises(TypeError, match=r"params must be those of GRU\(.*use_bias=False"):
        unroll(GRU(H, use_bias=False), drawn(GRU(H)), inputs())


def test_one_hot_inputs_are_looked_up_without_a_bias_too():
    cell = LSTM(H, use_bias=False)
    params, ids = drawn(cell), jnp.asarray([[0, 3, 1], [2, 2, 0]])
    close(unroll_one_hot(cell, params, ids), unroll(cell, params, jax.nn.one_hot(ids, I)))


SHIFTED = {"activation": lambda x: jnp.sin(x) + 0.1, "gate_activation": lambda x: jnp.cos(x) / 2}
IN_NUMPY = {"activation": lambda x: np.sin(x) + 0.1, "gate": lambda x: np.cos(x) / 2}


@pytest.mark.parametrize("options", [{}, {"coupled_gates": True}, {"peephole": True}])
def test_an_lstm_takes_other_activations(options):
    cell = LSTM(H, **options, **SHIFTED)
    params, xs = drawn(cell), inputs()
    h, c = np.full((B, H), 0.3), np.full((B, H), -0.2)
    expected_h, expected_c = lstm(params, h, c, xs[:, 0], **({"coupled_gates": False} | PLAIN | options), **IN_NUMPY)
    state, y = cell(params, LSTMState(jnp.float32(h), jnp.float32(c)), xs[:, 0])
    close((state.h, state.c, y), (expected_h, expected_c, expected_h))


@pytest.mark.parametrize("reset", ["after", "before"])
def test_a_gru_takes_other_activations(reset):
    cell = GRU(H, reset=reset, **SHIFTED)
    params, xs, h = drawn(cell), inputs(), np.full((B, H), 0.3)
    state, _ = cell(params, HiddenState(jnp.float32(h)), xs[:, 0])
    close(state.h, gru(params, h, xs[:, 0], reset, **IN_NUMPY))


@pytest.mark.parametrize("cell", [LSTM, GRU])
@pytest.mark.parametrize("option", ["activation", "gate_activation"])
def test_a_name_means_its_function_and_an_unknown_one_is_refused(cell, option):
    params, xs = drawn(cell(H)), inputs()
    by_name, by_function = (unroll(cell(H, **{option: choice}), params, xs) for choice in ("relu", jax.nn.relu))
    jax.tree.map(np.testing.assert_array_equal, by_name, by_function)
    with pytest.raises(ValueError, match="unknown activation 'tahn'; choose from tanh, relu"):
        cell(H, **{option: "tahn"})


@pytest.mark.parametrize("method", [Scan(), Fused()])
@pytest.mark.parametrize("cell", [LSTM(H, coupled_gates=True, **SHIFTED), GRU(H, **SHIFTED)])
def test_methods_agree_on_other_activations(cell, method):
    params, xs = drawn(cell), inputs()
    close(unroll(cell, params, xs, method=method), unroll(cell, params, xs, method=Static()))
