import jax
import jax.numpy as jnp
import numpy as np
import pytest
from fixtures.parameters import array
from numpy_cells import randomised

from rnnjax import GRU, LSTM, BasicRNN, Dropout, Stack, TimedKey, unroll
from rnnjax.cells import GatedParams, HiddenState

KEY = jax.random.key(7)
B, T, N, RATE = 3, 6, 16, 0.25
KEPT = 1 / (1 - RATE)
ONES = array(np.ones((B, T, N)))
PLACES = ["input_rate", "state_rate", "output_rate"]


def summed(place, xs=ONES, *, variational=False, key=KEY, rate=RATE):
    """Returns the outputs of a linear cell that passes its inputs on, or adds them up where the state is dropped."""
    eye = np.eye(N, dtype=np.float32)[:, None]
    counting = BasicRNN(N, "identity")
    params = GatedParams(eye, eye if place == "state_rate" else np.zeros_like(eye), np.zeros((1, N), np.float32))
    return unroll(Dropout(counting, variational=variational, **{place: rate}), params, xs, key=key)[0]


def factors(place, **options):
    """Returns what dropout multiplied each unit by at each step, ``[B, T, N]`` (of the state, at all but the last)."""
    ys = np.asarray(summed(place, **options))
    # With state dropout y[t] = 1 + factor[t - 1] * y[t - 1].
    return (ys[:, 1:] - 1) / ys[:, :-1] if place == "state_rate" else ys


def drawn(cell, input_size):
    return jax.tree.map(array, randomised(cell, input_size))


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("variational", [True, False])
def test_masks_drop_to_zero_and_scale_what_they_keep(place, variational):
    seen = factors(place, variational=variational)
    dropped = np.isclose(seen, 0, atol=1e-5)
    np.testing.assert_allclose(seen[~dropped], KEPT, rtol=1e-4)
    assert 0 < dropped.mean() < 0.5


@pytest.mark.parametrize("place", PLACES)
def test_variational_masks_stay_the_same_over_time_and_differ_between_sequences(place):
    seen = factors(place, variational=True)
    np.testing.assert_allclose(seen, np.broadcast_to(seen[:, :1], seen.shape), atol=1e-4)
    assert (np.abs(seen[0] - seen[1]) > 0.5).any()


@pytest.mark.parametrize("place", PLACES)
def test_masks_per_step_differ_between_any_two_steps(place):
    seen = factors(place)
    for t in range(1, seen.shape[1]):
        for earlier in range(t):
            assert (np.abs(seen[:, t] - seen[:, earlier]) > 0.5).any()


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("variational", [True, False])
def test_dropout_leaves_the_expected_value_as_it_is(place, variational):
    draws = np.stack([factors(place, variational=variational, key=jax.random.key(seed)) for seed in range(40)])
    independent = draws[:, :, 0] if variational else draws
    error = np.sqrt(RATE / (1 - RATE) / independent.size)
    assert abs(draws.mean() - 1) < 4 * error


def test_the_fraction_dropped_is_the_rate():
    for rate in (0.1, 0.9):
        seen = factors("input_rate", rate=rate, xs=jnp.ones((200, T, N)))
        assert abs((seen == 0).mean() - rate) < 4 * np.sqrt(rate * (1 - rate) / seen.size)


def test_places_draw_independent_masks():
    inputs, outputs = factors("input_rate"), factors("output_rate")
    states = factors("state_rate")
    assert ((inputs == 0) != (outputs == 0)).any()
    assert ((inputs[:, :-1] == 0) != np.isclose(states, 0, atol=1e-5)).any()
    assert ((outputs[:, :-1] == 0) != np.isclose(states, 0, atol=1e-5)).any()


def test_layers_of_a_stack_draw_independent_masks():
    layer = Dropout(BasicRNN(N, "identity"), output_rate=RATE)
    passing = GatedParams(jnp.eye(N)[:, None], jnp.zeros((N, 1, N)), jnp.zeros((1, N)))
    once = factors("output_rate")
    twice, _ = unroll(Stack((layer, layer)), (passing, passing), ONES, key=KEY)
    values, counts = np.unique(np.round(twice, 4), return_counts=True)
    np.testing.assert_allclose(values, [0, KEPT**2], rtol=1e-3)
    assert counts[0] / twice.size > (once == 0).mean() + 0.05


