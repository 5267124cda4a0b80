"""What lengths, resets, reverse and a carried state mean, for any shape."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cells_under_test import H, I, close, inputs, parameters, run, same, some_state
from fixtures.thorough import once_more
from hypothesis import given, settings
from hypothesis import strategies as st

from rnnjax import GRU, LSTM, BasicRNN, Dropout, LearnedState, Project, Residual, Stack, TimedKey, unroll

B, T = 3, 4
KEY = jax.random.key(11)
CELLS = {
    "lstm": LSTM(H, peephole=True),
    "stack": Stack((Residual(BasicRNN(I)), Project(LearnedState(LSTM(H)), 2))),
}
few = settings(max_examples=16, deadline=None, derandomize=True, database=None)
any_cell = pytest.mark.parametrize("cell", [once_more(CELLS["lstm"]), CELLS["stack"]], ids=CELLS)
WAYS = {(name, way): (CELLS[name], way == "reverse") for name in CELLS for way in ("forward", "reverse")}
MAIN = ("lstm", "reverse"), ("stack", "forward")
any_cell_either_way = pytest.mark.parametrize(
    ("cell", "reverse"), [WAYS[way] if way in MAIN else once_more(*WAYS[way]) for way in WAYS], ids=map("-".join, WAYS)
)
some_lengths = st.lists(st.integers(0, T), min_size=B, max_size=B).map(np.array)
some_resets = st.lists(st.booleans(), min_size=B * T, max_size=B * T).map(lambda flat: np.reshape(flat, (B, T)))


@functools.cache
def given_of(cell):
    """Returns parameters, inputs ``[B, T, I]`` and a state of a cell."""
    return jax.tree.map(np.asarray, (parameters(cell), inputs(B, T, I), some_state(cell, B)))


def one(tree, b):
    """Returns the batch of one that holds entry b."""
    return jax.tree.map(lambda leaf: leaf[b : b + 1], tree)


# Any shape, against the definition


def numpy_lstm(p, state, x):
    i, f, g, o = (x @ p.w_x[:, gate] + state[0] @ p.w_h[:, gate] + p.b[gate] for gate in range(4))
    i, f, o = (1 / (1 + np.exp(-a)) for a in (i, f, o))
    c = f * state[1] + i * np.tanh(g)
    return o * np.tanh(c), c


def by_definition(p, xs, state, length, resets, reverse):
    """Unrolls one sequence ``[T, I]`` as the documentation says it."""
    ys, initial = np.zeros((len(xs), len(state[0]))), [np.zeros_like(part) for part in state]
    for t in reversed(range(length)) if reverse else range(length):
        state = numpy_lstm(p, initial if resets[t] else state, xs[t])
        ys[t] = state[0]
    return ys, state


@given(data=st.data())
@settings(few, max_examples=8)  # each is compiled
def test_unrolling_does_to_each_sequence_what_is_documented_for_any_shape(data):
    batch = tuple(data.draw(st.lists(st.integers(1, 3), max_size=3), "batch"))
    length, input_size, hidden = (data.draw(st.integers(1, 4), name) for name in "TIH")
    reverse, time_major, with_state, with_lengths, with_resets = data.draw(st.tuples(*[st.booleans()] * 5), "flags")
    rng = np.random.default_rng(data.draw(st.integers(0, 99), "seed"))
    cell = LSTM(hidden)
    params, xs = jax.tree.map(np.asarray, (parameters(cell, input_size), inputs(*batch, length, input_size)))
    state = jax.tree.map(lambda leaf: np.asarray(leaf) if with_state else np.zeros_like(leaf), some_state(cell, batch))
    lengths = rng.integers(0, length + 1, batch) if with_lengths else np.full(batch, length)
    resets = rng.random((*batch, length)) < 0.3 if with_resets else np.zeros((*batch, length), bool)

    time_first = lambda a, axis: np.moveaxis(a, axis, 0) if time_major else a  # noqa: E731
    ys, last = run(
        cell,
        params,
        time_first(xs, -2),
        state if with_state else None,
        reverse=reverse,
        time_major=time_major,
        lengths=lengths if with_lengths else None,
        resets=time_first(resets, -1) if with_resets else None,
    )
    ys = np.moveaxis(ys, 0, -2) if time_major else ys
    assert ys.shape == (*batch, length, hidden)
    assert [leaf.shape for leaf in last] == [(*batch, hidden)] * 2
    p = jax.tree.map(np.float64, params)
    for b in np.ndindex(*batch):
        x, start = np.float64(xs[b]), [np.float64(leaf[b]) for leaf in state]
        expected_ys, expected_last = by_definition(p, x, start, lengths[b], resets[b], reverse)
        close((ys[b], [leaf[b] for leaf in last]), (expected_ys, list(expected_last)))


# Lengths


@any_cell_either_way
@given(lengths=some_lengths)
@few
def test_each_sequence_is_unrolled_as_if_truncated_and_alone(cell, reverse, lengths):
    params, xs, state = given_of(cell)
    ys, last = run(cell, params, xs, state, lengths=lengths, reverse=reverse)
    for b, length in enumerate(lengths):
        same(ys[b, length:], np.zeros_like(ys[b, length:]))
        if length == 0:
            same(one(last, b), one(state, b))
        else:
            close(
                (one(ys, b)[:, :length], one(last, b)),
                run(cell, params, xs[b : b + 1, :length], one(state, b), reverse=reverse),
            )


@any_cell_either_way
def test_a_sequence_of_length_zero_without_a_state_returns_what_it_would_have_started_from(cell, reverse):
    params, xs, _ = given_of(cell)
    _, last = run(cell, params, xs, lengths=np.zeros(B, int), reverse=reverse)
    same(last, cell.start(params, B, jnp.float32))


@any_cell
@given(lengths=some_lengths)
@few
def test_reverse_is_the_unrolling_of_the_flipped_valid_parts_flipped_back(cell, lengths):
    params, xs, state = given_of(cell)
    order = np.array([[*reversed(range(length)), *range(length, T)] for length in lengths])
    rows = np.arange(B)[:, None]
    flipped, last = run(cell, params, xs[rows, order], state, lengths=lengths)
    close(run(cell, params, xs, state, lengths=lengths, reverse=True), (flipped[rows, order], last))


@functools.cache
def gradients(cell, reverse):
    def loss(params, xs, state, lengths):
        ys, last = unroll(cell, params, xs, state, lengths=lengths, reverse=reverse)
        return jnp.square(ys).sum() + sum(jnp.sin(leaf).sum() for leaf in jax.tree.leaves(last))

    return jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2)))


@any_cell_either_way
@given(lengths=some_lengths, poison=st.sampled_from([np.nan, np.inf, -np.inf, 1e30]))
@few
def test_nothing_in_the_padding_changes_a_value_or_a_gradient(cell, reverse, lengths, poison):
    params, xs, state = given_of(cell)
    padding = np.arange(T) >= lengths[:, None]
    poisoned = np.where(padding[..., None], np.float32(poison), xs)
    same(
        run(cell, params, poisoned, state, lengths=lengths, reverse=reverse),
        run(cell, params, xs, state, lengths=lengths, reverse=reverse),
    )
    clean = gradients(cell, reverse)(params, xs, state, lengths)
    same(gradients(cell, reverse)(params, poisoned, state, lengths), clean)
    for_xs = np.asarray(clean[1][1])
    assert (for_xs[padding] == 0).all()
    assert (for_xs[~padding] != 0).any(axis=-1).all()


def test_padding_gets_no_gradient_and_does_no_harm_where_cells_add_their_inputs_or_drop_them():
    cell = Residual(Dropout(Stack((Residual(GRU(I)),)), input_rate=0.2, state_rate=0.2, output_rate=0.2))
    lengths = jnp.array([2, 0, 4])
    padding = np.arange(T) >= lengths[:, None]
    xs = jnp.where(padding[..., None], jnp.nan, inputs(B, T, I))

    def loss(params, xs):
        ys, last = unroll(cell, params, xs, lengths=lengths, key=KEY)
        return ys.sum() + last[0].h.sum()

    value, (for_params, for_xs) = jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))(parameters(cell), xs)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((value, for_params)))
    assert (for_xs[padding] == 0).all()


def test_lengths_may_be_of_any_whole_number_type():
    cell = CELLS["lstm"]
    params, xs, state = given_of(cell)
    expected = unroll(cell, params, xs, state, lengths=jnp.array([0, 4, 2]), reverse=True)
    for dtype in (np.uint8, np.int8, np.int64):
        same(unroll(cell, params, xs, state, lengths=np.array([0, 4, 2], dtype), reverse=True), expected)


# Resets


@any_cell
@given(resets=some_resets)
@few
def test_a_reset_is_a_fresh_start_there(cell, resets):
    params, xs, state = given_of(cell)
    ys, last = run(cell, params, xs, state, resets=resets)
    for b in range(B):
        cuts = [0, *(t for t in range(1, T) if resets[b, t]), T]
        start = one(cell.start(params, B, xs.dtype) if resets[b, 0] else state, b)
        for begin, end in itertools.pairwise(cuts):
            expected, at_end = run(cell, params, xs[b : b + 1, begin:end], start)
            close(one(ys, b)[:, begin:end], expected)
            start = cell.start(params, 1, xs.dtype)
        close(one(last, b), at_end)


@any_cell
@given(resets=some_resets)
@few
def test_under_reverse_a_reset_comes_before_its_step_in_the_order_taken(cell, resets):
    params, xs, state = given_of(cell)
    ys, last = run(cell, params, xs[:, ::-1], state, resets=resets[:, ::-1])
    close(run(cell, params, xs, state, resets=resets, reverse=True), (ys[:, ::-1], last))


@any_cell_either_way
def test_resets_in_the_padding_do_nothing(cell, reverse):
    params, xs, state = given_of(cell)
    lengths = np.array([0, 2, 4])
    padding = np.arange(T) >= lengths[:, None]
    same(
        run(cell, params, xs, state, lengths=lengths, resets=padding, reverse=reverse),
        run(cell, params, xs, state, lengths=lengths, resets=np.zeros((B, T), bool), reverse=reverse),
    )


def test_a_reset_returns_to_the_learned_state_and_not_to_the_one_given():
    cell = LearnedState(GRU(H))
    params, xs, state = given_of(cell)
    ys, _ = unroll(cell, params, xs, state, resets=np.arange(T) == np.full((B, 1), 3))
    fresh, _ = unroll(cell, params, xs[:, 3:])
    close(ys[:, 3:], fresh)
    learned = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (B, H)), params.state)
    close(fresh, unroll(cell.cell, params.cell, xs[:, 3:], learned)[0])


def test_a_learned_state_gets_its_gradient_from_starts_and_from_resets():
    cell = LearnedState(LSTM(H))
    params, xs, state = given_of(cell)

    def gradient(state, resets):
        loss = lambda params: unroll(cell, params, xs, state, resets=resets)[0].sum()  # noqa: E731
        return jax.jit(jax.grad(loss))(params).state

    never, at_two = np.zeros((B, T), bool), np.arange(T) == np.full((B, 1), 2)
    nothing = jax.tree.map(np.zeros_like, params.state)
    same(gradient(state, never), nothing)
    assert all((leaf != 0).all() for leaf in gradient(None, None))
    assert all((leaf != 0).all() for leaf in gradient(state, at_two))


# Chunks


@any_cell_either_way
@given(cuts=st.sampled_from([(2,), (1, 3)]), lengths=some_lengths, resets=some_resets)
@few
def test_chunks_with_the_state_carried_are_the_whole(cell, reverse, cuts, lengths, resets):
    params, xs, carried = given_of(cell)
    ys, last = run(cell, params, xs, carried, lengths=lengths, resets=resets, reverse=reverse)
    bounds = [0, *cuts, T]
    chunks = list(itertools.pairwise(bounds))
    for begin, end in reversed(chunks) if reverse else chunks:
        there = np.clip(lengths - begin, 0, end - begin)
        part, carried = run(
            cell, params, xs[:, begin:end], carried, lengths=there, resets=resets[:, begin:end], reverse=reverse
        )
        close(part, ys[:, begin:end])
    close(carried, last)


@pytest.mark.parametrize("variational", [once_more(True), False])
def test_a_timed_key_makes_chunks_draw_what_the_whole_draws(variational):
    within = Dropout(BasicRNN(H), input_rate=0.3, state_rate=0.3, output_rate=0.3, variational=variational)
    cell = Dropout(Stack((LSTM(H), within)), state_rate=0.3, variational=variational)
    params, xs, carried = given_of(cell)
    ys, last = run(cell, params, xs, carried, key=KEY)
    for begin, end in ((0, 2), (2, 4)):
        part, carried = run(cell, params, xs[:, begin:end], carried, key=TimedKey(KEY, jnp.arange(begin, end)))
        close(part, ys[:, begin:end])
    close(carried, last)
    _, evaluated = run(cell, params, xs)
    assert np.abs(last[1].h - evaluated[1].h).max() > 0.01


def test_chunks_with_a_plain_key_draw_their_masks_anew_from_step_zero():
    cell = Dropout(BasicRNN(I, "identity"), input_rate=0.5)
    passing = parameters(cell)._replace(w_x=jnp.eye(I)[:, None], w_h=jnp.zeros((I, 1, I)), b=jnp.zeros((1, I)))
    xs = jnp.ones((B, 4, I))
    whole, _ = run(cell, passing, xs, key=KEY)
    second, _ = run(cell, passing, xs[:, 2:], key=KEY)
    same(second, whole[:, :2])


# Batches


@any_cell_either_way
@given(order=st.permutations(range(B)), lengths=some_lengths, resets=some_resets)
@few
def test_permuting_the_batch_permutes_the_results(cell, reverse, order, lengths, resets):
    params, xs, state = given_of(cell)
    at = np.array(order)
    ys, last = run(cell, params, xs, state, lengths=lengths, resets=resets, reverse=reverse)
    pick = lambda leaf: leaf[at]  # noqa: E731
    moved = run(
        cell, params, xs[at], jax.tree.map(pick, state), lengths=lengths[at], resets=resets[at], reverse=reverse
    )
    close(moved, (ys[at], jax.tree.map(pick, last)))


@any_cell
def test_a_sequence_gets_no_gradient_from_the_outputs_of_another(cell):
    params, xs, state = given_of(cell)
    loss = lambda xs, state: unroll(cell, params, xs, state, lengths=np.array([4, 2, 3]))[0][1].sum()  # noqa: E731
    for_xs, for_state = jax.jit(jax.grad(loss, argnums=(0, 1)))(xs, state)
    for leaf in jax.tree.leaves((for_xs, for_state)):
        assert (leaf[0] == 0).all()
        assert (leaf[2] == 0).all()
        assert (leaf[1] != 0).any()


@any_cell
def test_an_output_depends_on_its_own_past_and_on_nothing_later(cell):
    params, xs, _ = given_of(cell)
    for reverse in (False, True):
        outputs = lambda x, reverse=reverse: unroll(cell, params, x, reverse=reverse)[0]  # noqa: E731
        depends = np.abs(jax.jit(jax.jacrev(outputs))(xs[0])).sum((1, 3)) > 0
        expected = np.tril(np.ones((T, T), bool))
        same(depends, expected.T if reverse else expected)
