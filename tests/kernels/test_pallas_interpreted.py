"""The pallas kernels, interpreted on a CPU, give the values and gradients of `Scan`."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cells_under_test import H, I, UpdateGateRNN, close, inputs, parameters, some_state
from fixtures.thorough import once_more
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P
from test_pallas_lowering import EveryInstruction

from rnnjax import GRU, LSTM, SLSTM, BasicRNN, GatedCell, Heads, Pallas, Scan, unroll

B, T = 3, 3
LENGTHS = np.array([3, 0, 2])
RESETS = np.array([[0, 1, 0], [1, 1, 1], [0, 1, 1]], bool)
ALL = {"lengths": LENGTHS, "resets": RESETS, "reverse": True}
PALLAS = Pallas(interpret=True)


@dataclasses.dataclass(frozen=True)
class Resonator(GatedCell):
    """A user's own cell, of which `gates` reads a parameter for all units and one for each, and `z` has two arrays."""

    gate_count = 2

    def init(self, key, input_size):
        drawn = super().init(key, input_size)
        return {"w_x": drawn.w_x, "w_h": drawn.w_h, "b": drawn.b, "tempo": jnp.ones(()), "damp": jnp.ones((3, H))}

    def recurrent_weight(self, params):
        return params["w_h"]

    def initial_state(self, batch_size, dtype=jnp.float32):
        zeros = self.zeros(batch_size, self.hidden_size, dtype)
        return Oscillation(zeros, zeros)

    def inputs(self, params, xs, *, key=None):
        return {"drive": self.project(params["w_x"], xs) + params["b"], "wind": xs[..., :1]}

    def gates(self, params, state, z, r):
        push, pull = jnp.moveaxis(jnp.tanh(z["drive"] * r + z["wind"][..., None]), -2, 0)
        weights = jax.nn.softmax(params["damp"], axis=0)
        v = weights[0] * state.v + params["tempo"] * push - weights[1:].sum(0) * jnp.log1p(jnp.square(state.h))
        return Oscillation(state.h + 0.5 * v * pull, v)


@dataclasses.dataclass(frozen=True)
class _Pair:
    h: jax.Array
    v: jax.Array


Oscillation = jax.tree_util.register_dataclass(_Pair, ["v", "h"], [])
CELLS = {  # beside those of the tests below
    "lstm_with_everything_pointwise": LSTM(H, peephole=True, cell_clip=0.6, coupled_gates=True),
    "gru": GRU(H),
    "own_resonator": Resonator(H),
}
IN_HEADS = [
    once_more(Heads(LSTM(H, peephole=True), 2), id="lstm_in_heads"),
    pytest.param(Heads(GRU(H), 4), id="gru_in_heads"),
]


def loss(cell, method, options, params, xs, state):
    ys, last = unroll(cell, params, xs, state, method=method, **options)
    weighed = jnp.cos(jnp.arange(ys.size)).reshape(ys.shape) * ys
    return weighed.sum() + sum(jnp.sin(leaf).sum() for leaf in jax.tree.leaves(last)), (ys, last)


def total(cell, method, params, xs):
    ys, last = unroll(cell, params, xs, method=method)
    return jnp.square(ys).sum() + sum(jnp.sin(leaf).sum() for leaf in jax.tree.leaves(last))


def found_by(methods, cell, arguments, options):
    """Returns values and gradients by each of some methods, computed in one program."""
    of = [functools.partial(loss, cell, method, options) for method in methods]
    return jax.jit(lambda *given: [jax.grad(f, argnums=(0, 1, 2), has_aux=True)(*given) for f in of])(*arguments)


def check(cell, batch=(B,), steps=T, dtype=np.float32, tolerance=1e-4, given=True, **options):
    state = some_state(cell, batch) if given else None
    arguments = parameters(cell), inputs(*batch, steps, I, dtype=dtype), state
    kernels, scan = found_by((PALLAS, Scan()), cell, arguments, options)
    assert jax.tree.map(lambda leaf: leaf.dtype, kernels) == jax.tree.map(lambda leaf: leaf.dtype, scan)
    close(*jax.tree.map(np.float64, (kernels, scan)), rtol=tolerance, atol=tolerance / 10)


