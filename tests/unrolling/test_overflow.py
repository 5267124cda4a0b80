"""A cell that overflows by itself, from finite inputs, before a reset changes no value and no gradient after it."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cells_under_test import I, close, inputs, parameters, same
from fixtures.thorough import main_of, once_more

from rnnjax import (
    GRU,
    BasicRNN,
    Cell,
    Dropout,
    Fused,
    GatedCell,
    HiddenState,
    Project,
    Residual,
    Scan,
    Stack,
    Static,
    unroll,
    unroll_states,
)

B, T, RESET = 3, 4, 2
RESETS = np.arange(T) == np.full((B, 1), RESET)


@dataclasses.dataclass(frozen=True)
class ExponentialGate(GatedCell):
    """h' = exp(z_i + r_i) * (z_c + r_c): what the first gate is infinite for, the derivative of both is."""

    gate_count = 2

    def gates(self, params, state, z, r):
        gate, content = jnp.moveaxis(z + r, -2, 0)
        return HiddenState(jnp.exp(gate) * content)


@dataclasses.dataclass(frozen=True)
class Mixing(ExponentialGate):
    """The same, said to mix hidden units."""

    pointwise = False


@dataclasses.dataclass(frozen=True)
class Exponential(Cell):
    """s' = exp(s + x . w); y = s': no gated cell."""

    @property
    def output_size(self):
        return I

    def init(self, key, input_size):
        return jax.random.uniform(key, (input_size,))

    def initial_state(self, batch_size, dtype=jnp.float32):
        return jnp.zeros((*(batch_size if isinstance(batch_size, tuple) else (batch_size,)), I), dtype)

    def inputs(self, params, xs, *, key=None):
        return xs * params

    def advance(self, params, state, z):
        return jnp.exp(state + z)

    def read(self, params, state, z):
        return state


GATED = [Fused(), Scan(remat_every=2), Static()]
ANY = [Scan(), Static()]
CASES = {
    "gated": (ExponentialGate(4), GATED),
    "not pointwise": (Mixing(4), [Fused()]),
    "relu": (BasicRNN(4, "relu"), [Fused(unroll=2), Scan()]),
    "not gated": (Exponential(), ANY),
    "state dropout": (Dropout(ExponentialGate(I), state_rate=0.3), [Scan(remat_every=2)]),
    "projected": (Project(ExponentialGate(4), 2), [None]),
    "below another": (Stack([ExponentialGate(I), Exponential(), BasicRNN(4)]), [None, Scan()]),
    "residual": (Residual(Stack([Project(ExponentialGate(4), 2), ExponentialGate(I)])), [None]),
}


def overflowing(cell):
    """Parameters, and inputs of which the first of the first sequence, finite as it is, is too much for the cell."""
    scale, much = (2, 3e38) if isinstance(cell, BasicRNN) else (0.3, 3000)
    params = jax.tree.map(lambda leaf: jax.device_put(scale * np.abs(leaf)), parameters(cell))
    return params, with_first(inputs(B, T, I), much)


def with_first(xs, value):
    """Returns inputs with a number in place of all those of the first step of the first sequence."""
    xs = np.array(xs)
    xs[0, 0] = value
    return jax.device_put(xs)


def loss(cell, method, params, xs):
    """A loss of what comes after the reset, which no input before it matters to, and all outputs."""
    ys, last = unroll(cell, params, xs, method=method, resets=RESETS)
    return jnp.cos(ys[:, RESET:]).sum() + sum(jnp.sin(leaf).sum() for leaf in jax.tree.leaves(last)), ys


def check(cell, method):
    """Asserts that what overflows gives the value and the gradients that small inputs in its place give."""
    params, xs = overflowing(cell)
    run = jax.jit(jax.value_and_grad(functools.partial(loss, cell, method), argnums=(0, 1), has_aux=True))
    (value, ys), gradients = run(params, xs)
    (expected, finite), wanted = run(params, with_first(xs, 0.1))
    assert not np.isfinite(ys[0, :RESET]).any()
    assert np.isfinite(finite).all()
    close((value, gradients), (expected, wanted))
    before = np.asarray(gradients[1])[:, :RESET]
    same(before, np.zeros_like(before))


# What the others have is in one of these, or in the tests of missing steps.
MAIN = ("gated", "not pointwise", "not gated", "state dropout", "residual")


@pytest.mark.parametrize("name", main_of(CASES, MAIN))
def test_what_overflows_before_a_reset_reaches_no_value_and_no_gradient_after_it(name):
    cell, methods = CASES[name]
    for method in methods:
        check(cell, method)


