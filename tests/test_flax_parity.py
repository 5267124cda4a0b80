"""Flax's cells, Linen's and NNX's, equal ours in value and gradient with every parameter random."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from fixtures.parameters import array
from fixtures.thorough import main_of
from flax import nnx

from rnnjax import GRU, LSTM, BasicRNN, Project, Stack, unroll
from rnnjax.interop import from_flax

B, T, I, H = 3, 4, 4, 5

LINEN = {
    "SimpleCell": (nn.SimpleCell(H), BasicRNN(H)),
    "SimpleCell-relu": (nn.SimpleCell(H, activation_fn=nn.relu), BasicRNN(H, activation="relu")),
    "LSTMCell": (nn.LSTMCell(H), LSTM(H)),
    "LSTMCell-elu-tanh": (
        nn.LSTMCell(H, activation_fn=nn.elu, gate_fn=nn.tanh),
        LSTM(H, activation="elu", gate_activation="tanh"),
    ),
    "OptimizedLSTMCell": (nn.OptimizedLSTMCell(H), LSTM(H)),
    "GRUCell": (nn.GRUCell(H), GRU(H)),
    "GRUCell-elu-hard_sigmoid": (
        nn.GRUCell(H, activation_fn=nn.elu, gate_fn=nn.hard_sigmoid),
        GRU(H, activation="elu", gate_activation=nn.hard_sigmoid),
    ),
}
NNX = {
    "SimpleCell": (nnx.SimpleCell, BasicRNN(H)),
    "LSTMCell": (nnx.LSTMCell, LSTM(H)),
    "OptimizedLSTMCell": (nnx.OptimizedLSTMCell, LSTM(H)),
    "GRUCell": (nnx.GRUCell, GRU(H)),
}


def randomised(params, seed=0):
    """Returns parameters of the same shapes, all of them random: biases that start at zero would hide mistakes."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: array(rng.normal(size=leaf.shape) / 2, leaf.dtype), params)


@pytest.fixture
def x():
    return array(np.random.default_rng(1).normal(size=(B, T, I)))


def assert_same(theirs, ours, params, x):
    """Asserts that two functions of Flax's parameters and the inputs have the same values and gradients."""

    def loss(function, params, x):
        values = function(params, x)
        return sum((value**2 * jnp.cos(jnp.arange(value.size)).reshape(value.shape)).sum() for value in values), values

    results = jax.jit(lambda *at: [jax.grad(partial(loss, f), (0, 1), has_aux=True)(*at) for f in (theirs, ours)])(
        params, x
    )
    expected, got = (jax.tree.leaves_with_path(result) for result in results)
    assert [path for path, _ in expected] == [path for path, _ in got]
    for (path, a), (_, b) in zip(expected, got):
        where = jax.tree_util.keystr(path)
        np.testing.assert_allclose(b, a, rtol=1e-5, atol=2e-6 * np.abs(a).max(), err_msg=where)


def carry_of(state):
    """Returns a state as Flax has it: an LSTM's is (c, h), the others' is h."""
    return (state.c, state.h) if hasattr(state, "c") else (state.h,)


def linen_rnn(cell):
    rnn = nn.RNN(cell, return_carry=True)

    def apply(params, x, **options):
        carry, ys = rnn.apply({"params": params}, x, **options)
        return (ys, *jax.tree.leaves(carry))

    params = jax.eval_shape(rnn.init, jax.random.key(0), jnp.zeros((B, T, I)))["params"]
    return apply, randomised(params)


def our_rnn(cell, **options):
    def apply(variables, x):
        ys, state = unroll(cell, from_flax(cell, variables), x, **options)
        return (ys, *carry_of(state))

    return apply


# What the others compute is what these do, by other functions or in another layout: interop's tests run them forward.
MAIN = ("SimpleCell", "LSTMCell-elu-tanh", "GRUCell-elu-hard_sigmoid")
LINEN_CASES = main_of(LINEN, MAIN)


@pytest.mark.parametrize("name", LINEN_CASES)
def test_a_linen_cell_computes_the_same(name, x):
    flax_cell, cell = LINEN[name]
    theirs, params = linen_rnn(flax_cell)
    assert_same(theirs, our_rnn(cell), params, x)


