import jax
import jax.numpy as jnp
import pytest

from rnnjax import GRU, LSTM, BasicRNN, Dropout, LearnedState, Project, Residual, Stack

KEY = jax.random.key(0)


@pytest.mark.parametrize("cell", [BasicRNN, LSTM, GRU])
@pytest.mark.parametrize("size", [0, -2])
def test_a_hidden_size_below_one_is_refused(cell, size):
    with pytest.raises(ValueError, match=f"hidden_size must be at least 1, got {size}"):
        cell(size)


@pytest.mark.parametrize("size", [2.0, "8", True, None])
def test_a_hidden_size_that_is_no_whole_number_is_refused(size):
    with pytest.raises(TypeError, match=f"hidden_size must be a whole number, got {size!r}"):
        LSTM(size)


@pytest.mark.parametrize("cell", [BasicRNN(3), LSTM(3), GRU(3), LearnedState(Stack((GRU(3),)))])
def test_an_input_size_below_one_is_refused(cell):
    with pytest.raises(ValueError, match="input_size must be at least 1, got 0"):
        cell.init(KEY, 0)


def test_an_unknown_activation_is_refused_with_those_that_are_known():
    with pytest.raises(ValueError, match=r"unknown activation 'tahn'; choose from tanh, relu, .*or give a function"):
        BasicRNN(3, "tahn")


def test_a_gru_knows_two_places_for_its_reset():
    with pytest.raises(ValueError, match='reset must be "after" or "before", got \'between\''):
        GRU(3, reset="between")


def test_a_projection_clip_needs_a_projection():
    with pytest.raises(ValueError, match=r"projection_clip=0.5 needs a projection_size"):
        LSTM(3, projection_clip=0.5)


@pytest.mark.parametrize("name", ["cell_clip", "projection_clip"])
@pytest.mark.parametrize("limit", [0.0, -1.0, float("nan")])
def test_a_clip_must_be_positive(name, limit):
    with pytest.raises(ValueError, match=f"{name} must be positive, got {limit}"):
        LSTM(3, projection_size=2, **{name: limit})


def test_a_projection_size_must_be_a_positive_whole_number():
    with pytest.raises(ValueError, match="projection_size must be at least 1, got 0"):
        LSTM(3, projection_size=0)
    with pytest.raises(TypeError, match=r"projection_size must be a whole number, got 1\.5"):
        LSTM(3, projection_size=1.5)


@pytest.mark.parametrize("cell", [BasicRNN(3), LSTM(3), LSTM(3, layer_norm=True), GRU(3), Residual(GRU(3))])
def test_inputs_of_another_size_than_at_initialisation_are_refused(cell):
    params = jax.eval_shape(lambda: cell.init(KEY, 3))
    with pytest.raises(ValueError, match="xs has 5 features, but the cell was initialised for 3"):
        jax.eval_shape(cell, params, cell.initial_state(2), jnp.zeros((2, 5)))


@pytest.mark.parametrize("name", ["input_rate", "state_rate", "output_rate"])
@pytest.mark.parametrize("rate", [1.0, -0.1, 1.5, float("nan")])
def test_a_dropout_rate_outside_zero_to_one_is_refused(name, rate):
    with pytest.raises(ValueError, match=rf"{name} must be in \[0, 1\), got {rate}"):
        Dropout(LSTM(3), **{name: rate})


@pytest.mark.parametrize("wrap", [Dropout, Residual, LearnedState, lambda cell: Project(cell, 3)])
@pytest.mark.parametrize("thing", ["lstm", LSTM, None])
def test_a_wrapper_refuses_what_is_not_a_cell(wrap, thing):
    with pytest.raises(TypeError, match=r"wraps a cell, got ('lstm'|<class .*LSTM'>|None)"):
        wrap(thing)


def test_a_stack_refuses_what_is_not_a_cell_and_nothing_at_all():
    with pytest.raises(TypeError, match="Stack is made of cells, got 'lstm'"):
        Stack((LSTM(3), "lstm"))
    with pytest.raises(ValueError, match="Stack needs at least one cell, got none"):
        Stack(())


def test_a_stack_of_a_bare_cell_says_how_to_write_it():
    with pytest.raises(TypeError, match=r"Stack takes a list of cells, got LSTM\(3\); write Stack\(\[LSTM\(3\)\]\)"):
        Stack(LSTM(3))


def test_a_projection_to_no_outputs_is_refused():
    with pytest.raises(ValueError, match="size must be at least 1, got 0"):
        Project(LSTM(3), 0)


def test_a_residual_needs_inputs_of_the_size_of_its_outputs():
    with pytest.raises(ValueError, match="Residual needs inputs of the output's size 3, got 5"):
        Residual(LSTM(3)).init(KEY, 5)
