"""One step of each wrapper, against the step of the cell within."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from fixtures.parameters import array
from numpy_cells import randomised

from rnnjax import GRU, LSTM, Dropout, LearnedState, Project, Residual, Stack

KEY = jax.random.key(0)
B, I, H = 3, 4, 5


def drawn(cell, input_size=I, seed=1):
    """Returns random parameters, state and input of a cell."""
    params = jax.tree.map(array, randomised(cell, input_size, seed))
    rng = np.random.default_rng(seed)
    like = cell.initial_state(B)
    state = jax.tree.map(lambda leaf: array(rng.standard_normal(leaf.shape), leaf.dtype), like)
    return params, state, array(rng.standard_normal((B, input_size)))


def close(got, expected):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), got, expected)


def test_a_stack_feeds_each_layer_the_output_of_the_one_below():
    lower, upper = LSTM(H, projection_size=2), GRU(3)
    cell = Stack((lower, upper))
    params, state, x = drawn(cell)
    first, y = lower(params[0], state[0], x)
    second, y = upper(params[1], state[1], y)
    close(cell(params, state, x), ((first, second), y))


def test_a_stack_reads_what_a_layer_puts_out_after_its_projection():
    lower, upper = Project(GRU(H), 2), Residual(GRU(2))
    cell = Stack((lower, upper))
    params, state, x = drawn(cell)
    first, y = lower(params[0], state[0], x)
    assert y.shape == (B, 2)
    second, y = upper(params[1], state[1], y)
    close(cell(params, state, x), ((first, second), y))


def test_project_projects_the_output_and_not_the_state():
    cell = Project(GRU(H), 2)
    params, state, x = drawn(cell)
    after, y = cell.cell(params.cell, state, x)
    close(cell(params, state, x), (after, y @ params.w + params.b))


def test_residual_adds_the_input_to_the_output_and_not_to_the_state():
    cell = Residual(GRU(I))
    params, state, x = drawn(cell)
    after, y = cell.cell(params, state, x)
    close(cell(params, state, x), (after, y + x))


def test_residual_around_a_projection_adds_the_input_after_it():
    cell = Residual(Project(GRU(H), I))
    params, state, x = drawn(cell)
    after, y = cell.cell(params, state, x)
    close(cell(params, state, x), (after, y + x))


def test_a_projection_of_a_residual_projects_the_sum():
    cell = Project(Residual(GRU(I)), 2)
    params, state, x = drawn(cell)
    after, y = cell.cell(params.cell, state, x)
    close(cell(params, state, x), (after, y @ params.w + params.b))


def test_a_projection_of_a_projection_projects_twice():
    cell = Project(Project(GRU(H), 3), 2)
    params, state, x = drawn(cell)
    after, y = cell.cell.cell(params.cell.cell, state, x)
    once = y @ params.cell.w + params.cell.b
    close(cell(params, state, x), (after, once @ params.w + params.b))


def test_dropout_in_evaluation_and_a_learned_state_leave_a_step_as_it_is():
    cell = LearnedState(Dropout(GRU(H), input_rate=0.5, state_rate=0.5, output_rate=0.5))
    params, state, x = drawn(cell)
    close(cell(params, state, x), GRU(H)(params.cell, state, x))


def test_output_dropout_acts_after_a_projection_within():
    cell = Dropout(Project(GRU(H), 64), output_rate=0.5)
    params, state, x = drawn(cell)
    bare = np.asarray(cell(params, state, x)[1])
    dropped = np.asarray(cell(params, state, x, key=KEY)[1])
    kept = dropped != 0
    assert 0 < kept.mean() < 1
    close(dropped[kept], 2 * bare[kept])


@pytest.mark.parametrize(
    "wrap", [Dropout, Residual, lambda cell: Project(cell, 2), lambda cell: Stack((cell,))], ids=range(4)
)
def test_a_wrapper_starts_from_the_learned_state_within(wrap):
    cell = wrap(LearnedState(LSTM(H)))
    params, _, _ = drawn(cell, H)
    learned = jax.tree.leaves(params, is_leaf=lambda node: hasattr(node, "c"))
    learned = next(leaf for leaf in learned if hasattr(leaf, "c"))
    start = cell.start(params, (2, 3), jnp.float32)
    start = start[0] if isinstance(cell, Stack) else start
    for leaf, value in zip(start, learned):
        assert leaf.shape == (2, 3, H)
        np.testing.assert_array_equal(leaf, np.broadcast_to(value, leaf.shape))
