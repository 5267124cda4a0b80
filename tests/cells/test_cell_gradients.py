import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from fixtures.thorough import main_of
from numpy_cells import randomised

from rnnjax import GRU, LSTM, BasicRNN, GatedCell, HiddenState, unroll

B, T, I, H = 2, 3, 2, 3


@dataclasses.dataclass(frozen=True)
class MinimalGated(GatedCell):
    """Zhou et al., 2016: h' = (1 - f) * h + f * tanh(z_n + f * r_n), f = sigmoid(z_f + r_f)."""

    gate_count = 2

    def gates(self, params, state, z, r):
        f = jax.nn.sigmoid(z[..., 0, :] + r[..., 0, :])
        return HiddenState((1 - f) * state.h + f * jnp.tanh(z[..., 1, :] + f * r[..., 1, :]))


CELLS = {
    "tanh": BasicRNN(H),
    "peephole": LSTM(H, peephole=True),
    "coupled": LSTM(H, peephole=True, coupled_gates=True),
    "clipped": LSTM(H, projection_size=2, cell_clip=0.7, projection_clip=0.4),
    "projected": LSTM(H, peephole=True, projection_size=2),
    "normalised": LSTM(H, layer_norm=True),
    "gru": GRU(H),
    "before": GRU(H, reset="before"),
    "own": MinimalGated(H),
}


# What the others have is in one of these, or in the tests of their equations.
MAIN = ("tanh", "coupled", "clipped", "before", "own")


@pytest.mark.parametrize("name", main_of(CELLS, MAIN))
def test_gradients_are_those_of_finite_differences(name):
    cell = CELLS[name]
    with jax.enable_x64(True):
        rng = np.random.default_rng(5)
        draw = lambda leaf: rng.standard_normal(leaf.shape)  # noqa: E731
        params, state = randomised(cell, I), jax.tree.map(draw, cell.initial_state(B))
        xs, weight = rng.standard_normal((B, T, I)), rng.standard_normal((B, T, cell.output_size))

        @jax.jit
        @functools.partial(jax.value_and_grad, argnums=(0, 1, 2))
        def loss(params, xs, state):
            ys, last = unroll(cell, params, xs, state, lengths=jnp.array([T, T - 1]))
            return (weight * ys).sum() + sum(jnp.sin(leaf).sum() for leaf in last)

        at, step = (params, xs, state), 1e-5
        _, gradient = loss(*at)
        for _ in range(20):
            along = jax.tree.map(lambda leaf: rng.standard_normal(leaf.shape), at)
            moved = [jax.tree.map(lambda a, d, by=by: a + by * d, at, along) for by in (step, -step)]
            slope = (loss(*moved[0])[0] - loss(*moved[1])[0]) / (2 * step)
            products = jax.tree.map(lambda g, d: (np.asarray(g) * d).sum(), gradient, along)
            np.testing.assert_allclose(slope, sum(jax.tree.leaves(products)), rtol=1e-6, atol=1e-6)
