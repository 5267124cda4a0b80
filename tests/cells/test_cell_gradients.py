import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads
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


@pytest.mark.parametrize("cell", CELLS.values(), ids=CELLS)
def test_gradients_are_those_of_finite_differences(cell):
    with jax.enable_x64(True):
        rng = np.random.default_rng(5)
        draw = lambda leaf: jnp.asarray(rng.standard_normal(leaf.shape))  # noqa: E731
        params, state = randomised(cell, I), jax.tree.map(draw, cell.initial_state(B))
        xs, weight = rng.standard_normal((B, T, I)), rng.standard_normal((B, T, cell.output_size))

        @jax.jit
        def loss(params, xs, state):
            ys, last = unroll(cell, params, xs, state, lengths=jnp.array([T, T - 1]))
            return (weight * ys).sum() + sum(jnp.sin(leaf).sum() for leaf in last)

        check_grads(loss, (params, xs, state), order=1, modes=["rev"], atol=1e-6, rtol=1e-6)
