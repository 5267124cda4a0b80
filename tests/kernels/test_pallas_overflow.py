"""What overflows before a reset reaches no gradient after it in the pallas kernels either, interpreted on a CPU."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cells_under_test import close, same
from fixtures.thorough import main_of
from test_overflow import RESET, B, ExponentialGate, T, loss, overflowing
from test_pallas_interpreted import PALLAS, Oscillation

from rnnjax import BasicRNN, GatedCell, unroll


@dataclasses.dataclass(frozen=True)
class Hidden(GatedCell):
    """v' = exp(z_1 + r_1), h' = tanh(z_0 + r_0) exp(-v): v overflows, and no output shows it."""

    gate_count = 2

    def initial_state(self, batch_size, dtype=jnp.float32):
        zeros = self.zeros(batch_size, self.hidden_size, dtype)
        return Oscillation(zeros, zeros)

    def gates(self, params, state, z, r):
        content, gate = jnp.moveaxis(z + r, -2, 0)
        return Oscillation(jnp.tanh(content) * jnp.exp(-state.v), jnp.exp(gate))


@functools.cache
def compiled(cell):
    return jax.jit(jax.value_and_grad(functools.partial(loss, cell, PALLAS), argnums=(0, 1), has_aux=True))


CELLS = {"gated": ExponentialGate(4), "relu": BasicRNN(4, "relu"), "not in the output": Hidden(4)}


@pytest.mark.parametrize("step", [0, RESET - 1], ids=["early", "last"])
@pytest.mark.parametrize("cell", main_of(CELLS.values(), (CELLS["gated"], CELLS["not in the output"])), ids=CELLS)
def test_what_overflows_before_a_reset_reaches_no_value_and_no_gradient_after_it(cell, step):
    params, xs = overflowing(cell)
    xs = np.array(xs)
    xs[0, [0, step]] = xs[0, [step, 0]]
    (value, _), gradients = compiled(cell)(params, xs)
    xs[0, step] = 0.1
    (expected, finite), wanted = compiled(cell)(params, xs)
    assert np.isfinite(finite).all()
    close((value, gradients), (expected, wanted))
    before = np.asarray(gradients[1])[:, :RESET]
    same(before, np.zeros_like(before))


def test_what_overflows_without_a_reset_after_it_is_not_hidden():
    cell = CELLS["gated"]
    params, xs = overflowing(cell)
    early = np.zeros((B, T), bool)
    early[:, 0] = early[1:, T - 1] = True
    last = lambda params: jnp.sum(unroll(cell, params, xs, resets=early, method=PALLAS)[0][:, T - 1])  # noqa: E731
    assert not any(np.isfinite(leaf).all() for leaf in jax.tree.leaves(jax.jit(jax.grad(last))(params))[:2])
