"""Diagonal cells follow their equations, written once more as loops in NumPy, and start as published."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from fixtures.thorough import once_more
from numpy_cells import ACTIVATIONS, randomised, sigmoid

from rnnjax import DiagonalCell, HiddenState, IndRNN, LSTMState, ParaGRU, ParaLSTM, Scan, unroll

T, B, I, H = 5, 2, 4, 3
RNG = np.random.default_rng(1)
XS, H0, C0 = RNG.standard_normal((T, B, I)), *RNG.standard_normal((2, B, H))


def summed(p, h, x):
    return [x @ p.w_x[:, gate] + (0 if p.b is None else p.b[gate]) + p.w_h[gate] * h for gate in range(len(p.w_h))]


def ind_rnn(p, state, x, activation="relu", limit=np.inf):
    u = np.clip(p.w_h[0], -limit, limit)
    return (ACTIVATIONS[activation](x @ p.w_x[:, 0] + u * state[0] + p.b[0]),)


def para_gru(p, state, x):
    (h,) = state
    z, r, _ = summed(p, h, x)
    n = np.tanh(x @ p.w_x[:, 2] + p.b[2] + p.w_h[2] * (sigmoid(r) * h))
    return ((1 - sigmoid(z)) * h + sigmoid(z) * n,)


def para_lstm(p, state, x):
    h, c = state
    f, n, o = summed(p, h, x)
    f = sigmoid(f + p.w_c[0] * c)
    c = f * c + (1 - f) * np.tanh(n)
    return sigmoid(o + p.w_c[1] * c) * np.tanh(c), c


CASES = {
    "ind_rnn": (IndRNN(H), ind_rnn),
    "ind_rnn_with_limit": (
        IndRNN(H, activation="tanh", recurrent_limit=0.3),
        lambda *args: ind_rnn(*args, "tanh", 0.3),
    ),
    "para_gru": (ParaGRU(H), para_gru),
    "para_lstm": (ParaLSTM(H), para_lstm),
    "para_lstm_without_bias": (ParaLSTM(H, use_bias=False), para_lstm),
}


@pytest.mark.parametrize("name", CASES)
def test_a_diagonal_cell_follows_its_equations(name):
    cell, step = CASES[name]
    params = randomised(cell, I)
    state = (H0, C0) if isinstance(cell, ParaLSTM) else (H0,)
    given, expected = state, []
    for x in XS:
        state = step(params, state, x)
        expected.append(state[0])
    with jax.enable_x64(True):
        given = (LSTMState if isinstance(cell, ParaLSTM) else HiddenState)(*map(jnp.array, given))
        run = jax.jit(lambda *args: unroll(cell, *args, time_major=True, method=Scan()))
        ys, last = run(jax.tree.map(jnp.asarray, params), jnp.array(XS), given)
    np.testing.assert_allclose(ys, np.stack(expected), rtol=1e-10, atol=1e-12)
    jax.tree.map(lambda got, right: np.testing.assert_allclose(got, right, rtol=1e-10, atol=1e-12), tuple(last), state)


def test_diagonal_cells_start_as_published():
    h = 1000
    for cell in (ParaGRU(h), ParaLSTM(h)):
        p = cell.init(jax.random.key(0), I)
        drawn = [p.w_h, p.w_c] if isinstance(cell, ParaLSTM) else [p.w_h]
        np.testing.assert_allclose([each.std() * np.sqrt(5 * h) / 2 for each in drawn], 1, atol=0.05)
        np.testing.assert_allclose(np.abs(p.w_x).max(), np.sqrt(6 / (I + h)), rtol=0.01)
        np.testing.assert_allclose(p.b, np.stack([-np.linspace(0, 1, h), np.zeros(h), np.zeros(h)]), atol=1e-6)
    for limit, largest in ((None, 1), (1.5, 1.5)):
        u = IndRNN(h, recurrent_limit=limit).init(jax.random.key(0), I).w_h
        np.testing.assert_allclose(np.quantile(u, [0, 0.5, 1]), [0, largest / 2, largest], atol=0.05)
    assert (IndRNN(h, recurrent_init="ones").init(jax.random.key(0), I).w_h == 1).all()


@dataclasses.dataclass(frozen=True)
class Leaky(DiagonalCell):
    """A user's own diagonal cell: h' = tanh(z + w h) + h / 2."""

    def gates(self, params, state, z, r):
        return HiddenState(jnp.tanh((z + r)[..., 0, :]) + state.h / 2)


@pytest.mark.parametrize("cell", [Leaky(H), once_more(IndRNN(H)), once_more(ParaGRU(H)), ParaLSTM(H)], ids=repr)
def test_a_unit_of_a_diagonal_cell_reads_itself_alone(cell):
    params = jax.tree.map(jnp.asarray, randomised(cell, I))
    state = jax.tree.map(lambda leaf: leaf + 1.0, cell.initial_state(1))
    z = cell.inputs(params, jnp.ones((1, I)))
    for block in jax.tree.leaves(jax.jacobian(lambda state: cell.advance(params, state, z))(state)):
        np.testing.assert_array_equal(block[0, :, 0] * (1 - np.eye(H)), 0)


def test_16_bit_inputs_keep_a_state_of_float32():
    cell = ParaLSTM(H)
    ys, state = unroll(cell, cell.init(jax.random.key(0), I), jnp.ones((B, T, I), jnp.bfloat16))
    assert (ys.dtype, state.h.dtype, state.c.dtype) == (jnp.bfloat16, jnp.float32, jnp.float32)


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: IndRNN(H, activation="rleu"), "unknown activation 'rleu'"),
        (lambda: IndRNN(H, recurrent_limit=0.0), "recurrent_limit must be positive, or None for none, got 0.0"),
        (lambda: ParaGRU(H, recurrent_init="orthogonal"), 'initialiser "orthogonal" is for matrices'),
        (lambda: ParaGRU(0), "hidden_size must be at least 1, got 0"),
        (lambda: ParaGRU(H).init(jax.random.key(0), 0), "input_size must be at least 1, got 0"),
    ],
)
def test_options_that_do_not_fit_are_refused_in_one_sentence(make, sentence):
    with pytest.raises(ValueError, match=sentence):
        make()