def test_state_dropout_acts_on_what_is_handed_on_and_leaves_the_output_and_the_cell_state_alone():
    bare = LSTM(N)
    cell = Dropout(bare, state_rate=RATE)
    params, x = drawn(bare, 4), jnp.ones((B, 4))
    state = jax.tree.map(lambda leaf: leaf + 0.3, bare.initial_state(B))
    both = jax.jit(lambda *given: (cell(*given, key=KEY), bare(*given)))
    (dropped, y), (kept, y_kept) = both(params, state, x)
    np.testing.assert_array_equal(y, y_kept)
    np.testing.assert_array_equal(dropped.c, kept.c)
    ratio = np.asarray(dropped.h / kept.h)
    zero = ratio == 0
    assert 0 < zero.mean() < 1
    np.testing.assert_allclose(ratio[~zero], KEPT, rtol=1e-6)


def test_state_dropout_around_a_stack_acts_on_every_layer():
    stack = Stack((LSTM(N), GRU(N)))
    params, x, state = drawn(stack, 4), jnp.ones((B, 4)), stack.initial_state(B)
    both = jax.jit(lambda *given: (Dropout(stack, state_rate=RATE)(*given, key=KEY), stack(*given)))
    (dropped, y), (kept, y_kept) = both(params, state, x)
    np.testing.assert_array_equal(y, y_kept)
    np.testing.assert_array_equal(dropped[0].c, kept[0].c)
    zeros = [np.asarray(after.h == 0) for after in dropped]
    assert all(0 < zero.mean() < 1 for zero in zeros)
    assert (zeros[0] != zeros[1]).any()


@pytest.mark.parametrize(
    "options",
    [{"input_rate": 0.5, "state_rate": 0.5, "output_rate": 0.5}, {"state_rate": 0.5, "variational": True}],
)
def test_without_a_key_dropout_does_nothing(options):
    bare = LSTM(4)
    params, xs = drawn(bare, 3), jax.random.normal(KEY, (B, T, 3))
    expected = unroll(bare, params, xs)
    jax.tree.map(np.testing.assert_array_equal, unroll(Dropout(bare, **options), params, xs), expected)


def test_with_rates_of_zero_a_key_does_nothing():
    bare = LSTM(4)
    params, xs = drawn(bare, 3), jax.random.normal(KEY, (B, T, 3))
    expected = unroll(bare, params, xs)
    jax.tree.map(np.testing.assert_array_equal, unroll(Dropout(bare), params, xs, key=KEY), expected)


def test_the_key_decides_the_masks():
    same = [factors("input_rate", key=jax.random.key(seed)) for seed in (1, 1, 2)]
    np.testing.assert_array_equal(same[0], same[1])
    assert (same[0] != same[2]).any()


def test_an_old_style_key_serves_as_well_as_a_new_one():
    old = jax.random.PRNGKey(7)
    cell = Stack((Dropout(GRU(4), input_rate=0.5, state_rate=0.5), Dropout(GRU(4), output_rate=0.5)))
    params, xs = drawn(cell, 3), jax.random.normal(KEY, (B, T, 3))
    new = jax.random.wrap_key_data(old)
    jax.tree.map(np.testing.assert_array_equal, unroll(cell, params, xs, key=old), unroll(cell, params, xs, key=new))


@pytest.mark.parametrize("place", ["input_rate", "output_rate"])
def test_a_timed_key_draws_for_its_own_steps(place):
    whole = factors(place)
    part = factors(place, key=TimedKey(KEY, jnp.arange(2, 5)), xs=ONES[:, 2:5])
    np.testing.assert_array_equal(part, whole[:, 2:5])


@pytest.mark.parametrize("steps", [1, T - 1])
def test_a_timed_key_for_another_number_of_steps_than_the_inputs_is_refused(steps):
    with pytest.raises(ValueError, match=rf"{steps}\b.*\b{T}\b|{T}\b.*\b{steps}\b"):
        factors("input_rate", key=TimedKey(KEY, jnp.arange(steps)))


def test_dropped_units_get_no_gradient():
    gradient = jax.jit(jax.grad(lambda xs: summed("input_rate", xs).sum()))(ONES)
    np.testing.assert_array_equal(gradient, factors("input_rate"))


@pytest.mark.promotes_types
def test_state_dropout_of_a_cell_within_keeps_its_type():
    cell = Dropout(GRU(4), state_rate=0.5, output_rate=0.5)
    x, key = jnp.ones((B, 3), jnp.bfloat16), jax.random.key(1)
    state, y = jax.eval_shape(lambda: cell(cell.init(KEY, 3), HiddenState(jnp.ones((B, 4))), x, key=key))
    assert (state.h.dtype, y.dtype) == (jnp.float32, jnp.bfloat16)
