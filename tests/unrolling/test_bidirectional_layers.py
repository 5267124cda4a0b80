import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cells_under_test import H, I, close, drawn, inputs, same, some_state
from fixtures.thorough import once_more

from rnnjax import GRU, LSTM, BasicRNN, Static, bidirectional, init_bidirectional

B, T = 3, 3
AHEAD, BACK = [LSTM(H), GRU(2), BasicRNN(5)], [GRU(3), LSTM(H), BasicRNN(5)]
LENGTHS = np.array([3, 0, 2])
RESETS = np.array([[0, 1, 0], [0, 0, 0], [1, 1, 0]], bool)
KEY = jax.random.key(2)


def parameters(ahead, back):
    return drawn(jax.eval_shape(lambda: init_bidirectional(KEY, ahead, back, I)))


@pytest.mark.parametrize(
    "options", [once_more({}), {"lengths": LENGTHS, "resets": RESETS, "method": Static()}], ids=range(2)
)
def test_layers_as_one_call_are_a_call_a_layer(options):
    params, xs = parameters(AHEAD, BACK), inputs(B, T, I)
    states = [(some_state(a, B), some_state(b, B, seed=3)) for a, b in zip(AHEAD, BACK)]

    def layer_by_layer(params, ys, states):
        finals = []
        for ahead, back, pair, state in zip(AHEAD, BACK, params, states):
            ys, final = bidirectional(ahead, back, pair, ys, state, **options)
            finals.append(final)
        return ys, tuple(finals)

    ys, last = jax.jit(lambda *given: bidirectional(AHEAD, BACK, *given, **options))(params, xs, states)
    assert ys.shape == (B, T, 10)
    close((ys, last), jax.jit(layer_by_layer)(params, xs, states))


def test_every_layer_reads_both_directions_of_the_layer_below():
    params = jax.eval_shape(lambda: init_bidirectional(KEY, AHEAD, BACK, I))
    sizes = [tuple(p.w_x.shape[0] for p in pair) for pair in params]
    assert sizes == [(I, I), (H + 3, H + 3), (2 + H, 2 + H)]


def test_one_layer_is_initialised_as_a_pair_and_a_list_of_one_as_a_list():
    pair, (only,) = init_bidirectional(KEY, LSTM(H), LSTM(H), I), init_bidirectional(KEY, [LSTM(H)], [LSTM(H)], I)
    same(pair, only)
    assert (pair[0].w_x != pair[1].w_x).all()
    xs = inputs(B, T, I)
    ys, last = bidirectional([LSTM(H)], [LSTM(H)], (only,), xs)
    close((ys, last[0]), bidirectional(LSTM(H), LSTM(H), pair, xs))


def test_gradients_reach_every_parameter_of_every_layer():
    params = parameters(AHEAD, BACK)
    loss = lambda p: (bidirectional(AHEAD, BACK, p, inputs(B, T, I))[0] ** 2).sum()  # noqa: E731
    gradients = jax.jit(jax.grad(loss))(params)
    assert all(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(gradients))


def sums_of(width):
    """Cells whose outputs are the sum of what they read, so that a mask on that is seen in them."""
    return BasicRNN(width, activation="identity", kernel_init="ones", recurrent_init="zeros")


@pytest.mark.parametrize("time_major", [False, once_more(True)])
def test_dropout_between_layers_is_one_mask_a_step_for_both_directions(time_major):
    cells = [sums_of(16), sums_of(1)]
    params = init_bidirectional(KEY, cells, cells, 1)
    xs = jnp.ones((8, 4, 1)) if time_major else jnp.ones((4, 8, 1))
    options = {"time_major": time_major, "dropout": 0.5}
    ys, _ = bidirectional(cells, cells, params, xs, key=KEY, **options)
    np.testing.assert_array_equal(ys[..., 0], ys[..., 1])
    assert len(np.unique(ys)) > 5  # 32 * ones, halved and doubled: 2 for each that is kept
    assert (ys % 2 == 0).all()
    assert abs(ys.mean() - 32) < 4
    plain, _ = bidirectional(cells, cells, params, xs, **options)
    assert (plain == 32).all()


def test_nothing_is_dropped_before_the_first_layer_or_behind_the_last():
    cells = [sums_of(1), BasicRNN(64, bias_init="ones")]
    ys, _ = bidirectional(
        cells, cells, init_bidirectional(KEY, cells, cells, 1), jnp.ones((2, 3, 1)), key=KEY, dropout=0.9
    )
    assert (ys != 0).all()
    below, _ = bidirectional(cells[0], cells[0], init_bidirectional(KEY, *cells[:1] * 2, 1), jnp.ones((2, 3, 1)))
    assert (below == 1).all()


PAIRS = parameters([GRU(H)] * 2, [GRU(H)] * 2)
REFUSED = {
    "other numbers of layers": (([GRU(H)] * 2, [GRU(H)], PAIRS), {}, "got 2 forward and 1 backward"),
    "no layers": (([], [], ()), {}, "got 0 forward and 0 backward"),
    "one layer's parameters for two": (([GRU(H)] * 2, [GRU(H)] * 2, PAIRS[0]), {}, "params must be a pair for each"),
    "too few states": (
        ([GRU(H)] * 2, [GRU(H)] * 2, PAIRS),
        {"state": [(None, None)]},
        "state must be a pair for each of the 2 layers, got 1",
    ),
    "three for two cells": (
        (GRU(H), GRU(H), (*PAIRS[0], 1)),
        {},
        "params must be a pair, .* got tuple of 3",
    ),
    "one cell's parameters for two": ((GRU(H), GRU(H), PAIRS[0][0]), {}, "params must be a pair, .* got GRUParams"),
    "no state": ((GRU(H), GRU(H), PAIRS[0]), {"state": ()}, "state must be a pair, .* got tuple of 0"),
    "an array for a state": (
        (GRU(H), GRU(H), PAIRS[0]),
        {"state": inputs(2, B, H)},
        "state must be a pair, .* got A",
    ),
    "dropout of one layer": ((GRU(H), GRU(H), PAIRS[0]), {"dropout": 0.5}, "dropout=0.5 acts between layers, but"),
    "a rate of one": (([GRU(H)] * 2, [GRU(H)] * 2, PAIRS), {"dropout": 1.0}, r"dropout must be in \[0, 1\), got 1.0"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_layers_that_do_not_fit_are_refused(case):
    (ahead, back, params), options, sentence = REFUSED[case]
    with pytest.raises(ValueError, match=sentence):
        bidirectional(ahead, back, params, inputs(B, T, I), **options)


def test_one_cell_and_a_list_and_what_is_no_cell_are_refused():
    with pytest.raises(TypeError, match="two cells, or two lists of cells"):
        bidirectional(GRU(H), [GRU(H)], PAIRS, inputs(B, T, I))
    with pytest.raises(TypeError, match="cell must be a cell"):
        bidirectional([GRU(H), 3], [GRU(H), GRU(H)], PAIRS, inputs(B, T, I))
