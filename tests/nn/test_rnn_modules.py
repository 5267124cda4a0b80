import functools

import flax
import flax.linen as linen
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from fixtures.parameters import array, drawn_parameters
from flax import nnx

import rnnjax
from rnnjax import nn

CELLS = {
    "basic": rnnjax.BasicRNN(4),
    "projected lstm": rnnjax.LSTM(4, peephole=True, projection_size=3, layer_norm=True),
    "gru": rnnjax.GRU(4),
    "stack": rnnjax.Stack((rnnjax.LSTM(4), rnnjax.GRU(3, reset="before"))),
    "learned state": rnnjax.LearnedState(rnnjax.GRU(4)),
}
XS = array(np.random.default_rng(0).standard_normal((2, 5, 3)))
LENGTHS = jax.device_put(np.array([3, 0]))
RESETS = jax.device_put(np.arange(10).reshape(2, 5) == 2)


def randomised(params):
    """Parameters of the same shapes, all of them random, as zero biases hide what is missing."""
    return drawn_parameters(lambda _: params)


def parameters(cell, size=3):
    return drawn_parameters(lambda key: cell.init(key, size))


def variables_of(module):
    return drawn_parameters(lambda key: module.init(key, XS))


def assert_close(one, other):
    assert jax.tree.structure(one) == jax.tree.structure(other)
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other)):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("cell", CELLS.values(), ids=CELLS)
def test_the_parameters_are_the_cells_own(cell):
    variables = jax.eval_shape(nn.RNN(cell).init, jax.random.key(1), XS)
    assert variables == {"params": {"rnn": jax.eval_shape(lambda: cell.init(jax.random.key(2), 3))}}


@pytest.mark.parametrize("cell", CELLS.values(), ids=CELLS)
def test_a_module_is_unroll(cell):
    params = parameters(cell)
    found = nn.RNN(cell).apply({"params": {"rnn": params}}, XS)
    assert_close(found, rnnjax.unroll(cell, params, XS))


@pytest.mark.parametrize(("reverse", "time_major"), [(True, False), (False, True)])
def test_all_options_are_those_of_unroll(reverse, time_major):
    cell = CELLS["stack"]
    params = parameters(cell)
    state = jax.tree.map(lambda leaf: leaf + 0.5, cell.initial_state(2))
    xs, resets = (XS.swapaxes(0, 1), RESETS.T) if time_major else (XS, RESETS)
    module = nn.RNN(cell, method=rnnjax.Static(), reverse=reverse, time_major=time_major)
    found = module.apply({"params": {"rnn": params}}, xs, state=state, lengths=LENGTHS, resets=resets)
    options = {"reverse": reverse, "time_major": time_major}
    assert_close(found, rnnjax.unroll(cell, params, xs, state, lengths=LENGTHS, resets=resets, **options))
    plain = rnnjax.unroll(cell, params, xs, **options)
    assert not np.allclose(found[0], plain[0])


def test_bidirectional_is_bidirectional():
    forward, backward = CELLS["basic"], CELLS["gru"]
    params = parameters(forward), parameters(backward)
    states = jax.tree.map(lambda leaf: leaf + 0.5, (forward.initial_state(2), backward.initial_state(2)))
    module = nn.Bidirectional(forward, backward)
    variables = {"params": {"forward": params[0], "backward": params[1]}}
    assert jax.tree.structure(variables_of(module)) == jax.tree.structure(variables)
    found = module.apply(variables, XS, state=states, lengths=LENGTHS, resets=RESETS)
    expected = rnnjax.bidirectional(forward, backward, params, XS, states, lengths=LENGTHS, resets=RESETS)
    assert_close(found, expected)
    assert found[0].shape == (2, 5, 8)


