"""DropConnect on the recurrent weight, against the cell within and its equations in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from fixtures.parameters import array
from numpy_cells import gru, randomised

from rnnjax import GRU, LSTM, BasicRNN, Fused, GatedParams, Project, Scan, Stack, TimedKey, WeightDrop, unroll

KEY = jax.random.key(4)
B, T, I, H, RATE = 3, 6, 4, 8, 0.25


def drawn(cell):
    params = jax.tree.map(array, randomised(cell, I))
    return params, jax.random.normal(KEY, (B, T, I))


def factors(key, length=T):
    """Returns what each entry of w_h is multiplied by in a call with a key."""
    cell = WeightDrop(BasicRNN(H, "identity"), RATE)
    params = GatedParams(jnp.zeros((1, 1, H)), jnp.ones((H, 1, H)), jnp.zeros((1, H)))
    return cell.weights(params, cell.draw(params, jnp.ones((length, B, 1)), key)[0]).w_h[:, 0]


def same(got, expected):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), got, expected)


def test_entries_are_left_out_or_scaled():
    seen = np.asarray(factors(KEY))
    dropped = seen == 0
    np.testing.assert_allclose(seen[~dropped], 1 / (1 - RATE), rtol=1e-6)
    assert 0 < dropped.mean() < 1


def test_the_expected_weight_is_the_weight():
    draws = np.stack([factors(jax.random.key(seed)) for seed in range(60)])
    assert abs(draws.mean() - 1) < 4 * np.sqrt(RATE / (1 - RATE) / draws.size)
    assert (draws[0] != draws[1]).any()


def test_a_gru_with_a_dropped_weight_follows_its_equations():
    cell = WeightDrop(GRU(H), RATE)
    params, xs = drawn(cell)
    mask = np.asarray(cell.weights(params._replace(w_h=jnp.ones_like(params.w_h)), cell.draw(params, xs, KEY)[0]).w_h)
    assert (mask == 0).any()
    dropped = jax.tree.map(np.asarray, params)._replace(w_h=np.asarray(params.w_h) * mask)
    h, ys = np.zeros((B, H)), []
    for t in range(T):
        h = gru(dropped, h, np.asarray(xs[:, t]), "after")
        ys.append(h)
    same(unroll(cell, params, xs, key=KEY)[0], np.stack(ys, 1).astype(np.float32))


@pytest.mark.parametrize("method", [Scan(), Fused()])
def test_gradients_are_those_of_the_masked_weight(method):
    cell = WeightDrop(LSTM(H), RATE)
    params, xs = drawn(cell)
    mask = cell.weights(params._replace(w_h=jnp.ones_like(params.w_h)), cell.draw(params, xs, KEY)[0]).w_h

    def loss(params, cell, key):
        return jnp.sin(unroll(cell, params, xs, key=key, method=method)[0]).sum()

    masked = lambda p: loss(p._replace(w_h=p.w_h * mask), LSTM(H), None)  # noqa: E731
    got, expected = jax.jit(lambda p: (jax.grad(loss)(p, cell, KEY), jax.grad(masked)(p)))(params)
    same(got, expected)
    np.testing.assert_array_equal(np.asarray(got.w_h)[np.asarray(mask) == 0], 0)


def test_chunks_of_a_sequence_with_one_key_have_one_mask():
    cell = Stack((WeightDrop(LSTM(H), RATE), WeightDrop(GRU(H), RATE)))
    params, xs = drawn(cell)
    whole, last = unroll(cell, params, xs, key=KEY)
    first, state = unroll(cell, params, xs[:, :2], key=TimedKey(KEY, jnp.arange(2)))
    second, state = unroll(cell, params, xs[:, 2:], state, key=TimedKey(KEY, jnp.arange(2, T)))
    same((jnp.concatenate([first, second], 1), state), (whole, last))


def test_the_cell_within_is_unrolled_by_its_own_recurrence():
    seen = []

    class Watching(Fused):
        def run(self, recurrence):
            seen.append(recurrence.cell)
            return super().run(recurrence)

    cell = WeightDrop(LSTM(H), RATE)
    params, xs = drawn(cell)
    unroll(cell, params, xs, key=KEY, method=Watching())
    assert seen == [LSTM(H)]


def test_in_evaluation_and_at_a_rate_of_zero_the_weight_is_as_it_is():
    params, xs = drawn(LSTM(H))
    expected = unroll(LSTM(H), params, xs)
    jax.tree.map(np.testing.assert_array_equal, unroll(WeightDrop(LSTM(H), RATE), params, xs), expected)
    jax.tree.map(np.testing.assert_array_equal, unroll(WeightDrop(LSTM(H), 0.0), params, xs, key=KEY), expected)


def test_an_old_style_key_serves_as_well_as_a_new_one():
    cell = WeightDrop(LSTM(H), RATE)
    params, xs = drawn(cell)
    old = jax.random.PRNGKey(7)
    expected = unroll(cell, params, xs, key=jax.random.wrap_key_data(old))
    jax.tree.map(np.testing.assert_array_equal, unroll(cell, params, xs, key=old), expected)


@pytest.mark.parametrize("rate", [1.0, -0.1])
def test_a_rate_that_is_no_probability_is_refused(rate):
    with pytest.raises(ValueError, match=rf"rate must be in \[0, 1\), got {rate}"):
        WeightDrop(LSTM(H), rate)


def test_parameters_without_a_recurrent_weight_are_refused():
    with pytest.raises(TypeError, match="WeightDrop drops entries of w_h, and the parameters of Project"):
        WeightDrop(Project(LSTM(H), 2), RATE).init(KEY, I)