@pytest.mark.parametrize("method", main_of(GATED, (Fused(),)), ids=str)
def test_nor_does_it_reach_higher_derivatives_and_maps(method):
    cell = ExponentialGate(4)
    params, xs = overflowing(cell)
    change = parameters(cell, I)

    @jax.jit
    def along(params, xs):
        derivative = jax.vmap(jax.grad(functools.partial(loss, cell, method), has_aux=True), (None, 0))
        return jax.jvp(lambda params: derivative(params, xs)[0], (params,), (change,))

    pairs = (np.stack([first, first[::-1]]) for first in (xs, with_first(xs, 0.1)))
    close(*(along(params, pair) for pair in pairs), rtol=1e-3, atol=1e-4)


def test_nor_does_it_reach_gradients_of_gradients_without_a_loop():
    cell = ExponentialGate(4)
    params, xs = overflowing(cell)

    @jax.jit
    @jax.grad
    def steepness(params, xs):
        slopes, _ = jax.grad(functools.partial(loss, cell, Static()), has_aux=True)(params, xs)
        return sum(jnp.square(slope).sum() for slope in jax.tree.leaves(slopes))

    close(steepness(params, xs), steepness(params, with_first(xs, 0.1)), rtol=1e-3)


def test_dropout_of_the_state_with_keys_in_every_step():
    cell = Dropout(Stack([ExponentialGate(I), Dropout(BasicRNN(4), output_rate=0.2)]), state_rate=0.3)
    params, xs = overflowing(cell)
    key = jax.random.key(4)

    @jax.jit
    @jax.grad
    def gradient(params, xs):
        ys, _ = unroll(cell, params, xs, resets=RESETS, key=key)
        return jnp.cos(ys[:, RESET:]).sum()

    close(gradient(params, xs), gradient(params, with_first(xs, 0.1)))


@pytest.mark.parametrize("name", ["gated", "not gated", "below another"])
def test_outputs_are_nan_from_there_on_up_to_the_reset_and_states_are_what_they_are(name):
    cell, methods = CASES[name]
    params, xs = overflowing(cell)
    lost = np.zeros((B, T), bool)
    lost[0, :RESET] = True
    for method in methods:
        ys, _ = unroll(cell, params, xs, resets=RESETS, method=method)
        same(np.isnan(ys).all(-1), lost)
        finite, _ = unroll(cell, params, with_first(xs, 0.1), resets=RESETS, method=method)
        close(np.asarray(ys)[~lost], np.asarray(finite)[~lost])
    ys, states = unroll_states(cell, params, xs, resets=RESETS)
    same(np.isnan(ys).all(-1), lost)
    first = np.concatenate([leaf.reshape(B, T, -1) for leaf in jax.tree.leaves(states)], -1)
    assert np.isfinite(first[~lost]).all()


@pytest.mark.parametrize("method", GATED, ids=str)
def test_what_overflows_without_a_reset_after_it_is_not_hidden(method):
    cell = ExponentialGate(4)
    params, xs = overflowing(cell)
    early = np.zeros((B, T), bool)
    early[:, 0] = early[1:, T - 1] = True

    def last(params):
        ys, _ = unroll(cell, params, xs, resets=early, method=method)
        return jnp.sum(ys[:, T - 1]), ys

    gradient, ys = jax.jit(jax.grad(last, has_aux=True))(params)
    assert not np.isfinite(ys[0]).any()
    assert not any(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient)[:2])


@dataclasses.dataclass(frozen=True)
class Forgetful(GatedCell):
    """h' = relu(z): it overflows in one step and has recovered in the next."""

    def gates(self, params, state, z, r):
        return HiddenState(jax.nn.relu(z[..., 0, :]))


@pytest.mark.parametrize("method", [None, Scan(), once_more(Static())], ids=str)
def test_a_reset_at_a_missing_step_ends_nothing(method):
    cell = Stack([Forgetful(3), GRU(4)])
    below, above = parameters(cell, 2)
    params = (below._replace(w_x=jnp.full_like(below.w_x, 3e38)), above)
    xs = jnp.full((1, 6, 2), 1e-38).at[0, 1].set(3e5)
    mask, resets = np.ones((1, 6), bool), np.zeros((1, 6), bool)
    mask[0, 2] = False
    resets[0, [2, 5]] = True
    ys, _ = unroll(cell, params, xs, mask=mask, resets=resets, method=method)
    there = mask[0]
    without, _ = unroll(cell, params, xs[:, there], resets=(resets & mask)[:, there], method=method)
    same(np.isnan(ys[:, there]), np.isnan(without))
    same(np.isnan(without).all(-1), np.array([[False, True, True, True, False]]))
