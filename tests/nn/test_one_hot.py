import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from fixtures.parameters import drawn_parameters
from fixtures.thorough import main_of

import rnnjax
from rnnjax import nn
from rnnjax.cells.projected import Projected

SIZE = 5
CELLS = {
    "basic": rnnjax.BasicRNN(4),
    "lstm": rnnjax.LSTM(4, peephole=True, projection_size=3),
    "normalised lstm": rnnjax.LSTM(4, layer_norm=True),
    "stack": rnnjax.Stack((rnnjax.LSTM(4), rnnjax.GRU(3, reset="before"))),
    "dropout": rnnjax.Dropout(rnnjax.BasicRNN(4), state_rate=0.3, output_rate=0.3),
    "project": rnnjax.Project(rnnjax.LearnedState(rnnjax.GRU(4)), 2),
    "zoneout": rnnjax.Stack((rnnjax.Zoneout(rnnjax.WeightDrop(rnnjax.LSTM(4), 0.3), 0.3), rnnjax.BasicRNN(3))),
    "heads": rnnjax.WeightDrop(rnnjax.Heads(rnnjax.LSTM(4), 2), 0.3),
}
IDS, LENGTHS = jax.device_put((np.array([[0, 4, 2, 2], [3, -1, 1, 7]]), np.array([4, 3])))


@dataclasses.dataclass(frozen=True)
class OwnInputs(rnnjax.BasicRNN):
    def inputs(self, params, xs, *, key=None):
        return 2 * super().inputs(params, xs)


def parameters(cell, size=SIZE):
    return drawn_parameters(lambda key: cell.init(key, size))


def assert_close(one, other):
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


# What the others have is in one of these.
MAIN = ("lstm", "stack", "dropout", "project", "heads")


@pytest.mark.parametrize("name", main_of(CELLS, MAIN))
def test_the_lookup_is_the_one_hot_product_in_value_and_gradient(name):
    cell = CELLS[name]
    options = {"lengths": LENGTHS, "key": jax.random.key(2)}

    def value(run, params):
        leaves = jax.tree.leaves(run(params))
        return sum((leaf * jnp.cos(jnp.arange(leaf.size)).reshape(leaf.shape)).sum() for leaf in leaves)

    product = lambda p: rnnjax.unroll(cell, p, jax.nn.one_hot(IDS, SIZE), **options)  # noqa: E731
    lookup = lambda p: nn.unroll_one_hot(cell, p, IDS, **options)  # noqa: E731
    both = jax.jit(lambda p: [jax.value_and_grad(functools.partial(value, run))(p) for run in (lookup, product)])
    assert_close(*both(parameters(cell)))


def test_parameters_may_be_on_the_host_and_ids_traced():
    cell = rnnjax.GRU(4)
    params = parameters(cell)
    found = jax.jit(lambda ids: nn.unroll_one_hot(cell, jax.device_get(params), ids))(IDS)
    assert_close(found, nn.unroll_one_hot(cell, params, IDS))


@pytest.mark.parametrize(("dtype", "size"), [("uint8", 256), ("int8", 200)])
def test_ids_may_be_of_a_type_that_cannot_hold_their_number(dtype, size):
    cell = rnnjax.BasicRNN(2)
    params = parameters(cell, size)
    assert_close(nn.unroll_one_hot(cell, params, IDS.astype(dtype) % 8), nn.unroll_one_hot(cell, params, IDS % 8))


def test_no_product_with_the_input_weight_is_left():
    cell = rnnjax.LSTM(4)
    params = jax.eval_shape(lambda: cell.init(jax.random.key(0), 1000))
    program = jax.jit(lambda p, ids: nn.unroll_one_hot(cell, p, ids)).lower(params, IDS).as_text()
    products = [line for line in program.splitlines() if "dot_general" in line]
    assert products
    assert not any("1000" in line for line in products)


def test_the_module_has_the_parameters_of_the_layer_over_one_hot_inputs():
    cell = CELLS["stack"]
    variables = nn.OneHotRNN(cell, SIZE).init(jax.random.key(0), IDS)
    over = nn.RNN(cell)
    assert_close(variables, over.init(jax.random.key(0), jax.nn.one_hot(IDS, SIZE)))
    assert_close(nn.OneHotRNN(cell, SIZE).apply(variables, IDS), over.apply(variables, jax.nn.one_hot(IDS, SIZE)))