@pytest.mark.parametrize("name", main_of(["SimpleCell", "LSTMCell", "GRUCell"], ("LSTMCell",)))
def test_a_linen_cell_computes_the_same_on_the_valid_steps_and_backwards(name, x):
    flax_cell, cell = LINEN[name]
    apply, params = linen_rnn(flax_cell)
    lengths = jnp.array([4, 1, 3])
    valid = (jnp.arange(T) < lengths[:, None])[..., None]

    def theirs(params, x):
        ys, *carry = apply(params, x, seq_lengths=lengths, reverse=True, keep_order=True)
        return (jnp.where(valid, ys, 0), *carry)

    assert_same(theirs, our_rnn(cell, lengths=lengths, reverse=True), params, x)


def nnx_module(module):
    """Returns a function of a module's parameters, as a plain dict, and random ones."""
    graph, state, rest = nnx.split(module, nnx.Param, ...)

    def apply(params, x):
        nnx.replace_by_pure_dict(state, params)
        return nnx.merge(graph, state, rest, copy=True)(x)

    return apply, randomised(nnx.to_pure_dict(state))


@pytest.mark.parametrize("name", main_of(NNX, ("OptimizedLSTMCell", "GRUCell")))
def test_an_nnx_cell_computes_the_same(name, x):
    kind, cell = NNX[name]
    rngs = nnx.Rngs(0)
    apply, params = nnx_module(nnx.RNN(kind(I, H, rngs=rngs), return_carry=True, rngs=rngs))

    def theirs(params, x):
        carry, ys = apply(params, x)
        return (ys, *jax.tree.leaves(carry))

    assert_same(theirs, our_rnn(cell), params, x)


class Model(nn.Module):
    """Two layers and a dense layer."""

    @nn.compact
    def __call__(self, x):
        for _ in range(2):
            x = nn.RNN(nn.SimpleCell(H))(x)
        return nn.Dense(2)(x)


SEQUENTIAL = Project(Stack([LSTM(H), GRU(H)]), 2)
MODULES = {
    "compact": (Model(), Project(Stack([BasicRNN(H)] * 2), 2)),
    "Sequential": (nn.Sequential([nn.RNN(nn.LSTMCell(H)), nn.RNN(nn.GRUCell(H)), nn.Dense(2)]), SEQUENTIAL),
}


@pytest.mark.parametrize("name", MODULES)
def test_linen_layers_and_a_dense_layer_are_a_projected_stack(name, x):
    module, cell = MODULES[name]
    variables = {"params": randomised(jax.eval_shape(module.init, jax.random.key(0), x)["params"])}

    def ours(variables, x):
        return (unroll(cell, from_flax(cell, variables), x)[0],)

    assert_same(lambda variables, x: (module.apply(variables, x),), ours, variables, x)


def test_nnx_layers_and_a_dense_layer_are_a_projected_stack(x):
    rngs = nnx.Rngs(0)
    first, second = nnx.LSTMCell(I, H, rngs=rngs), nnx.GRUCell(H, H, rngs=rngs)
    layers = nnx.RNN(first, rngs=rngs), nnx.RNN(second, rngs=rngs), nnx.Linear(H, 2, rngs=rngs)
    apply, params = nnx_module(nnx.Sequential(*layers))

    def ours(params, x):
        return (unroll(SEQUENTIAL, from_flax(SEQUENTIAL, params), x)[0],)

    assert_same(lambda params, x: (apply(params, x),), ours, params, x)


def test_the_whole_state_of_an_nnx_module_is_accepted(x):
    rngs = nnx.Rngs(0)
    rnn = nnx.RNN(nnx.LSTMCell(I, H, rngs=rngs), rngs=rngs)
    state = nnx.state(rnn)
    assert "rngs" in state
    for variables in (state, nnx.to_pure_dict(state)):
        ys, _ = unroll(LSTM(H), from_flax(LSTM(H), variables), x)
        np.testing.assert_allclose(ys, rnn(x), rtol=1e-5, atol=1e-6)


def test_each_direction_of_a_bidirectional_module_is_chosen_by_its_scope(x):
    module = nn.Bidirectional(nn.RNN(nn.GRUCell(H)), nn.RNN(nn.GRUCell(H)))
    variables = randomised(jax.eval_shape(module.init, jax.random.key(0), x))
    ahead, back = (from_flax(GRU(H), variables, scope=f"{way}_rnn") for way in ("forward", "backward"))
    ys = [unroll(GRU(H), ahead, x)[0], unroll(GRU(H), back, x, reverse=True)[0]]
    np.testing.assert_allclose(jnp.concatenate(ys, -1), module.apply(variables, x), rtol=1e-5, atol=1e-6)
