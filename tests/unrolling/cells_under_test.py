"""Cells of every kind, with random parameters, for the tests that hold for any cell."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
from fixtures.parameters import array

from rnnjax import (
    GRU,
    LRU,
    LSTM,
    RGLRU,
    BasicRNN,
    Cell,
    Dropout,
    GatedCell,
    Heads,
    HiddenState,
    IndRNN,
    LearnedState,
    ParaGRU,
    ParaLSTM,
    Project,
    Residual,
    Stack,
    WeightDrop,
    Zoneout,
    unroll,
)

I, H = 3, 4


@dataclasses.dataclass(frozen=True)
class UpdateGateRNN(GatedCell):
    """A user's own gated cell (Collins et al., 2017): h' = u * h + (1 - u) * tanh(z_n + r_n)."""

    gate_count = 2

    def gates(self, params, state, z, r):
        a = z + r
        u = jax.nn.sigmoid(a[..., 0, :])
        return HiddenState(u * state.h + (1 - u) * jnp.tanh(a[..., 1, :]))


@dataclasses.dataclass(frozen=True)
class LeakySum(Cell):
    """A user's own cell that is not gated, its state a bare array: s' = decay * s + x; y = sin(s')."""

    size: int

    @property
    def output_size(self):
        return self.size

    def init(self, key, input_size):
        return jax.random.uniform(key, (self.size,))

    def initial_state(self, batch_size, dtype=jnp.float32):
        batch = batch_size if isinstance(batch_size, tuple) else (batch_size,)
        return jnp.zeros((*batch, self.size), dtype)

    def inputs(self, params, xs, *, key=None):
        return xs

    def step(self, params, state, z):
        state = params * state + z
        return state, jnp.sin(state)


@dataclasses.dataclass(frozen=True)
class Halved(UpdateGateRNN):
    """A user's own gated cell that does more in its step than gated cells do."""

    def step(self, params, state, z):
        state, y = super().step(params, state, z)
        return HiddenState(state.h / 2), y


GATED = {
    "rnn": BasicRNN(H, "softplus"),
    "lstm": LSTM(H),
    "lstm_with_everything": LSTM(
        H, peephole=True, projection_size=2, cell_clip=0.6, projection_clip=0.5, coupled_gates=True, layer_norm=True
    ),
    "gru": GRU(H),
    "gru_before": GRU(H, reset="before"),
    "own_gated": UpdateGateRNN(H),
}
WRAPPED = {
    "own": LeakySum(I),
    "stack": Stack((LSTM(H), UpdateGateRNN(2))),
    "dropout": Dropout(GRU(H), input_rate=0.3, state_rate=0.3, output_rate=0.3),
    "variational": Dropout(LSTM(H), input_rate=0.3, state_rate=0.3, output_rate=0.3, variational=True),
    "zoneout": Zoneout(LSTM(H), 0.3, cell_rate=0.4),
    "variational_zoneout": Zoneout(Dropout(GRU(H), input_rate=0.3), 0.3, variational=True),
    "weight_drop": WeightDrop(LSTM(H), 0.3),
    "stack_of_weight_drop": Stack((WeightDrop(BasicRNN(H), 0.3), Zoneout(WeightDrop(LSTM(2), 0.3), 0.3))),
    "heads": WeightDrop(Heads(LSTM(H, peephole=True), 2), 0.3),
    "project": Project(GRU(H), 2),
    "residual": Residual(BasicRNN(I)),
    "learned": LearnedState(GRU(H)),
    "stack_of_wrapped": Stack(
        (
            Residual(Project(GRU(H), I)),
            Dropout(LearnedState(LSTM(2)), state_rate=0.3, output_rate=0.3),
        )
    ),
    "wrapped_stack": LearnedState(
        Dropout(Residual(Stack((Dropout(GRU(H), input_rate=0.3), Project(BasicRNN(H), I)))), state_rate=0.3)
    ),
    "stack_of_stacks": Project(Stack((Stack((BasicRNN(H), BasicRNN(2))), LearnedState(Stack((GRU(2),))))), 3),
}
LINEAR = {
    "lru": LRU(H, size=I),
    "rg_lru": LearnedState(RGLRU(H, project_inputs=True)),
}
DIAGONAL = {
    "diagonal": Stack(
        (
            Dropout(IndRNN(H, activation="softplus", recurrent_limit=0.9), state_rate=0.3),
            LearnedState(ParaGRU(H)),
            ParaLSTM(2),
        )
    ),
}
CELLS = GATED | WRAPPED | LINEAR | DIAGONAL

# Each of these is a part of one of the others.
PARTS = ("stack", "dropout", "weight_drop", "zoneout", "project", "residual", "learned")
WHOLE = {name: cell for name, cell in CELLS.items() if name not in PARTS}


@functools.lru_cache
def _compiled(cell, **static):
    return jax.jit(lambda params, xs, state, dynamic: unroll(cell, params, xs, state, **static, **dynamic))


def run(cell, params, xs, state=None, *, reverse=False, method=None, time_major=False, **dynamic):
    """Unrolls as `rnnjax.unroll` does, compiled once for all lengths, resets and keys, to arrays of NumPy.

    Their parts are taken without a program for each.
    """
    compiled = _compiled(cell, reverse=reverse, method=method, time_major=time_major)
    return jax.tree.map(np.asarray, compiled(params, xs, state, dynamic))


def drawn(like, seed=0, scale=0.7, dtype=np.float32):
    """Returns random arrays of the shapes given."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: array(scale * rng.standard_normal(leaf.shape), dtype), like)


def parameters(cell, input_size=I, dtype=np.float32):
    """Returns parameters with every entry drawn at random: zero biases would hide missing ones."""
    return drawn(jax.eval_shape(lambda key: cell.init(key, input_size), jax.random.key(0)), dtype=dtype)


def inputs(*shape, seed=1, dtype=np.float32):
    """Returns random inputs of a shape."""
    return drawn(jax.ShapeDtypeStruct(shape, dtype), seed, 1.0, dtype)


def some_state(cell, batch, seed=2, dtype=np.float32):
    """Returns a random state of a batch."""
    return drawn(jax.eval_shape(lambda: cell.initial_state(batch, dtype)), seed, dtype=dtype)


def close(got, expected, rtol=1e-4, atol=1e-5):
    """Asserts that two trees are the same within rounding."""
    assert jax.tree.structure(got) == jax.tree.structure(expected)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=rtol, atol=atol), got, expected)


def same(got, expected):
    """Asserts that two trees are the same bit by bit."""
    assert jax.tree.structure(got) == jax.tree.structure(expected)
    jax.tree.map(np.testing.assert_array_equal, got, expected)


def check_that_a_reset_cuts_an_overflow_off(cell, method, length, reset):
    """Asserts that a cell which overflows by itself in one sequence changes nothing after a reset of all.

    Outputs before it are NaN in that sequence; values and gradients are those of the steps from the reset on.
    """
    resets, batch = np.arange(length) == np.full((3, 1), reset), 3
    params, xs = jax.tree.map(jnp.abs, parameters(cell)), inputs(batch, length, I).at[0, 0].set(3000)

    def loss(after, params, xs):
        start = reset if after else 0
        options = {} if after else {"resets": resets, "method": method}
        ys, last = unroll(cell, params, xs[:, start:], **options)
        return jnp.cos(ys[:, reset - start :]).sum() + jnp.sin(last.h).sum()

    got, expected = (
        jax.jit(jax.value_and_grad(functools.partial(loss, after), argnums=(0, 1)))(params, xs)
        for after in (False, True)
    )
    close(got, expected)
    ys, _ = unroll(cell, params, xs, resets=resets, method=method)
    same(np.isnan(ys).all(-1), (np.arange(batch)[:, None] == 0) & (np.arange(length) < reset))
