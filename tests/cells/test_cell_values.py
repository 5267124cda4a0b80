"""Cells are values: equal when their fields are, hashable, frozen, and so static under `jax.jit`."""

import dataclasses
import functools
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnnjax import GRU, LSTM, BasicRNN, Dropout, LearnedState, Project, Residual, Scan, Stack, Static, unroll

MAKE = {
    "rnn": lambda: BasicRNN(3, "relu"),
    "lstm": lambda: LSTM(3, peephole=True, cell_clip=2.0, dtype=jnp.bfloat16),
    "gru": lambda: GRU(3, reset="before"),
    "stack": lambda: Stack((LSTM(3), GRU(4))),
    "dropout": lambda: Dropout(LSTM(3), state_rate=0.5, variational=True),
    "project": lambda: Project(GRU(3), 5),
    "residual": lambda: Residual(GRU(3)),
    "learned": lambda: LearnedState(GRU(3)),
    "scan": lambda: Scan(2, remat_every=4),
    "static": lambda: Static(),
}


@pytest.mark.parametrize("make", MAKE.values(), ids=MAKE)
def test_two_made_alike_are_equal_and_hash_alike(make):
    assert make() is not make()
    assert make() == make()
    assert hash(make()) == hash(make())
    assert pickle.loads(pickle.dumps(make())) == make()


def test_those_made_differently_are_not_equal():
    made = [make() for make in MAKE.values()] + [LSTM(3), LSTM(4), LSTM(3, 0.0), GRU(3), BasicRNN(3), Scan(), Scan(2)]
    assert len(set(made)) == len(made)


def test_a_stack_of_a_list_is_the_stack_of_a_tuple():
    assert Stack([LSTM(3), GRU(4)]) == Stack((LSTM(3), GRU(4)))
    assert hash(Stack([LSTM(3)])) == hash(Stack((LSTM(3),)))


def test_cells_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        LSTM(3).hidden_size = 4
    with pytest.raises(dataclasses.FrozenInstanceError):
        Dropout(LSTM(3)).input_rate = 0.5


def test_an_equal_cell_is_the_same_static_argument():
    traces = []

    @functools.partial(jax.jit, static_argnums=0)
    def size(cell, x):
        traces.append(cell)
        return x * cell.output_size

    for cell in (LSTM(3), LSTM(3), Stack([LSTM(3)]), Stack((LSTM(3),))):
        assert size(cell, 1.0) == 3
    assert traces == [LSTM(3), Stack((LSTM(3),))]


def test_a_type_may_be_named_in_any_of_its_ways_without_making_another_cell():
    assert LSTM(3, dtype="bfloat16") == LSTM(3, dtype=jnp.bfloat16) == LSTM(3, dtype=jnp.dtype("bfloat16"))
    assert len({LSTM(3, dtype="bfloat16"), LSTM(3, dtype=jnp.bfloat16), LSTM(3, dtype=jnp.dtype("bfloat16"))}) == 1


@pytest.mark.promotes_types
@pytest.mark.parametrize("field", ["dtype", "state_dtype"])
def test_a_cell_in_float64_is_not_the_cell_in_the_type_of_its_inputs(field):
    # NumPy holds that np.dtype("float64") == None.
    assert LSTM(3, **{field: np.dtype("float64")}) != LSTM(3)
    with jax.enable_x64(True):
        plain, wide = GRU(3), GRU(3, **{field: np.dtype("float64")})
        params, xs = plain.init(jax.random.key(0), 2), jnp.ones((1, 4, 2), jnp.float32)
        assert unroll(plain, params, xs)[1].h.dtype == jnp.float32
        assert unroll(wide, params, xs)[1].h.dtype == jnp.float64
