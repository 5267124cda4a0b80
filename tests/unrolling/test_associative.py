"""A linear cell of one's own gets every option of `unroll` by a parallel prefix, as by a loop."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cells_under_test import H, I, check_that_a_reset_cuts_an_overflow_off, close, inputs, parameters, some_state
from fixtures.thorough import main_of

from rnnjax import (
    GRU,
    LSTM,
    QRNN,
    Associative,
    Auto,
    Dropout,
    HiddenState,
    LinearCell,
    MinGRU,
    Project,
    Residual,
    Scan,
    Stack,
    Static,
    Zoneout,
    choose_method,
    unroll,
    unroll_states,
)

B, T, RESET = 3, 5, 3
MASK = np.array([[1, 0, 1, 1, 0], [0, 0, 0, 0, 0], [0, 1, 1, 1, 1]], bool)
RESETS = np.array([[0, 1, 1, 0, 0], [1, 0, 0, 0, 0], [0, 0, 0, 1, 0]], bool)
PREFIXES = [Associative("scan"), Associative("associative")]
each_prefix = pytest.mark.parametrize("method", PREFIXES, ids=["in order", "tree"])


@dataclasses.dataclass(frozen=True)
class Growing(LinearCell):
    """h' = exp(z_a) h + z_b; y = sin(h') exp(-z_a): all of it overflows where z_a is large."""

    gate_count = 2

    def coefficients(self, params, zs):
        return jnp.exp(zs[..., 0, :]), zs[..., 1, :]

    def read(self, params, state, z):
        return jnp.sin(state.h) * jnp.exp(-z[..., 0, :])


@dataclasses.dataclass(frozen=True)
class Matrix(LinearCell):
    """Linear attention with a gate: S' = f S + v k^T, y = S' q, with a state [H, H]."""

    gate_count = 4

    def initial_state(self, batch_size, dtype=jnp.float32):
        batch = batch_size if isinstance(batch_size, tuple) else (batch_size,)
        return HiddenState(jnp.zeros((*batch, self.hidden_size, self.hidden_size), dtype))

    def coefficients(self, params, zs):
        key, value, _, forget = jnp.moveaxis(zs, -2, 0)
        return jax.nn.sigmoid(forget[..., None]), value[..., None] * key[..., None, :]

    def read(self, params, state, z):
        return (state.h * z[..., None, 2, :]).sum(-1)


@dataclasses.dataclass(frozen=True)
class Mean(LinearCell):
    """A running mean, its state a number for the sum and one for the count: a is one number for both."""

    def initial_state(self, batch_size, dtype=jnp.float32):
        return {name: self.zeros(batch_size, self.hidden_size, dtype) for name in ("sum", "count")}

    def coefficients(self, params, zs):
        return jnp.ones(()), {"sum": zs[..., 0, :], "count": jnp.ones_like(zs[..., 0, :])}

    def read(self, params, state, z):
        return state["sum"] / (1 + state["count"])


OWN = {
    "growing": Growing(H),
    "matrix": Matrix(2),
    "mean": Mean(H),
    "stack": Dropout(Residual(Stack([QRNN(H, pooling="ifo"), Project(MinGRU(H), I)])), input_rate=0.3),
}


def value_and_gradients(cell, method, arguments, **options):
    def loss(params, xs, state):
        ys, last = unroll(cell, params, xs, state, method=method, **options)
        return (jnp.cos(ys) * jnp.arange(1.0, T + 1)[:, None]).sum() + sum(
            jnp.sin(leaf).sum() for leaf in jax.tree.leaves(last)
        )

    return jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2)))(*arguments)


@pytest.mark.parametrize("name", main_of(OWN, ("matrix",)))
def test_masks_resets_directions_and_wrappers_are_as_in_a_loop(name):
    cell = OWN[name]
    arguments = parameters(cell), jnp.where(MASK[..., None], inputs(B, T, I), jnp.nan), some_state(cell, B)
    options = {"mask": MASK, "resets": RESETS, "reverse": True, "key": jax.random.key(3)}
    expected = value_and_gradients(cell, Scan(), arguments, **options)
    for method in PREFIXES if name == "matrix" else PREFIXES[:1]:
        close(value_and_gradients(cell, method, arguments, **options), expected)
    assert all(np.any(np.asarray(leaf) != 0) for leaf in jax.tree.leaves(expected))


@each_prefix
def test_states_of_all_steps_and_lengths_of_zero(method):
    cell = Stack([OWN["mean"], Growing(H)])
    given = {"lengths": np.array([5, 0, 2]), "resets": RESETS}
    arguments = cell, parameters(cell), inputs(B, T, I), some_state(cell, B)
    close(unroll_states(*arguments, method=method, **given), unroll_states(*arguments, method=Scan(), **given))


@each_prefix
def test_a_cell_that_overflows_before_a_reset_changes_nothing_after_it(method):
    check_that_a_reset_cuts_an_overflow_off(Growing(H), method, T, RESET)


@each_prefix
def test_an_overflow_after_the_last_reset_is_seen(method):
    cell = Growing(H)
    params, early = jax.tree.map(jnp.abs, parameters(cell)), np.arange(T) == np.full((B, 1), T - 1 - RESET)
    xs = inputs(B, T, I).at[0, 0].set(3000)
    ys, _ = unroll(cell, params, xs.at[0, 4].set(3000), resets=early, method=method)
    assert not np.isfinite(ys[0, 4]).any()


def test_vmap_forward_mode_and_gradients_of_gradients():
    cell = Growing(H)
    params, xs = parameters(cell), inputs(B, T, I)

    def along(method):
        loss = lambda params, x: jnp.sin(unroll(cell, params, x, method=method)[0]).sum()  # noqa: E731
        each = jax.vmap(jax.grad(loss), (None, 0))
        return jax.jit(lambda params: jax.jvp(lambda params: each(params, xs), (params,), (params,)))(params)

    close(along(Associative()), along(Scan()), rtol=1e-3, atol=1e-4)


def test_16_bit_inputs_keep_a_state_of_float32():
    cell = MinGRU(H)
    params, xs = parameters(cell), inputs(B, T, I).astype(jnp.bfloat16)
    (ys, state), (expected, last) = (unroll(cell, params, xs, method=method) for method in (Associative(), Scan()))
    assert (ys.dtype, state.h.dtype) == (jnp.bfloat16, jnp.float32)
    close((ys.astype(jnp.float32), state), (expected.astype(jnp.float32), last), rtol=1e-2)


@pytest.mark.parametrize(
    ("cell", "name"),
    [(GRU(H), "GRU"), (Stack([MinGRU(H), LSTM(H)]), "LSTM"), (Zoneout(MinGRU(H), 0.3), "Zoneout")],
    ids=["gated", "in a stack", "a changed state"],
)
def test_what_is_not_linear_is_refused_by_name(cell, name):
    with pytest.raises(ValueError, match=rf"takes linear cells whose step is LinearCell's, and {name} is not one here"):
        unroll(cell, parameters(cell), inputs(B, T, I), method=Associative())


def test_an_unknown_implementation_is_refused():
    with pytest.raises(ValueError, match="got 'tree'"):
        Associative("tree")


def test_by_rule_linear_cells_are_unrolled_at_once_on_a_cpu_and_one_step_is_one_call():
    assert choose_method(Growing(H), (T, B, I), "cpu") == Associative()
    assert choose_method(Growing(H), (T, B, I), "gpu") == Scan()
    cell = OWN["matrix"]
    params, xs, state = parameters(cell), inputs(B, T, I), some_state(cell, B)
    ys, last = unroll(cell, params, xs, state, method=Auto())
    for t in range(T):
        state, y = cell(params, state, xs[:, t])
        close(y, ys[:, t])
    close(state, last)
    close(unroll(cell, params, xs[:, :0], last, method=Associative())[1], last)
    close(unroll(cell, params, xs, method=Scan(remat_every=2)), unroll(cell, params, xs, method=Static()))
