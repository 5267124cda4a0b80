import itertools
import operator

import jax
import numpy as np
import pytest
from numpy_cells import ACTIVATIONS, basic_rnn, gru, lstm, randomised

from rnnjax import GRU, LSTM, BasicRNN
from rnnjax.cells import HiddenState, LSTMState

B, I, H, P = 3, 4, 5, 2


@pytest.fixture(autouse=True)
def _float64():
    with jax.enable_x64(True):
        yield


def draw(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape)


def parameters(cell):
    return jax.device_put(randomised(cell, I))


def equal(got, expected):
    np.testing.assert_allclose(got, expected, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_basic_rnn_follows_its_equation_with_every_named_activation(activation):
    cell = BasicRNN(H, activation)
    params, h, x = parameters(cell), draw(1, B, H), draw(2, B, I)
    expected = basic_rnn(params, h, x, ACTIVATIONS[activation])
    state, y = jax.jit(cell)(params, HiddenState(h), x)
    equal(state.h, expected)
    equal(y, expected)


def test_basic_rnn_takes_a_function_as_its_activation():
    cell = BasicRNN(H, jax.lax.sin)
    params, h, x = parameters(cell), draw(1, B, H), draw(2, B, I)
    state, _ = jax.jit(cell)(params, HiddenState(h), x)
    equal(state.h, basic_rnn(params, h, x, np.sin))


def test_gelu_is_the_approximate_one_of_jax():
    cell = BasicRNN(H, "gelu")
    params, h, x = parameters(cell), draw(1, B, H), draw(2, B, I)
    a = basic_rnn(params, h, x, lambda a: a)
    state, _ = jax.jit(cell)(params, HiddenState(h), x)
    equal(state.h, a / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (a + 0.044715 * a**3))))


@pytest.mark.parametrize("reset", ["after", "before"])
def test_gru_follows_its_equations(reset):
    cell = GRU(H, reset=reset)
    params, h, x = parameters(cell), draw(1, B, H), draw(2, B, I)
    expected = gru(params, h, x, reset)
    state, y = jax.jit(cell)(params, HiddenState(h), x)
    equal(state.h, expected)
    equal(y, expected)


def combinations(**choices):
    return [dict(zip(choices, values)) for values in itertools.product(*choices.values())]


CLIPS = combinations(cell_clip=(None, 0.4), projection_size=(None, P), projection_clip=(None, 0.2))
CLIPS = [options for options in CLIPS if options["projection_size"] or not options["projection_clip"]]
GATES = combinations(peephole=(False, True), coupled_gates=(False, True), layer_norm=(False, True))


@pytest.mark.parametrize("gates", GATES, ids=lambda gates: "-".join(filter(gates.get, gates)) or "plain")
def test_lstm_follows_its_equations_under_every_combination_of_options(gates):
    every = [gates | clips for clips in CLIPS]
    cells = [LSTM(H, **options) for options in every]
    given = [(parameters(cell), LSTMState(draw(1, B, cell.output_size), draw(2, B, H))) for cell in cells]
    x = draw(3, B, I)
    found = jax.jit(lambda given: [cell(*each, x) for cell, each in zip(cells, given)])(given)
    for options, (params, before), (state, y) in zip(every, given, found):
        expected_h, expected_c = lstm(params, *before, x, **options)
        equal(state.c, expected_c)
        equal(state.h, expected_h)
        equal(y, expected_h)


@pytest.mark.parametrize("clip", ["cell_clip", "projection_clip"])
def test_lstm_clips_what_is_beyond_the_limit_and_nothing_else(clip):
    limit = 0.3
    free, clipped = LSTM(H, projection_size=P), LSTM(H, projection_size=P, **{clip: limit})
    params = parameters(free)
    state, x = LSTMState(draw(1, B, P), draw(2, B, H)), draw(3, B, I)
    part = 1 if clip == "cell_clip" else 0
    before, after = (np.asarray(jax.jit(cell)(params, state, x)[0][part]) for cell in (free, clipped))
    beyond = np.abs(before) > limit
    assert beyond.any()
    assert not beyond.all()
    equal(after[beyond], limit * np.sign(before[beyond]))
    equal(after[~beyond], before[~beyond])


@pytest.mark.parametrize("forget_bias", [0.0, 1.0, 2.5])
def test_an_lstm_with_zero_weights_forgets_by_its_forget_bias_alone(forget_bias):
    cell = LSTM(H, forget_bias, kernel_init="zeros", recurrent_init="zeros")
    c = draw(1, B, H)
    run = jax.jit(lambda *given: cell(cell.init(jax.random.key(0), I), *given))
    state, y = run(LSTMState(draw(2, B, H), c), draw(3, B, I))
    equal(state.c, c / (1 + np.exp(-forget_bias)))
    equal(y, np.tanh(state.c) / 2)


@pytest.mark.parametrize("cell", [BasicRNN(H), LSTM(H, peephole=True, projection_size=P), GRU(H, reset="before")])
def test_a_step_treats_any_number_of_batch_axes_alike(cell):
    params, x = parameters(cell), draw(3, 2, 3, I)
    state = jax.tree.map(lambda leaf: draw(4, *leaf.shape), cell.initial_state((2, 3)))
    after, y = jax.jit(cell)(params, state, x)
    for row in range(2):
        for column in range(3):
            at = operator.itemgetter((row, column))
            alone_after, alone_y = jax.jit(cell)(params, jax.tree.map(at, state), x[row, column])
            equal(y[row, column], alone_y)
            jax.tree.map(equal, jax.tree.map(at, after), alone_after)
