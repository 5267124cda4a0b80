"""The first and the last cell of a tree, changed and found."""

import jax
import pytest

from rnnjax import GRU, LSTM, BasicRNN, Dropout, LearnedState, Project, Residual, Stack
from rnnjax.cells.tree import first_with_params, last_with_state, with_first, with_last

TREE = Dropout(Stack((Project(LSTM(2), 3), Stack((GRU(4), Residual(LearnedState(GRU(4))))))), input_rate=0.1)


def bigger(cell):
    return type(cell)(9)


def test_the_first_cell_is_changed_under_stacks_and_wrappers_and_nothing_else():
    changed = with_first(TREE, bigger)
    assert changed == Dropout(Stack((Project(LSTM(9), 3), TREE.cell.cells[1])), input_rate=0.1)


def test_the_last_cell_is_changed_under_stacks_and_wrappers_and_nothing_else():
    last = Stack((GRU(4), Residual(LearnedState(GRU(9)))))
    assert with_last(TREE, bigger) == Dropout(Stack((TREE.cell.cells[0], last)), input_rate=0.1)


def test_a_bare_cell_is_its_first_and_its_last():
    assert with_first(BasicRNN(2), bigger) == with_last(BasicRNN(2), bigger) == BasicRNN(9)


def test_what_is_not_entered_is_changed_itself():
    inside = with_first(TREE, lambda cell: Residual(cell), lambda cell: not isinstance(cell, Project))
    assert inside.cell.cells[0] == Residual(Project(LSTM(2), 3))


@pytest.mark.parametrize("cell", [TREE, BasicRNN(3), LearnedState(Project(GRU(3), 2))])
def test_parameters_and_state_go_with_the_cell_that_is_found(cell):
    params, state = cell.init(jax.random.key(0), 3), cell.initial_state(2)
    first, its_params = first_with_params(cell, params)
    last, its_state = last_with_state(cell, state)
    assert jax.tree.structure(its_params) == jax.tree.structure(first.init(jax.random.key(0), 3))
    assert its_params.w_x.shape[-1] == first.hidden_size
    assert its_state.h.shape == (2, last.hidden_size)