def test_time_may_be_the_first_axis():
    cell = CELLS["lstm"]
    params = parameters(cell)
    ys, state = nn.unroll_one_hot(cell, params, IDS)
    turned, same = nn.unroll_one_hot(cell, params, IDS.T, time_major=True)
    assert_close((turned.swapaxes(0, 1), same), (ys, state))


@pytest.mark.promotes_types
@pytest.mark.parametrize("cell", [rnnjax.LSTM(4), rnnjax.LSTM(4, dtype=jnp.bfloat16)], ids=["inputs", "cell"])
def test_in_bfloat16_the_lookup_rounds_as_the_product_does(cell):
    params = parameters(cell)
    dtype = cell.dtype or jnp.bfloat16
    found, _ = nn.unroll_one_hot(cell, params, IDS, dtype=dtype)
    wanted, _ = rnnjax.unroll(cell, params, jax.nn.one_hot(IDS, SIZE, dtype=dtype))
    assert found.dtype == wanted.dtype == jnp.bfloat16
    np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize(
    ("cell", "error", "message"),
    [
        (rnnjax.Dropout(rnnjax.LSTM(4), input_rate=0.5), TypeError, "looked up for a gated cell, .*input_rate=0.5"),
        (rnnjax.Residual(rnnjax.LSTM(5)), TypeError, "looked up for a gated cell, .* which is not so for Residual"),
        (OwnInputs(4), TypeError, "OwnInputs has its own `inputs`; override `gate_inputs`"),
    ],
    ids=["input dropout", "not gated", "own inputs"],
)
def test_a_cell_whose_inputs_cannot_be_looked_up_is_refused(cell, error, message):
    params = parameters(cell)
    with pytest.raises(error, match=message):
        nn.unroll_one_hot(cell, params, IDS)


@pytest.mark.parametrize(
    ("cell", "params", "message"),
    [
        (rnnjax.LSTM(4), None, "params must be those of LSTM"),
        (CELLS["stack"], parameters(rnnjax.LSTM(4)), "params must be those of Stack"),
        (rnnjax.LSTM(4), parameters(rnnjax.LSTM(3)), "params must have the shapes that LSTM"),
        (
            rnnjax.Project(rnnjax.LSTM(4), 2),
            parameters(rnnjax.Project(rnnjax.LSTM(4), 3)),
            r"has for 5 features, ProjectParams\(.*w=\[4, 2\].*, got .*w=\[4, 3\]",
        ),
    ],
    ids=["none", "another cell", "another size", "another projection"],
)
def test_parameters_that_are_not_the_cells_are_refused(cell, params, message):
    with pytest.raises((TypeError, ValueError), match=message):
        nn.unroll_one_hot(cell, params, IDS)


def test_ids_must_be_whole_numbers():
    with pytest.raises(TypeError, match="ids must be whole numbers, got float32"):
        nn.unroll_one_hot(rnnjax.LSTM(4), None, jnp.ones((2, 3)))


def test_projected_takes_one_step_as_the_cell_does():
    cell = rnnjax.GRU(4)
    params, state = parameters(cell), cell.initial_state(2)
    row = np.asarray(params.w_x)[[1, 3]].reshape(2, -1)
    one_hot = np.eye(SIZE, dtype=np.float32)[[1, 3]]
    assert_close(*jax.jit(lambda *given: (Projected(cell)(*given, row), cell(*given, one_hot)))(params, state))


@pytest.mark.parametrize("shape", [(2, 0), (0, 3), (0, 0), (0,)])
def test_no_steps_and_no_sequences_give_empty_outputs_and_the_state_that_was_given(shape):
    cell = rnnjax.Dropout(rnnjax.GRU(4))
    params, ids = parameters(cell), jnp.zeros(shape, jnp.int32)
    state = jax.tree.map(lambda leaf: leaf + 0.5, cell.initial_state(shape[:-1]))
    ys, last = nn.unroll_one_hot(cell, params, ids, state)
    assert ys.shape == (*shape, 4)
    np.testing.assert_array_equal(last.h, state.h)
