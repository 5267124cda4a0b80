"""NNX modules are `unroll` and `bidirectional`, and train by NNX's own transformations."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from fixtures.parameters import array
from flax import nnx
from flax.errors import InvalidRngError

import rnnjax
import rnnjax.nn.nnx as modules

CELLS = {
    "basic": rnnjax.BasicRNN(4),
    "lstm": rnnjax.LSTM(4, peephole=True, projection_size=3, layer_norm=True),
    "stack": rnnjax.Stack((rnnjax.LSTM(4), rnnjax.LearnedState(rnnjax.GRU(3)))),
}
XS = array(np.random.default_rng(0).standard_normal((2, 5, 3)))
OPTIONS = jax.device_put({"lengths": np.array([3, 0]), "resets": np.arange(10).reshape(2, 5) == 2})
DROPPING = rnnjax.Dropout(rnnjax.GRU(4), input_rate=0.5, output_rate=0.5)


def arrays(variables):
    return jax.tree.map(lambda each: each[...], variables, is_leaf=lambda each: isinstance(each, nnx.Variable))


def close(found, expected):
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected)):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("cell", CELLS.values(), ids=CELLS)
def test_a_module_is_unroll_with_the_cells_own_parameters(cell):
    module = modules.RNN(cell, 3, reverse=True, rngs=nnx.Rngs(0))
    params, own = arrays(module.params), jax.eval_shape(lambda: cell.init(jax.random.key(1), 3))
    assert jax.tree.map(jnp.shape, params) == jax.tree.map(jnp.shape, own)
    state = jax.tree.map(lambda leaf: leaf + 0.5, cell.initial_state(2))
    close(module(XS, state=state, **OPTIONS), rnnjax.unroll(cell, params, XS, state, reverse=True, **OPTIONS))


def test_a_layer_in_a_sequential_does_not_start_from_the_end_of_the_one_below():
    below, above = (modules.RNN(rnnjax.LSTM(3), 3, rngs=nnx.Rngs(seed)) for seed in range(2))
    with pytest.raises(TypeError, match="positional"):
        nnx.Sequential(below, above)(XS)
    ys, _ = nnx.Sequential(below, lambda ys, state: ys, above)(XS)
    close(ys, above(below(XS)[0])[0])


def test_bidirectional_layers_are_bidirectional():
    ahead, back = [rnnjax.LSTM(4), rnnjax.GRU(3)], [rnnjax.BasicRNN(2), rnnjax.GRU(3)]
    module = modules.Bidirectional(ahead, back, 3, rngs=nnx.Rngs(0))
    params = arrays(module.params)
    close(module(XS, **OPTIONS), rnnjax.bidirectional(ahead, back, params, XS, **OPTIONS))
    single = modules.Bidirectional(ahead[0], back[0], 3, rngs=nnx.Rngs(0))
    close(single(XS), rnnjax.bidirectional(ahead[0], back[0], arrays(single.params), XS))


class Classifier(nnx.Module):
    def __init__(self, rngs):
        self.rnn = modules.RNN(rnnjax.Stack((DROPPING, rnnjax.LSTM(4))), 3, rngs=rngs)
        self.both = modules.Bidirectional(rnnjax.GRU(2), rnnjax.GRU(2), 4, rngs=rngs)
        self.dense = nnx.Linear(4, 2, rngs=rngs)

    def __call__(self, xs):
        return self.dense(self.both(self.rnn(xs)[0])[0].mean(1))


@pytest.mark.promotes_types
def test_a_model_learns_by_nnx_grad_jit_and_optimizer():
    model = Classifier(nnx.Rngs(0))
    optimizer = nnx.Optimizer(model, optax.adam(0.05), wrt=nnx.Param)
    targets = jnp.array([0, 1])
    before = jax.tree.map(jnp.array, nnx.state(model, nnx.Param))

    def loss(model):
        return optax.softmax_cross_entropy_with_integer_labels(model(XS), targets).mean()

    @nnx.jit
    def update(model, optimizer):
        value, gradients = nnx.value_and_grad(loss)(model)
        optimizer.update(model, gradients)
        return value

    for _ in range(100):
        update(model, optimizer)
    model.eval()
    assert loss(model) < 0.2
    after = nnx.state(model, nnx.Param)
    moved = jax.tree.map(lambda a, b: bool((a != b).any()), before, after)
    assert all(jax.tree.leaves(moved))


def test_dropout_is_drawn_afresh_at_every_call_and_not_in_evaluation():
    module = modules.RNN(DROPPING, 3, rngs=nnx.Rngs(params=0, dropout=1))
    assert not np.allclose(module(XS)[0], module(XS)[0])
    module.eval()
    close(module(XS), rnnjax.unroll(DROPPING, arrays(module.params), XS))
    module.train()
    given = [module(XS, rngs=nnx.Rngs(dropout=3))[0] for _ in range(2)]
    np.testing.assert_array_equal(*given)
    close(module(XS, deterministic=True), rnnjax.unroll(DROPPING, arrays(module.params), XS))


def test_dropout_without_a_stream_is_refused_rather_than_left_out():
    layers = modules.Bidirectional([rnnjax.GRU(4)] * 2, [rnnjax.GRU(4)] * 2, 3, dropout=0.5, rngs=nnx.Rngs(params=0))
    for module in (modules.RNN(DROPPING, 3, rngs=nnx.Rngs(params=0)), layers):
        with pytest.raises(InvalidRngError, match=r"has dropout but no stream for it; make it with rngs=.*eval\(\)"):
            module(XS)
        module(XS, deterministic=True)


def test_cells_that_drop_nothing_leave_the_module_without_a_stream():
    module = modules.RNN(CELLS["lstm"], 3, rngs=nnx.Rngs(0))
    assert not jax.tree.leaves(nnx.state(module, nnx.RngState))


def test_a_number_of_features_is_whole_or_refused():
    for make in (
        lambda size: modules.RNN(rnnjax.GRU(4), size, rngs=nnx.Rngs(0)),
        lambda size: modules.Bidirectional(rnnjax.GRU(4), rnnjax.GRU(4), size, rngs=nnx.Rngs(0)),
    ):
        assert make(np.int64(3))(XS)[0].shape[:2] == XS.shape[:2]
        with pytest.raises(TypeError, match=r"input_size must be a whole number, got 3\.7"):
            make(3.7)
