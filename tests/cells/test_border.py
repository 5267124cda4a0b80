"""What does not fit a cell is refused where it is given, by name and in one sentence, before anything is computed."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from fixtures.parameters import array

from rnnjax import (
    GRU,
    LSTM,
    BasicRNN,
    Cell,
    Dropout,
    Fused,
    HiddenState,
    LearnedState,
    LSTMState,
    Project,
    Residual,
    Scan,
    Stack,
    unroll,
)

KEY = jax.random.key(0)
B, T, I, H = 2, 3, 3, 4
XS = array(np.ones((B, T, I)))


def by_unroll(cell, params, state=None, xs=XS, **options):
    return unroll(cell, params, xs, state, **options)


def by_call(cell, params, state=None, xs=XS):
    return cell(params, cell.initial_state(B) if state is None else state, xs[:, 0])


either = pytest.mark.parametrize("take", [by_unroll, by_call])


# Sizes


@pytest.mark.parametrize(
    "make",
    [LSTM, GRU, BasicRNN, lambda n: Project(GRU(3), n), lambda n: LSTM(3, projection_size=n), Scan, Fused],
)
@pytest.mark.parametrize("kind", [np.int64, np.int32, np.uint8, np.array])
def test_a_size_of_numpy_is_the_size_of_python(make, kind):
    assert make(kind(8)) == make(8)
    assert hash(make(kind(8))) == hash(make(8))


def test_numpy_sizes_of_inputs_make_the_same_parameters():
    given, expected = LSTM(H).init(KEY, np.int64(I)), LSTM(H).init(KEY, I)
    jax.tree.map(np.testing.assert_array_equal, given, expected)


@dataclasses.dataclass(frozen=True)
class Whole(Cell):
    """A user's own cell that knows one batch axis, as most are written."""

    size: int

    @property
    def output_size(self):
        return self.size

    def init(self, key, input_size):
        return jax.random.normal(key, (input_size, self.size))

    def initial_state(self, batch_size, dtype=jnp.float32):
        return HiddenState(jnp.zeros([batch_size, self.size], dtype))

    def inputs(self, params, xs, *, key=None):
        return xs @ params

    def step(self, params, state, z):
        h = jnp.tanh(state.h + z)
        return HiddenState(h), h


@pytest.mark.parametrize(
    "around",
    [lambda c: c, lambda c: Stack((GRU(I), c)), LearnedState, Residual],
    ids=["bare", "stack", "learned", "residual"],
)
def test_a_cell_that_expects_a_whole_number_of_sequences_gets_one(around):
    cell = around(Whole(I))
    dropped = Dropout(cell, state_rate=0.5)
    outputs = lambda cell, **options: unroll(cell, cell.init(KEY, I), XS, **options)[0]  # noqa: E731
    assert jax.eval_shape(lambda: outputs(cell, resets=jnp.zeros((B, T), bool))).shape == (B, T, I)
    assert jax.eval_shape(lambda: outputs(dropped, key=KEY)).shape == (B, T, I)


# Kinds of numbers


@pytest.mark.parametrize("dtype", [int, bool, jnp.int8, jnp.complex64])
@pytest.mark.parametrize("field", ["dtype", "param_dtype", "state_dtype"])
def test_a_cell_computes_in_floating_point_only(field, dtype):
    with pytest.raises(TypeError, match=f"{field} must be a floating-point type, got "):
        GRU(H, **{field: dtype})


@pytest.mark.parametrize("dtype", ["int32", "bool", "complex64"])
def test_a_call_refuses_the_inputs_that_unroll_refuses(dtype):
    cell = LSTM(H)
    with pytest.raises(TypeError, match=f"x must be floating point, got {dtype}; convert it"):
        cell(cell.init(KEY, I), cell.initial_state(B), jnp.ones((B, I), dtype))


@either
def test_a_complex_state_is_refused_rather_than_cut_to_its_real_part(take):
    cell = LSTM(H)
    state = LSTMState(*2 * (jnp.ones((B, H), jnp.complex64),))
    with pytest.raises(TypeError, match="state must be of real numbers like float32, got complex64"):
        take(cell, cell.init(KEY, I), state)


@pytest.mark.parametrize("length", [2**32 + 1, 2**40, -(2**33)])
def test_lengths_beyond_32_bits_are_refused_rather_than_wrapped(length):
    with pytest.raises(ValueError, match=f"lengths must be between 0 and T = 3, got {length}"):
        by_unroll(GRU(H), GRU(H).init(KEY, I), lengths=np.array([1, length]))


@either
def test_parameters_of_whole_numbers_are_refused(take):
    cell = BasicRNN(H)
    params = jax.tree.map(lambda leaf: leaf.astype(jnp.int32), cell.init(KEY, I))
    with pytest.raises(TypeError, match=r"params must be floating point, got int32 in GatedParams\(w_x="):
        take(cell, params)


# Parameters


PEEPHOLE = functools.partial(LSTM, peephole=True)
OTHERS = {
    "peepholes for none": (LSTM(H), PEEPHOLE(H)),
    "none for peepholes": (PEEPHOLE(H), LSTM(H)),
    "the other reset": (GRU(H), GRU(H, reset="before")),
    "the other reset, back": (GRU(H, reset="before"), GRU(H)),
    "no norm": (LSTM(H, layer_norm=True), LSTM(H)),
    "a GRU's": (LSTM(H), GRU(H)),
    "an LSTM's": (BasicRNN(H), LSTM(H)),
    "too many layers": (Stack((GRU(H), GRU(H))), Stack((GRU(H),) * 3)),
    "too few layers": (Stack((GRU(H), GRU(H))), Stack((GRU(H),))),
    "no stack": (Stack((GRU(H),)), GRU(H)),
    "no projection": (Project(GRU(H), 2), GRU(H)),
    "no learned state": (LearnedState(GRU(H)), GRU(H)),
}


@either
@pytest.mark.parametrize(("cell", "other"), OTHERS.values(), ids=OTHERS)
def test_parameters_of_another_cell_are_refused_by_structure(take, cell, other):
    with pytest.raises(TypeError, match=r"params must be those of \w+\(.*, a .*, got "):
        take(cell, other.init(KEY, I))


@either
@pytest.mark.parametrize(
    ("cell", "change"),
    [
        (LSTM(H), {"b": jnp.zeros((1, 5))}),
        (LSTM(H), {"b": jnp.zeros((1, H))}),
        (GRU(H), {"w_h": jnp.zeros((H, 3, 1))}),
        (PEEPHOLE(H), {"peephole": jnp.zeros((1, H))}),
    ],
    ids=["bias [1, 5]", "bias that would broadcast", "weight", "peepholes"],
)
def test_parameters_of_another_shape_are_refused_even_where_they_would_broadcast(take, cell, change):
    params = cell.init(KEY, I)._replace(**change)
    with pytest.raises(ValueError, match=r"params must have the shapes that \w+\(.*\) has for 3 features, .*, got "):
        take(cell, params)


@either
def test_parameters_for_inputs_of_another_size_say_so(take):
    cell = Stack((Dropout(GRU(H)), LSTM(H)))
    with pytest.raises(ValueError, match="xs has 3 features, but the cell was initialised for 5"):
        take(cell, cell.init(KEY, 5))


@pytest.mark.promotes_types
def test_parameters_may_be_arrays_of_numpy_and_of_other_floating_point_types():
    cell = LSTM(H)
    params = jax.tree.map(np.asarray, cell.init(KEY, I))
    by_unroll(cell, params)
    by_unroll(LSTM(H, dtype=jnp.bfloat16), jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.bfloat16), params))
