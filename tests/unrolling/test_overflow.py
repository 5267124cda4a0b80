"""A cell that overflows by itself, from finite inputs, before a reset changes no value and no gradient after it."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cells_under_test import I, close, inputs, parameters, same

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
    "below another": (Stack([ExponentialGate(I), Exponential(), GRU(4)]), [None, Scan()]),
    "residual": (Residual(Stack([Project(ExponentialGate(4), 2), ExponentialGate(I)])), [None]),
}


def overflowing(cell):
    """Parameters, and inputs of which the first of the first sequence, finite as it is, is too much for the cell."""
    scale, much = (2, 3e38) if isinstance(cell, BasicRNN) else (0.3, 3000)
    params = jax.tree.map(lambda leaf: jnp.asarray(scale * np.abs(leaf)), parameters(cell))
    xs = np.array(inputs(B, T, I))
    xs[0, 0] = much
    return params, jnp.asarray(xs)


def loss(cell, method, after, params, xs):
    """A loss of what comes after the reset: of whole sequences, or of their ends alone."""
    options = {} if after else {"resets": RESETS}
    ys, last = unroll(cell, params, xs[:, RESET:] if after else xs, method=method, **options)
    of_outputs = jnp.cos(ys if after else ys[:, RESET:]).sum()
    return of_outputs + sum(jnp.sin(leaf).sum() for leaf in jax.tree.leaves(last)), ys


def value_and_gradients(cell, method, after, params, xs):
    """Returns the loss with all outputs, and its gradients, compiled."""
    of = functools.partial(loss, cell, method, after)
    return jax.jit(jax.value_and_grad(of, argnums=(0, 1), has_aux=True))(params, xs)


@pytest.mark.parametrize("name", CASES)
def test_what_overflows_before_a_reset_reaches_no_value_and_no_gradient_after_it(name):
    cell, methods = CASES[name]
    params, xs = overflowing(cell)
    (expected, _), gradients = value_and_gradients(cell, None, True, params, xs)
    for method in methods:
        (value, ys), (for_params, for_xs) = value_and_gradients(cell, method, False, params, xs)
        assert not np.isfinite(ys[0, :RESET]).any()
        close((value, (for_params, for_xs)), (expected, gradients))
        before = np.asarray(for_xs)[:, :RESET]
        same(before, np.zeros_like(before))


@functools.cache
def along(after, method):
    """Returns the gradient, and how it changes along a direction."""
    cell = ExponentialGate(4)
    params, xs = overflowing(cell)
    derivative = jax.grad(functools.partial(loss, cell, method, after), has_aux=True)
    change = jax.jit(lambda *given: jax.jvp(lambda params: derivative(params, xs)[0], given[:1], given[1:]))
    return change(params, parameters(cell, I))


@pytest.mark.parametrize("method", GATED, ids=str)
def test_higher_derivatives_and_maps_are_those_of_what_comes_after_too(method):
    cell = ExponentialGate(4)
    params, xs = overflowing(cell)
    expected, _ = after = along(True, Scan())
    close(along(False, method), after, rtol=1e-3, atol=1e-4)
    each = jax.jit(jax.vmap(jax.grad(functools.partial(loss, cell, method, False), has_aux=True), (None, 0)))
    twice, _ = each(params, np.stack([xs, xs[::-1]]))
    close(jax.tree.map(lambda leaf: np.asarray(leaf)[0], twice), expected)


def test_gradients_of_gradients_are_those_of_what_comes_after_without_a_loop():
    cell = ExponentialGate(4)
    params, xs = overflowing(cell)

    def steepness(after, params):
        slopes, _ = jax.grad(functools.partial(loss, cell, Static(), after), has_aux=True)(params, xs)
        return sum(jnp.square(slope).sum() for slope in jax.tree.leaves(slopes))

    close(*(jax.jit(jax.grad(functools.partial(steepness, after)))(params) for after in (False, True)), rtol=1e-3)


def test_dropout_of_the_state_with_keys_in_every_step():
    cell = Dropout(Stack([ExponentialGate(I), Dropout(GRU(4), output_rate=0.2)]), state_rate=0.3)
    params, xs = overflowing(cell)
    key = jax.random.key(4)

    @jax.jit
    @jax.grad
    def gradient(params, xs):
        ys, _ = unroll(cell, params, xs, resets=RESETS, key=key)
        return jnp.cos(ys[:, RESET:]).sum()

    close(gradient(params, xs), gradient(params, xs.at[0, 0].set(0.1)))


@pytest.mark.parametrize("name", ["gated", "not gated", "below another"])
def test_outputs_are_nan_from_there_on_up_to_the_reset_and_states_are_what_they_are(name):
    cell, methods = CASES[name]
    params, xs = overflowing(cell)
    lost = np.zeros((B, T), bool)
    lost[0, :RESET] = True
    for method in methods:
        ys, _ = unroll(cell, params, xs, resets=RESETS, method=method)
        same(np.isnan(ys).all(-1), lost)
        close(ys[~lost], unroll(cell, params, xs.at[0, 0].set(0.1), resets=RESETS, method=method)[0][~lost])
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
    ys, _ = unroll(cell, params, xs, resets=early, method=method)
    assert not np.isfinite(ys[0]).any()
    last = lambda params: jnp.sum(unroll(cell, params, xs, resets=early, method=method)[0][:, T - 1])  # noqa: E731
    gradient = jax.jit(jax.grad(last))(params)
    assert not any(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient)[:2])


@dataclasses.dataclass(frozen=True)
class Forgetful(GatedCell):
    """h' = relu(z): it overflows in one step and has recovered in the next."""

    def gates(self, params, state, z, r):
        return HiddenState(jax.nn.relu(z[..., 0, :]))


@pytest.mark.parametrize("method", [None, Scan(), Static()], ids=str)
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
