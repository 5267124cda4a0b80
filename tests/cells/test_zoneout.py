"""Zoneout against a loop in NumPy, with the masks that the cell draws."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy_cells import gru, lstm, randomised

from rnnjax import GRU, LSTM, BasicRNN, Dropout, Project, Stack, Zoneout, unroll

KEY = jax.random.key(4)
B, T, I, H = 3, 5, 4, 6
PLAIN = {
    "peephole": False,
    "coupled_gates": False,
    "cell_clip": None,
    "projection_clip": None,
    "projection_size": None,
    "layer_norm": False,
}


@pytest.fixture(autouse=True)
def _float64():
    with jax.enable_x64(True):
        yield


def drawn(cell):
    params = jax.device_put(randomised(cell, I))
    return params, np.random.default_rng(3).standard_normal((B, T, I))


def masks(cell, params, xs, key):
    """Returns how much of its previous value each unit keeps, ``[T, B, H]`` for each field: 0, 1, or the rate."""
    kept_new, _ = cell.draw(params, jax.device_put(xs.swapaxes(0, 1)), key)
    if kept_new is None:
        return {"h": np.full((T, B, H), cell.rate), "c": np.full((T, B, H), cell.cell_rate)}
    return {"c": np.zeros((T, B, H))} | {name: 1.0 - np.asarray(mask) for name, mask in kept_new.items()}


def equal(got, expected):
    np.testing.assert_allclose(got, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("key", [KEY, None], ids=["training", "evaluation"])
@pytest.mark.parametrize("options", [{}, {"cell_rate": 0.4}, {"variational": True}])
def test_an_lstm_under_zoneout_follows_its_equations(options, key):
    cell = Zoneout(LSTM(H), 0.3, **options)
    params, xs = drawn(cell)
    keep = masks(cell, params, xs, key)
    h = c = np.zeros((B, H))
    ys = []
    for t in range(T):
        new_h, new_c = lstm(params, h, c, xs[:, t], **PLAIN)
        h = keep["h"][t] * h + (1 - keep["h"][t]) * new_h
        c = keep["c"][t] * c + (1 - keep["c"][t]) * new_c
        ys.append(h)
    got, state = unroll(cell, params, xs, key=key)
    equal(got, np.stack(ys, 1))
    equal(state.h, h)
    equal(state.c, c)


@pytest.mark.parametrize("key", [KEY, None], ids=["training", "evaluation"])
def test_a_gru_under_zoneout_follows_its_equations(key):
    cell = Zoneout(GRU(H), 0.3)
    params, xs = drawn(cell)
    keep, h, ys = masks(cell, params, xs, key)["h"], np.zeros((B, H)), []
    for t in range(T):
        h = keep[t] * h + (1 - keep[t]) * gru(params, h, xs[:, t], "after")
        ys.append(h)
    equal(unroll(cell, params, xs, key=key)[0], np.stack(ys, 1))


def test_units_keep_their_value_as_often_as_the_rate_says_and_independently():
    cell, rate = Zoneout(LSTM(500), 0.2, cell_rate=0.6), {"h": 0.2, "c": 0.6}
    kept = jax.tree.map(np.asarray, cell.draw(None, jnp.ones((8, 4, I)), KEY)[0])
    for name, mask in kept.items():
        deviation = np.sqrt(rate[name] * (1 - rate[name]) / mask.size)
        assert abs((1 - mask.mean()) - rate[name]) < 4 * deviation
        assert len({row.tobytes() for row in mask.reshape(-1, 500)}) == 32
    both = (~kept["h"] & ~kept["c"]).mean()
    assert abs(both - 0.12) < 0.01


def test_a_variational_mask_is_the_same_at_every_step():
    cell = Zoneout(GRU(H), 0.5, variational=True)
    kept = np.asarray(cell.draw(None, jnp.ones((T, B, I)), KEY)[0]["h"])
    np.testing.assert_array_equal(kept, np.broadcast_to(kept[:1], (T, B, H)))
    assert 0 < kept.mean() < 1


def test_without_rates_zoneout_does_nothing():
    params, xs = drawn(LSTM(H))
    for key in (None, KEY):
        expected = unroll(LSTM(H), params, xs)
        jax.tree.map(np.testing.assert_array_equal, unroll(Zoneout(LSTM(H), 0.0), params, xs, key=key), expected)


@pytest.mark.parametrize("wrap", [lambda cell: Project(cell, 2), lambda cell: Dropout(cell, output_rate=0.5)])
def test_zoneout_reads_the_outputs_of_wrappers_within_from_the_state_that_it_changed(wrap):
    inside, outside = Zoneout(wrap(LSTM(H)), 0.3), wrap(Zoneout(LSTM(H), 0.3))
    params, xs = drawn(inside)
    equal(unroll(inside, params, xs)[0], unroll(outside, params, xs)[0])


@pytest.mark.parametrize("cell", [Stack((LSTM(3), GRU(3))), Dropout(LSTM(3), state_rate=0.1)])
def test_a_cell_that_makes_state_and_output_at_once_is_refused(cell):
    with pytest.raises(
        TypeError, match="Zoneout changes the new state before the output is read from it, and so needs"
    ):
        Zoneout(cell, 0.1)


@pytest.mark.parametrize("rates", [{"rate": 1.0}, {"rate": -0.1}, {"rate": 0.1, "cell_rate": 1.5}])
def test_a_rate_that_is_no_probability_is_refused(rates):
    with pytest.raises(ValueError, match=r"rate must be in \[0, 1\), got"):
        Zoneout(LSTM(3), **rates)


def test_a_rate_for_a_cell_state_needs_one():
    cell = Zoneout(BasicRNN(3), 0.1, cell_rate=0.1)
    params, xs = drawn(cell)
    with pytest.raises(ValueError, match="needs a state with a field c; that of BasicRNN"):
        unroll(cell, params, xs)
