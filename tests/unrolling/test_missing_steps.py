"""A mask skips any steps of a sequence, as if they had never been there; and what is empty stays empty."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cells_under_test import CELLS, H, I, close, inputs, parameters, same, some_state
from fixtures.thorough import main_of, once_more
from hypothesis import given, settings
from hypothesis import strategies as st

from rnnjax import (
    GRU,
    LSTM,
    Bahdanau,
    BasicRNN,
    Fused,
    Newton,
    Pallas,
    Scan,
    Stack,
    Static,
    attending,
    bidirectional,
    nn,
    unroll,
    unroll_states,
)

B, T = 3, 4
METHODS = {
    "static": Static(),
    "scan": Scan(),
    "remat": Scan(remat_every=3),
    "fused": Fused(),
    "newton": Newton(),
    "pallas": Pallas(interpret=True),
}
MAIN = ["static", "fused"]  # the options of `Scan` are shown by the states too, Newton's method in its own tests
CELL = Stack((BasicRNN(H), LSTM(H, peephole=True)))
few = settings(max_examples=16, deadline=None, derandomize=True, database=None)
STEPS = np.arange(T)
either_way = pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
some_mask = st.lists(st.booleans(), min_size=B * T, max_size=B * T).map(lambda flat: np.reshape(flat, (B, T)))
MASK = np.array([[1, 0, 1, 1], [0, 0, 0, 0], [0, 1, 1, 0]], bool)
RESETS = np.array([[0, 1, 1, 0], [1, 0, 0, 0], [0, 0, 1, 1]], bool)


@functools.cache
def compiled(method, reverse):
    def run(params, xs, state, mask, resets, lengths=None):
        options = {"mask": mask, "resets": resets, "lengths": lengths}
        return unroll(CELL, params, xs, state, reverse=reverse, method=method, **options)

    return jax.jit(run)


@functools.cache
def value_and_gradients(method, reverse):
    def loss(params, xs, state):
        ys, last = compiled(method, reverse)(params, xs, state, MASK, RESETS)
        return jnp.square(ys).sum() + sum(jnp.sin(leaf).sum() for leaf in jax.tree.leaves(last))

    return jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2)))


@functools.cache
def arguments():
    return parameters(CELL), inputs(B, T, I), some_state(CELL, B)


def test_a_basic_cell_skips_the_step_between():
    cell = BasicRNN(1)
    params = cell.init(jax.random.key(0), 1)
    params = type(params)(*(jnp.full_like(w, value) for w, value in zip(params, (0.5, 0.8, 0.1))))
    xs, mask = jnp.array([[[1.0], [2.0], [3.0]]]), np.array([[True, False, True]])
    by_every_method = jax.jit(lambda *given: [unroll(cell, *given, mask=mask, method=of) for of in METHODS.values()])
    for ys, state in by_every_method(params, xs):
        np.testing.assert_allclose(ys[0, :, 0], [0.5370495670, 0, 0.9660628941], rtol=1e-6)
        np.testing.assert_allclose(state.h, [[0.9660628941]], rtol=1e-6)


@either_way
@given(mask=some_mask, resets=some_mask)
@few
def test_a_sequence_with_missing_steps_is_the_sequence_without_them(reverse, mask, resets):
    params, xs, state = arguments()
    run = compiled(Scan(), reverse)
    ys, last = run(params, xs, state, mask, resets)
    ys = np.asarray(ys)
    same(ys[~mask], np.zeros_like(ys[~mask]))
    first = np.arange(B)[:, None], np.argsort(~mask, axis=1, kind="stable")  # the steps that are there, in their order
    expected, at_end = run(params, np.asarray(xs)[first], state, None, resets[first], mask.sum(1))
    close((ys[first], last), (np.asarray(expected), at_end))


# Sequences are turned round before a method sees them.
@pytest.mark.parametrize(
    ("name", "reverse"),
    [
        *((name, False) for name in MAIN),
        *(once_more(name, False) for name in METHODS if name not in MAIN),
        once_more("fused", True),
    ],
)
def test_every_method_skips_alike_in_value_and_gradient_whatever_is_missing_says(name, reverse):
    method, (params, xs, state) = METHODS[name], arguments()
    poisoned = jnp.where(MASK[..., None], xs, jnp.nan)
    expected = value_and_gradients(Scan(), reverse)(params, xs, state)
    got = value_and_gradients(method, reverse)(params, poisoned, state)
    close(got, expected, rtol=2e-3 if method == METHODS["pallas"] else 1e-4, atol=1e-4)
    assert (np.asarray(got[1][1])[~MASK] == 0).all()


def test_a_mask_of_a_prefix_is_lengths_and_both_together_are_what_both_allow():
    params, xs, state = arguments()
    lengths = np.array([2, 0, 3])
    prefix = lengths[:, None] > STEPS
    close(unroll(CELL, params, xs, state, mask=prefix), unroll(CELL, params, xs, state, lengths=lengths))
    both = unroll(CELL, params, xs, state, mask=MASK, lengths=lengths, reverse=True)
    close(both, unroll(CELL, params, xs, state, mask=MASK & prefix, reverse=True))


def test_both_directions_and_modules_skip_missing_steps():
    params, xs, _ = arguments()
    ys, (ahead, back) = bidirectional(CELL, CELL, (params, params), xs, mask=MASK)
    close((ys[..., :H], ahead), unroll(CELL, params, xs, mask=MASK))
    close((ys[..., H:], back), unroll(CELL, params, xs, mask=MASK, reverse=True))
    module = nn.RNN(CELL)
    close(module.apply({"params": {"rnn": params}}, xs, mask=MASK), unroll(CELL, params, xs, mask=MASK))


def test_a_mask_that_is_no_mask_is_refused():
    params, xs, _ = arguments()
    with pytest.raises(TypeError, match="mask must be bool, got int32"):
        unroll(CELL, params, xs, mask=np.ones((B, T), np.int32))
    with pytest.raises(ValueError, match=r"mask must have shape \[\*batch, T\] = \[3, 4\], got \[4, 3\]"):
        unroll(CELL, params, xs, mask=np.ones((T, B), bool))


# The state after every step


@pytest.mark.parametrize(
    ("method", "reverse"), [(Scan(), False), (Scan(2), True), (Scan(remat_every=2), True), (Static(), False)], ids=str
)
def test_the_states_are_those_of_sequences_cut_there(method, reverse):
    params, xs, state = arguments()
    options = {"mask": MASK, "resets": RESETS}
    ys, states = unroll_states(CELL, params, xs, state, reverse=reverse, method=method, **options)
    whole = compiled(Scan(), reverse)
    close(ys, whole(params, xs, state, MASK, RESETS)[0])
    for t in range(T):
        up_to_t = (t <= STEPS) if reverse else (t >= STEPS)
        expected = whole(params, xs, state, MASK & up_to_t, RESETS)[1]
        close(jax.tree.map(lambda leaf, t=t: np.asarray(leaf)[:, t], states), expected)


# One of each kind of state, of the ways to change one, and of the ways to unroll.
KINDS = ("lstm_with_everything", "own", "variational_zoneout", "stack_of_weight_drop", "heads", "wrapped_stack", "lru")


@pytest.mark.parametrize("name", KINDS)
def test_the_last_of_the_states_is_the_final_state_for_every_kind_of_cell(name):
    cell, key = CELLS[name], jax.random.key(3)

    @jax.jit
    def both(params, xs):
        _, states = unroll_states(cell, params, xs, key=key, time_major=True)
        return jax.tree.map(lambda leaf: leaf[-1], states), unroll(cell, params, xs, key=key, time_major=True)[1]

    close(*both(parameters(cell), inputs(T, B, 2, I)))


def test_a_method_that_keeps_no_states_is_refused():
    params, xs, _ = arguments()
    sentence = r"unroll_states needs a method that returns all states, such as Scan\(\), got Fused\(unroll=1\)"
    with pytest.raises(ValueError, match=sentence):
        unroll_states(CELL, params, xs, method=Fused())
    with pytest.raises(TypeError, match="unroll_states has no option 'length'"):
        unroll_states(CELL, params, xs, length=3)


# Nothing


@pytest.mark.parametrize(
    ("cell", "method"),
    [*((CELLS[name], None) for name in KINDS), *((CELL, method) for method in METHODS.values())],
    ids=[*KINDS, *METHODS],
)
def test_no_steps_return_the_state_that_was_given_and_no_outputs(cell, method):
    params, state = parameters(cell), some_state(cell, B)
    ys, last = unroll(cell, params, jnp.zeros((B, 0, I)), state, method=method)
    assert ys.shape == (B, 0, cell.output_size)
    same(last, state)
    same(unroll(cell, params, jnp.zeros((B, 0, I)), method=method)[1], cell.start(params, B, jnp.float32))


def test_no_steps_may_attend_to_a_memory_of_several_sequences():
    cell = Bahdanau(GRU(H), 2)
    params = attending(parameters(cell), inputs(B, 5, 2))
    state = cell.start(params, B, jnp.float32)
    ys, last = unroll(cell, params, jnp.zeros((B, 0, I)), state)
    assert ys.shape == (B, 0, cell.output_size)
    same(last, state)


@pytest.mark.parametrize("cell", [CELLS[name] for name in KINDS], ids=KINDS)
def test_no_sequences_give_empty_arrays_and_gradients_of_zero(cell):
    def loss(params, xs):
        ys, last = unroll(cell, params, xs, lengths=jnp.zeros(0, jnp.int32), resets=jnp.zeros((0, T), bool))
        return ys.sum() + sum(leaf.sum() for leaf in jax.tree.leaves(last)), (ys, last)

    params = parameters(cell)
    gradient, (ys, last) = jax.jit(jax.grad(loss, has_aux=True))(params, jnp.zeros((0, T, I)))
    assert ys.shape == (0, T, cell.output_size)
    assert all(leaf.shape[0] == 0 for leaf in jax.tree.leaves(last))
    same(gradient, jax.tree.map(jnp.zeros_like, params))


def test_nothing_passes_through_modules_both_directions_and_all_states():
    params, _, state = arguments()
    module = nn.RNN(CELL)
    variables = module.init(jax.random.key(0), jnp.zeros((B, 0, I)))
    assert module.apply(variables, jnp.zeros((0, T, I)))[0].shape == (0, T, H)
    ys, (ahead, back) = bidirectional(CELL, CELL, (params, params), jnp.zeros((B, 0, I)), (state, state))
    assert ys.shape == (B, 0, 2 * H)
    same((ahead, back), (state, state))
    ys, states = unroll_states(CELL, params, jnp.zeros((B, 0, I)))
    assert ys.shape == (B, 0, H)
    assert all(leaf.shape == (B, 0, H) for leaf in jax.tree.leaves(states))


# What lies before a reset


@pytest.mark.parametrize("name", main_of(METHODS, MAIN))
def test_what_lies_before_a_reset_reaches_no_gradient_after_it(name):
    cell, method = GRU(4), METHODS[name]
    params, xs = parameters(cell), inputs(B, T, I)
    resets = np.full((B, T), STEPS == 2)

    def loss(params, xs, state):
        ys, last = unroll(cell, params, xs, state, resets=resets, method=method)
        return jnp.square(ys[:, 2:]).sum() + jnp.sin(last.h).sum()

    run = jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2)))
    state = some_state(cell, B)
    expected = run(params, xs, state)
    same(expected[1][2], jax.tree.map(np.zeros_like, state))
    assert all(np.any(np.asarray(leaf) != 0) for leaf in jax.tree.leaves(expected[1][:2]))
    for poisoned, first in (
        (np.where(STEPS[:, None] == 0, np.float32(np.nan), xs), state),
        (np.where(STEPS[:, None] == 0, np.float32(np.inf), xs), state),
        (xs, jax.tree.map(lambda leaf: np.where(np.arange(B)[:, None] > 0, np.float32(np.nan), leaf), state)),
        (xs, jax.tree.map(lambda leaf: np.where(np.arange(B)[:, None] > 0, np.float32(np.inf), leaf), state)),
    ):
        close(run(params, poisoned, first), expected)


def test_outputs_are_lost_from_what_is_not_finite_up_to_the_reset():
    cell = GRU(4)
    params, xs = parameters(cell), np.array(inputs(2, T, I))
    resets = np.array([[0, 0, 0, 1], [0, 0, 0, 0]], bool)
    run = jax.jit(lambda xs, state: unroll(cell, params, xs, state, resets=resets)[0])
    state = jax.tree.map(np.zeros_like, some_state(cell, 2))
    expected, poisoned = run(xs, state), xs.copy()
    poisoned[0, 1, 0] = np.nan
    ys = np.asarray(run(poisoned, state))
    lost = np.isnan(ys).all(-1)
    same(lost, np.array([[0, 1, 1, 0], [0, 0, 0, 0]], bool))
    close(ys[~lost], np.asarray(expected)[~lost])
    state.h[0] = np.nan
    same(np.isnan(run(xs, state)).all(-1)[0], np.array([1, 1, 1, 0], bool))