def test_bidirectional_of_lists_is_layers_on_top_of_each_other():
    cells = [rnnjax.LSTM(4), rnnjax.GRU(3)]
    module = nn.Bidirectional(cells, cells, dropout=0.5)
    variables = drawn_parameters(lambda key: module.init({"params": key, "dropout": key}, XS))
    own = variables["params"]
    assert set(own) == {"forward_0", "backward_0", "forward_1", "backward_1"}
    params = [(own[f"forward_{n}"], own[f"backward_{n}"]) for n in range(2)]
    found = module.apply(variables, XS, lengths=LENGTHS, resets=RESETS, deterministic=True)
    assert_close(found, rnnjax.bidirectional(cells, cells, params, XS, lengths=LENGTHS, resets=RESETS))
    assert found[0].shape == (2, 5, 6)
    dropped = module.apply(variables, XS, rngs={"dropout": jax.random.key(0)})
    assert not np.allclose(dropped[0], found[0])


def test_the_directions_start_from_different_parameters():
    params = nn.Bidirectional(CELLS["gru"], CELLS["gru"]).init(jax.random.key(1), XS)["params"]
    assert not np.allclose(params["forward"].w_x, params["backward"].w_x)


DROPPING = rnnjax.Dropout(rnnjax.GRU(4), input_rate=0.5, state_rate=0.5, output_rate=0.5)
ONLY_BEHIND = rnnjax.Dropout(rnnjax.GRU(4), output_rate=0.5)  # of which one-hot inputs are looked up
MODULES = {"rnn": nn.RNN(DROPPING), "bidirectional": nn.Bidirectional(DROPPING, DROPPING)}
LAYERS = nn.Bidirectional([rnnjax.GRU(4)] * 2, [rnnjax.GRU(4)] * 2, dropout=0.5)


@pytest.mark.parametrize("module", [*MODULES.values(), LAYERS], ids=[*MODULES, "layers"])
def test_dropout_without_a_key_is_refused_rather_than_left_out(module):
    variables = variables_of(module)
    with pytest.raises(flax.errors.InvalidRngError, match=r"has dropout but no key for it; give rngs=.* deterministic"):
        module.apply(variables, XS)
    module.apply(variables, XS, deterministic=True)


@pytest.mark.parametrize(
    "cell",
    [rnnjax.Dropout(rnnjax.GRU(4)), rnnjax.Stack([rnnjax.GRU(4), rnnjax.LearnedState(rnnjax.Dropout(rnnjax.GRU(4)))])],
)
def test_cells_that_drop_nothing_need_no_key(cell):
    module = nn.RNN(cell)
    module.apply(variables_of(module), XS)


@pytest.mark.parametrize("layer", [nn.RNN(rnnjax.LSTM(3)), nn.Bidirectional(rnnjax.GRU(3), rnnjax.GRU(3))])
def test_a_layer_in_a_sequential_does_not_start_from_the_end_of_the_one_below(layer):
    with pytest.raises(TypeError, match="positional"):
        linen.Sequential([layer, layer.clone()]).init(jax.random.key(0), XS)
    between = linen.Sequential([layer, lambda ys, state: ys, layer.clone()])
    ys = between.init_with_output(jax.random.key(0), XS)[0][0]
    assert ys.shape[:2] == XS.shape[:2]


def test_dropout_deep_in_a_cell_is_found():
    cell = rnnjax.Stack([rnnjax.GRU(4), rnnjax.LearnedState(DROPPING)])
    module = nn.RNN(cell)
    with pytest.raises(flax.errors.InvalidRngError):
        module.apply(variables_of(module), XS)


@pytest.mark.parametrize("module", MODULES.values(), ids=MODULES)
def test_the_dropout_rng_makes_a_module_stochastic(module):
    variables = variables_of(module)

    def outputs(seed=None, **options):
        rngs = None if seed is None else {"dropout": jax.random.key(seed)}
        return module.apply(variables, XS, rngs=rngs, **options)[0]

    assert np.array_equal(outputs(0), outputs(0))
    assert not np.allclose(outputs(0), outputs(1))
    assert (np.asarray(outputs(0)) == 0).mean() > 0.2
    plain = outputs(deterministic=True)
    assert np.array_equal(outputs(0, deterministic=True), plain)
    assert not np.isclose(plain, 0).any()


