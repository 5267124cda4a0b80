"""A gate that is nearly closed keeps its digits, by every method: they decide what a long memory forgets."""

import jax
import numpy as np
import pytest

from rnnjax import GRU, LSTM, Fused, Native, Pallas, Scan, Static, unroll
from rnnjax.unrolling.native.compiler import compiler

METHODS = {"static": Static(), "scan": Scan(), "fused": Fused(), "pallas": Pallas(interpret=True)}
X = np.array([-5.0, -10.0, -15.0, -16.74, -40.0, -79.0], np.float32)  # one a hidden unit
H = len(X)
ONES = np.ones((1, H), np.float32)
COMPILED = (  # four kernels, half a minute
    pytest.mark.thorough,
    pytest.mark.skipif(compiler() is None, reason="no C++ compiler is installed"),
)
by_every_method = pytest.mark.parametrize(
    "method", [*METHODS.values(), pytest.param(Native(), marks=COMPILED)], ids=[*METHODS, "native"]
)


def sigmoid(x):
    return 1 / (1 + np.exp(-np.float64(x)))


def biases_of(gates):
    """Returns ``[G, H]`` of a number or a vector ``[H]`` a gate."""
    return np.stack([np.broadcast_to(np.float32(gate), H) for gate in gates])


def after_a_step(cell, biases, method, state=None, **parts):
    """Returns the state after one step of a cell that reads its biases, one a gate, and its state alone."""
    shapes = jax.eval_shape(lambda: (cell.init(jax.random.key(0), 1), cell.initial_state(1)))
    params, zeros = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)
    state = zeros._replace(**state or {})
    params = params._replace(b=biases_of(biases), **parts)
    return unroll(cell, params, np.zeros((1, 1, 1), np.float32), state, method=method)[1]


@by_every_method
def test_the_gates_of_an_lstm_are_the_logistic_function(method):
    entered = after_a_step(LSTM(H), [X, 0, 40, 40], method).c
    np.testing.assert_allclose(entered, [sigmoid(X)], rtol=1e-5)
    state = after_a_step(LSTM(H), [-100, X, 0, 40], method, {"c": ONES})
    np.testing.assert_allclose(state.c, [sigmoid(X)], rtol=1e-5)
    left = after_a_step(LSTM(H), [40, 0, 40, X], method).h
    np.testing.assert_allclose(left, [sigmoid(X) * np.tanh(1)], rtol=1e-5)


@by_every_method
def test_gates_that_see_the_cell_state_are_the_logistic_function(method):
    cell = LSTM(H, peephole=True)
    peephole = biases_of([0, X, X])
    state = after_a_step(cell, [-100, 0, 0, 0], method, {"c": ONES}, peephole=peephole)
    np.testing.assert_allclose(state.c, [sigmoid(X)], rtol=1e-5)


@by_every_method
def test_coupled_gates_are_right_where_either_is_nearly_closed(method):
    cell = LSTM(H, coupled_gates=True)
    np.testing.assert_allclose(after_a_step(cell, [-X, 40, 40], method).c, [sigmoid(X)], rtol=1e-5)
    np.testing.assert_allclose(after_a_step(cell, [X, 0, 40], method, {"c": ONES}).c, [sigmoid(X)], rtol=1e-5)


@by_every_method
def test_a_gru_is_right_where_its_update_gate_is_nearly_closed_or_open(method):
    kept = after_a_step(GRU(H), [0, X, 0], method, {"h": ONES}).h
    np.testing.assert_allclose(kept, [sigmoid(X)], rtol=1e-5)
    taken = after_a_step(GRU(H), [0, -X, 40], method).h
    np.testing.assert_allclose(taken, [sigmoid(X)], rtol=1e-5)
