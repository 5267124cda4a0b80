"""A wrapper of one's own says once what it does; a cell of one's own has a step, or the two halves of one."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from fixtures.parameters import array
from fixtures.thorough import once_more
from numpy_cells import randomised

from rnnjax import GRU, LSTM, Auto, Cell, Dropout, HiddenState, Static, TimedKey, Wrapper, Zoneout, unroll

KEY = jax.random.key(2)
B, T, I, H = 2, 3, 3, 5


@dataclasses.dataclass(frozen=True)
class Doubled(Wrapper):
    """Inputs and outputs times two."""

    def before(self, params, xs, drawn):
        return 2 * xs

    def after(self, params, ys, drawn):
        return 2 * ys


@dataclasses.dataclass(frozen=True)
class Clipped(Wrapper):
    """A hidden state within a limit."""

    limit: float = 0.1

    def update(self, params, old, new, drawn):
        return new._replace(h=jnp.clip(new.h, -self.limit, self.limit))


@dataclasses.dataclass(frozen=True)
class Noisy(Wrapper):
    """Noise, drawn with its step, on the outputs."""

    def draw(self, params, xs, key):
        if key is None:
            return None, None
        key, time = (key.key, key.time) if isinstance(key, TimedKey) else (key, jnp.arange(len(xs)))
        shape = (*xs.shape[1:-1], self.output_size)
        return jax.vmap(lambda t: jax.random.normal(jax.random.fold_in(key, t), shape))(time), None

    def after(self, params, ys, drawn):
        return ys if drawn is None else ys + drawn


@dataclasses.dataclass(frozen=True)
class Counted(Wrapper):
    """A step of its own: how far the hidden state has moved takes the place of the output."""

    def step(self, params, state, z):
        after, _ = self.cell.step(params, state, z)
        return after, after.h - state.h


@dataclasses.dataclass(frozen=True)
class Drift(Cell):
    """A cell in two halves: h' = h + mean(x); y = sin(h')."""

    @property
    def output_size(self):
        return 1

    def init(self, key, input_size):
        return ()

    def initial_state(self, batch_size, dtype=jnp.float32):
        return HiddenState(jnp.zeros((*(batch_size if isinstance(batch_size, tuple) else (batch_size,)), 1), dtype))

    def inputs(self, params, xs, *, key=None):
        return xs.mean(-1, keepdims=True)

    def advance(self, params, state, z):
        return HiddenState(state.h + z)

    def read(self, params, state, z):
        return jnp.sin(state.h)


def drawn(cell):
    params = jax.tree.map(array, randomised(cell, I))
    return params, array(np.random.default_rng(2).standard_normal((B, T, I)))


def by_calls(cell, params, xs, key):
    state, ys = cell.initial_state(B), []
    for t in range(T):
        state, y = cell(params, state, xs[:, t], key=None if key is None else TimedKey(key, jnp.array([t])))
        ys.append(y)
    return jnp.stack(ys, 1), state


def close(got, expected):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), got, expected)


CELLS = [
    Doubled(LSTM(H)),
    Clipped(LSTM(H)),
    Noisy(GRU(H)),
    Counted(GRU(H)),
    Doubled(Clipped(Dropout(LSTM(H), output_rate=0.3))),
    Dropout(Doubled(Counted(GRU(H))), state_rate=0.3),
    Noisy(Doubled(Noisy(Zoneout(LSTM(H), 0.2)))),
    Drift(),
    Zoneout(Drift(), 0.4),
]


# The first four are within others of them.
@pytest.mark.parametrize("cell", [*map(once_more, CELLS[:4]), *CELLS[4:]], ids=range(len(CELLS)))
def test_steps_and_sequences_are_the_same_by_every_method(cell):
    def by_each_way(params, xs, key):
        unrolled = [unroll(cell, params, xs, method=method, key=key) for method in (Auto(), Static())]
        return by_calls(cell, params, xs, key), *unrolled

    for expected, *found in jax.jit(lambda *given: [by_each_way(*given, key) for key in (None, KEY)])(*drawn(cell)):
        for each in found:
            close(each, expected)


def test_inputs_and_outputs_are_changed_around_the_cell():
    params, xs = drawn(LSTM(H))
    ys, state = unroll(LSTM(H), params, 2 * xs)
    close(unroll(Doubled(LSTM(H)), params, xs), (2 * ys, state))


def test_outputs_are_read_from_the_state_that_an_update_made():
    params, xs = drawn(LSTM(H))
    ys, state = unroll(Clipped(LSTM(H)), params, xs)
    np.testing.assert_array_equal(ys[:, -1], state.h)
    assert float(jnp.abs(ys).max()) == pytest.approx(0.1)


def test_an_update_is_refused_around_a_cell_with_a_step_of_its_own():
    with pytest.raises(
        TypeError, match="Clipped changes the new state before the output is read from it, and so needs"
    ):
        Clipped(Counted(GRU(H)))


def test_a_cell_with_neither_a_step_nor_its_halves_says_what_is_missing():
    class Half(Drift):
        read = Cell.read

    with pytest.raises(NotImplementedError, match="Half must define step, or both advance and read; it has no read"):
        unroll(Half(), (), jnp.ones((B, T, I)))