ENSEMBLE = functools.partial(
    linen.vmap, in_axes=None, axis_size=2, variable_axes={"params": 0}, split_rngs={"params": True}
)


@pytest.mark.parametrize("transform", [linen.remat, linen.jit, ENSEMBLE], ids=["remat", "jit", "vmap"])
@pytest.mark.parametrize("kind", [nn.RNN, nn.Bidirectional, nn.OneHotRNN])
def test_evaluation_by_the_attribute_is_evaluation_through_the_transforms_of_flax(transform, kind):
    arguments = {nn.RNN: (DROPPING,), nn.Bidirectional: (DROPPING, DROPPING), nn.OneHotRNN: (ONLY_BEHIND, 3)}[kind]
    inputs = jnp.array([[0, 2, 1]]) if kind is nn.OneHotRNN else XS
    module = transform(kind)(*arguments, deterministic=True)
    variables = module.init(jax.random.key(1), inputs)
    found = module.apply(variables, inputs, rngs={"dropout": jax.random.key(0)})
    each = variables if transform is not ENSEMBLE else jax.tree.map(lambda leaf: leaf[1], variables)
    got = found if transform is not ENSEMBLE else jax.tree.map(lambda leaf: leaf[1], found)
    assert_close(got, kind(*arguments).apply(each, inputs, deterministic=True))


def test_a_call_decides_on_dropout_before_the_attribute_does():
    module = nn.RNN(DROPPING, deterministic=True)
    variables, rngs = variables_of(module), {"dropout": jax.random.key(0)}
    dropped = module.apply(variables, XS, deterministic=False, rngs=rngs)
    assert_close(dropped, nn.RNN(DROPPING).apply(variables, XS, rngs=rngs))
    assert not np.allclose(dropped[0], module.apply(variables, XS, rngs=rngs)[0])


@pytest.mark.parametrize("module", MODULES.values(), ids=MODULES)
def test_whether_to_drop_is_not_decided_by_a_traced_value(module):
    evaluated = jax.jit(lambda variables, flag: module.apply(variables, XS, deterministic=flag))
    with pytest.raises(TypeError, match=r"deterministic must be known when .* is traced, got a traced value; make the"):
        evaluated(variables_of(module), True)


def test_layers_given_as_lists_or_tuples_are_the_same_module_and_can_be_hashed():
    cells = [rnnjax.GRU(3), rnnjax.LSTM(2)]
    of_lists, of_tuples = nn.Bidirectional(cells, cells), nn.Bidirectional(tuple(cells), tuple(cells))
    assert of_lists == of_tuples
    assert hash(of_lists) == hash(of_tuples)
    variables = variables_of(of_lists)
    got = jax.jit(lambda module, variables: module.apply(variables, XS), static_argnums=0)(of_lists, variables)
    assert_close(got, of_tuples.apply(variables, XS))


@pytest.mark.parametrize("module", MODULES.values(), ids=MODULES)
def test_inputs_may_be_nested_lists_and_what_is_no_sequence_is_refused_in_one_sentence(module):
    variables = variables_of(module)
    assert_close(
        module.apply(variables, np.asarray(XS).tolist(), deterministic=True),
        module.apply(variables, XS, deterministic=True),
    )
    with pytest.raises(ValueError, match=r"xs must have shape \[\*batch, T, I\], two axes at least, got \[\]"):
        module.apply(variables, jnp.ones(()), deterministic=True)


def test_evaluation_is_unroll_without_a_key():
    module = MODULES["rnn"]
    variables = variables_of(module)
    found = module.apply(variables, XS, rngs={"dropout": jax.random.key(0)}, deterministic=True)
    assert_close(found, rnnjax.unroll(DROPPING, variables["params"]["rnn"], XS))