# The GRU by itself is shown by its heads, and by the test of blocks below; a state of two parts by the LSTM.
AGAIN = ("gru", "own_resonator")
EACH = [once_more(cell, id=name) if name in AGAIN else pytest.param(cell, id=name) for name, cell in CELLS.items()]


@pytest.mark.parametrize("cell", EACH + IN_HEADS)
def test_values_and_gradients_are_those_of_scan(cell):
    check(cell, **ALL)


@pytest.mark.thorough
def test_exponential_gates_over_a_normaliser_are_those_of_scan():
    check(Heads(SLSTM(H), 2), given=False, **ALL)


@pytest.mark.thorough
def test_every_instruction_computes_what_it_does_in_scan():
    check(EveryInstruction(H), given=False, **ALL)


def test_a_state_that_overflows_before_a_reset_while_outputs_stay_finite_reaches_no_gradient():
    cell = LSTM(H, gate_activation="relu")  # c becomes infinite, and tanh of it is 1
    params = parameters(cell)
    params = params._replace(b=params.b.at[1].set(1e9), w_h=0.1 * params.w_h)
    resets = np.arange(9) == np.full((B, 1), 7)

    def of_outputs(method, params, xs):
        return jnp.sin(unroll(cell, params, xs, resets=resets, method=method)[0]).sum()

    gradients = [jax.grad(functools.partial(of_outputs, method), (0, 1)) for method in (PALLAS, Scan())]
    kernels, scan = jax.jit(lambda *given: [gradient(*given) for gradient in gradients])(params, inputs(B, 9, I))
    assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(kernels))
    close(kernels, scan, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("options", [{"lengths": LENGTHS}, {"resets": RESETS}], ids=str)
def test_each_option_by_itself_means_the_same(options):
    check(BasicRNN(H, "softplus"), **options)


def test_units_are_split_over_warpgroups_and_sequences_over_blocks():
    check(GRU(20), batch=(3, 3), steps=2)


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(jnp.bfloat16, 0.1), once_more(jnp.float16, 0.02)], ids=["bfloat16", "float16"]
)
def test_in_two_bytes_they_differ_by_the_rounding(dtype, tolerance):
    check(UpdateGateRNN(H), dtype=dtype, tolerance=tolerance, **ALL)


def test_one_sequence_of_one_step_is_served():
    check(BasicRNN(1), batch=(), steps=1)


def test_the_parts_of_a_first_state_may_be_one_array():
    check(Resonator(H), given=False)


@pytest.mark.parametrize("axes", [(None, 0), once_more((0, 0))], ids=["shared_params", "own_params"])
def test_they_are_batched_as_scan_is(axes):
    cell = BasicRNN(H)
    params, xs = parameters(cell), inputs(2, B, T, I)
    params = jax.tree.map(lambda leaf: np.stack([leaf, 2 * leaf]), params) if axes[0] == 0 else params
    gradients = [jax.vmap(jax.grad(functools.partial(total, cell, method)), axes) for method in (PALLAS, Scan())]
    close(*jax.jit(lambda *given: [gradient(*given) for gradient in gradients])(params, xs))


def test_inside_shard_map_they_are_differentiated_as_scan_is():
    cell = BasicRNN(H)
    params, xs = parameters(cell), inputs(B, T, I)
    mesh = jax.make_mesh((1,), ("data",), axis_types=(AxisType.Auto,))  # JAX's interpreter knows one device

    def gradients(method):
        shard = lambda params, xs: jax.lax.psum(total(cell, method, params, xs), "data")  # noqa: E731
        split = jax.shard_map(shard, mesh=mesh, in_specs=(P(), P("data")), out_specs=P())
        return jax.jit(jax.grad(split))(params, xs)

    close(*(gradients(method) for method in (PALLAS, Scan())))


def test_gradients_of_gradients_are_those_of_scan():
    cell = BasicRNN(H)
    arguments = parameters(cell), inputs(B, T, I), some_state(cell, B)

    def steepness(method, *arguments):
        slopes = jax.grad(lambda *a: loss(cell, method, {}, *a)[0], argnums=(0, 1, 2))(*arguments)
        return sum(jnp.square(slope).sum() for slope in jax.tree.leaves(slopes))

    kernels, scan = (jax.jit(jax.grad(functools.partial(steepness, m)))(*arguments) for m in (PALLAS, Scan()))
    close(kernels, scan)
