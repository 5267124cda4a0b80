"""The sLSTM follows its equations, and its exponential gates neither overflow nor lose what they hold."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy_cells import randomised, slstm

from rnnjax import SLSTM, Fused, Heads, Scan, SLSTMState, Static, unroll

B, T, I, H = 3, 7, 4, 5


def draw(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape)


@pytest.mark.parametrize("forget", ["sigmoid", "exp"])
def test_its_steps_are_those_of_the_equations(forget):
    with jax.enable_x64(True):
        cell, xs = SLSTM(H, forget=forget), draw(1, B, T, I)
        params = randomised(cell, I)
        h, c, n = np.zeros((3, B, H))
        ys, state = jax.jit(lambda *given: unroll(cell, *given))(jax.device_put(params), xs)
        for t in range(T):
            h, c, n = slstm(params, h, c, n, xs[:, t], forget)
            np.testing.assert_allclose(ys[:, t], h, rtol=1e-11)
        for found, wanted in ((state.c, c), (state.n, n)):
            np.testing.assert_allclose(found * np.exp(state.m), wanted, rtol=1e-11)


@pytest.mark.parametrize("size", [1e4, -1e4])
def test_gates_of_any_size_give_finite_numbers_and_gradients(size):
    cell = SLSTM(H, bias_init=lambda key, shape, dtype: jnp.full(shape, size, dtype), forget="exp")
    params, xs = cell.init(jax.random.key(0), I), jnp.asarray(draw(1, B, T, I), jnp.float32)
    value, gradient = jax.jit(jax.value_and_grad(lambda params: unroll(cell, params, xs)[0].sum()))(params)
    assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves((value, gradient)))


def test_a_first_step_keeps_nothing_however_small_its_input_gate():
    cell = SLSTM(1)
    params = jax.tree.map(jnp.zeros_like, cell.init(jax.random.key(0), 1))
    params = params._replace(b=params.b.at[:, 0].set(jnp.array([-200.0, 0.0, 0.3, 0.0])))
    ys, state = unroll(cell, params, jnp.ones((1, 1, 1)))
    np.testing.assert_allclose(ys[0, 0], np.tanh(0.3) / 2, rtol=1e-6)
    np.testing.assert_array_equal(state.m, [[-200]])


def test_a_state_is_the_same_whatever_it_is_divided_by():
    cell, xs = SLSTM(H), draw(1, B, T, I).astype(np.float32)
    params = jax.tree.map(jnp.float32, randomised(cell, I))
    state = SLSTMState(*(jnp.asarray(draw(seed, B, H), jnp.float32) for seed in range(4)))
    state = state._replace(n=jnp.abs(state.n) + 1)
    halved = state._replace(c=state.c / 2, n=state.n / 2, m=state.m + jnp.log(2))
    run = jax.jit(lambda state: unroll(cell, params, xs, state)[0])
    np.testing.assert_allclose(run(halved), run(state), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("method", [Fused(), Static()], ids=["fused", "static"])
def test_it_is_unrolled_as_every_gated_cell(method):
    cell, xs = Heads(SLSTM(6), 2), draw(1, B, T, I).astype(np.float32)
    params = jax.tree.map(jnp.float32, randomised(cell, I))
    options = {"lengths": np.array([T, 0, 4]), "resets": np.arange(T) == np.array([[0], [3], [2]])}

    def loss(method, params):
        ys, state = unroll(cell, params, xs, method=method, **options)
        return jnp.square(ys).sum() + jnp.sin(state.h).sum()

    found, wanted = (jax.jit(jax.value_and_grad(functools.partial(loss, each)))(params) for each in (method, Scan()))
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5), found, wanted)


def test_each_head_forgets_from_long_to_short():
    params = Heads(SLSTM(8), 2).init(jax.random.key(0), I)
    wanted = np.tile(5 - 12 * (np.arange(4) / 3) ** 0.3, 2)
    np.testing.assert_allclose(params.b[1], wanted, rtol=1e-5, atol=1e-5)
    assert not params.w_h.any()
    assert not params.b[jnp.array([0, 2, 3])].any()


@pytest.mark.parametrize(
    ("options", "message"),
    [({"forget": "relu"}, 'forget must be "sigmoid" or "exp"'), ({"forget_exponent": 0}, "must be positive, got 0")],
)
def test_what_it_cannot_be_is_said(options, message):
    with pytest.raises(ValueError, match=message):
        SLSTM(H, **options)