def test_layers_in_one_model_draw_their_own_parameters_and_masks():
    class Model(linen.Module):
        @linen.compact
        def __call__(self, xs, deterministic=False):
            cell = rnnjax.Dropout(rnnjax.GRU(3), input_rate=0.5)
            return [nn.RNN(cell)(xs, deterministic=deterministic)[0] for _ in range(2)]

    variables = Model().init(jax.random.key(1), XS)
    one, other = (variables["params"][f"RNN_{i}"]["rnn"] for i in range(2))
    assert not np.allclose(one.w_x, other.w_x)
    same = {"params": {"RNN_0": {"rnn": one}, "RNN_1": {"rnn": one}}}
    assert np.array_equal(*Model().apply(same, XS, deterministic=True))
    assert not np.allclose(*Model().apply(same, XS, rngs={"dropout": jax.random.key(2)}))


def test_gradients_reach_every_parameter_under_jit():
    module = nn.RNN(CELLS["projected lstm"])
    variables = {"params": {"rnn": parameters(CELLS["projected lstm"])}}
    gradient = jax.jit(jax.grad(lambda v: (module.apply(v, XS)[0] ** 2).sum()))(variables)
    assert all(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(gradient))


@pytest.mark.parametrize("cell", CELLS.values(), ids=CELLS)
def test_parameters_survive_serialisation(cell):
    module = nn.RNN(cell)
    variables = variables_of(module)
    content = flax.serialization.to_bytes(variables)
    found = flax.serialization.from_bytes(jax.tree.map(np.zeros_like, variables), content)
    assert jax.tree.structure(found) == jax.tree.structure(variables)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(variables)):
        assert np.array_equal(a, b)


def test_a_module_can_be_counted_and_tabled():
    table = nn.RNN(rnnjax.LSTM(4)).tabulate(jax.random.key(0), XS)
    assert "128" in table  # (3 + 4 + 1) * 4 * 4


# NNX, through Flax's bridge


def bridged(module, **streams):
    return nnx.bridge.lazy_init(nnx.bridge.ToNNX(module, rngs=nnx.Rngs(0, **streams)), XS)


@pytest.mark.parametrize("cell", CELLS.values(), ids=CELLS)
def test_from_nnx_a_module_is_unroll(cell):
    model = bridged(nn.RNN(cell))
    params = randomised(model.rnn.get_value())
    model.rnn.set_value(params)
    assert_close(model(XS, lengths=LENGTHS), rnnjax.unroll(cell, params, XS, lengths=LENGTHS))


def test_from_nnx_gradients_are_those_of_unroll():
    cell = CELLS["stack"]
    model = bridged(nn.RNN(cell))
    params = model.rnn.get_value()
    found = nnx.jit(nnx.grad(lambda model: (model(XS)[0] ** 2).sum()))(model)
    expected = jax.jit(jax.grad(lambda params: (rnnjax.unroll(cell, params, XS)[0] ** 2).sum()))(params)
    assert_close(found["rnn"].get_value(), expected)


@pytest.mark.promotes_types  # in optax
def test_from_nnx_a_module_is_split_merged_and_trained():
    model, optimizer = bridged(nn.RNN(rnnjax.GRU(4))), optax.adam(0.05)

    def loss(model):
        return ((model(XS)[0] - 0.5) ** 2).mean()

    @nnx.jit
    def step(model, state):
        params = nnx.state(model, nnx.Param)
        updates, state = optimizer.update(nnx.grad(loss)(model), state, params)
        nnx.update(model, optax.apply_updates(params, updates))
        return state

    before, state = loss(model), optimizer.init(nnx.state(model, nnx.Param))
    for _ in range(10):
        state = step(model, state)
    assert loss(model) < 0.5 * before
    copy = nnx.merge(*nnx.split(model))
    assert loss(copy) == loss(model)
    assert isinstance(copy.rnn.get_value(), rnnjax.GRUParams)


def test_from_nnx_dropout_follows_the_stream_and_deterministic_turns_it_off():
    model = bridged(MODULES["rnn"], dropout=1)
    plain = model(XS, deterministic=True)[0]
    assert np.array_equal(model(XS, deterministic=True)[0], plain)
    one, other = model(XS)[0], model(XS)[0]
    assert not np.allclose(one, other)
    assert not np.allclose(one, plain)
