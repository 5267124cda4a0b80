"""The block around a cell against its equations in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from fixtures.thorough import once_more
from numpy_cells import randomised

from rnnjax import GRU, LRU, GatedResidual, MinGRU, Scan, Stack, Static, unroll

B, T, H = 2, 5, 4


def drawn(cell, inputs):
    params = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), randomised(cell, inputs))
    return params, jax.random.normal(jax.random.key(4), (B, T, inputs))


def gelu(x):
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


@pytest.mark.parametrize("inputs", [H, 3], ids=["equal sizes", "other inputs"])
def test_a_block_follows_its_equations(inputs):
    cell = GatedResidual(GRU(H))
    params, xs = drawn(cell, inputs)
    assert (params.w_x is None) == (inputs == H)
    entered = np.asarray(xs) if params.w_x is None else np.asarray(xs) @ np.asarray(params.w_x[:, 0])
    centred = entered - entered.mean(-1, keepdims=True)
    normalised = centred / np.sqrt(np.square(centred).mean(-1, keepdims=True) + 1e-6)
    ys, _ = unroll(cell.cell, params.cell, jnp.asarray(normalised * params.scale + params.shift))
    content, gate = np.moveaxis(np.einsum("btk,kgo->btgo", gelu(np.asarray(ys)), params.w) + params.b, 2, 0)
    expected = entered + content / (1 + np.exp(-gate))
    np.testing.assert_allclose(unroll(cell, params, xs)[0], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("inner", [LRU(H), once_more(MinGRU(H))], ids=["lru", "min_gru"])
def test_a_stack_of_blocks_is_the_same_step_by_step_and_over_time(inner):
    cell = Stack([GatedResidual(inner), GatedResidual(inner)])
    params, xs = drawn(cell, 3)
    ys, state = unroll(cell, params, xs, method=Scan())
    for found, expected in zip(unroll(cell, params, xs, method=Static()), (ys, state)):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), found, expected)
    before, outputs = cell.initial_state(B), []
    for t in range(T):
        before, y = cell(params, before, xs[:, t])
        outputs.append(y)
    np.testing.assert_allclose(jnp.stack(outputs, 1), ys, rtol=1e-4, atol=1e-5)
