"""What `Fused` does differently from `Scan`, and that nothing else is different."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cells_under_test import GATED, H, Halved, I, LeakySum, UpdateGateRNN, close, inputs, parameters
from fixtures.thorough import once_more
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from test_programs import bodies, carried_and_stacked, named

from rnnjax import GRU, LSTM, BasicRNN, Dropout, Fused, Scan, Stack, unroll

B, T = 4, 5
XS = inputs(B, T, I)


def loss(cell, method, params, xs, **options):
    ys, state = unroll(cell, params, xs, method=method, **options)
    return (jnp.cos(jnp.arange(ys.size)).reshape(ys.shape) * ys).sum() + sum(map(jnp.sum, jax.tree.leaves(state)))


def backward_program(cell, method):
    return jax.make_jaxpr(jax.grad(functools.partial(loss, cell, method)))(parameters(cell), XS).jaxpr


@pytest.mark.parametrize("cell", [BasicRNN(H), LSTM(H), LSTM(H, peephole=True), GRU(H), UpdateGateRNN(H)], ids=str)
def test_the_weights_gradient_waits_until_the_loops_are_over(cell):
    ahead, back = bodies(backward_program(cell, Fused()))
    inputs_apart = isinstance(cell, GRU)
    assert [len(named("dot_general", body)) for body in (ahead, back)] == [1 + inputs_apart, 1]
    assert [len(named("dot_general", body)) for body in bodies(backward_program(cell, Scan()))] == [1, 2]


def test_the_gradient_of_a_projection_waits_as_well():
    ahead, back = bodies(backward_program(LSTM(H, projection_size=2), Fused()))
    assert len(named("dot_general", ahead)) == 3
    assert len(named("dot_general", back)) == 2  # the gradients of what the projection and the recurrent product read


def test_z_and_r_have_one_gradient_where_gates_read_their_sum():
    def stacked(cell):
        _, back = named("scan", backward_program(cell, Fused()))
        return [v.aval.shape for v in back.outvars].count((T, B, cell.gate_count, H))

    assert stacked(UpdateGateRNN(H)) == 1
    assert stacked(GRU(H)) == 2


@pytest.mark.parametrize("method", [Fused(), Fused(unroll=2)], ids=str)
def test_a_cell_without_the_step_of_gated_cells_is_refused_and_the_sentence_says_what_to_do(method):
    sentence = r"gated cells .*, and (LeakySum|Halved) is not one here; use Scan\(\), or"
    for cell in (LeakySum(I), Halved(H), Stack((GRU(I), LeakySum(I)))):
        with pytest.raises(ValueError, match=sentence):
            unroll(cell, parameters(cell), XS, method=method)


def test_no_parameter_is_rounded_to_the_type_of_another():
    cell = LSTM(H)
    params = parameters(cell)
    params = params._replace(w_h=params.w_h.astype(jnp.bfloat16))
    close(*(unroll(cell, params, XS, method=method) for method in (Fused(), Scan())), rtol=1e-5)


def test_dropout_of_the_state_is_refused_where_it_is_drawn():
    cell = Dropout(GRU(H), state_rate=0.5)
    params = parameters(cell)
    close(unroll(cell, params, XS, method=Fused()), unroll(cell, params, XS, method=Scan()))
    with pytest.raises(ValueError, match="and Dropout is not one here"):
        unroll(cell, params, XS, method=Fused(), key=jax.random.key(0))


def test_numbers_below_one_are_refused():
    with pytest.raises(ValueError, match="unroll must be at least 1, got 0"):
        Fused(0)


def both(of, *arguments):
    """Returns what a function of the method gives with `Fused`, and with `Scan`."""
    return tuple(jax.jit(functools.partial(of, method))(*arguments) for method in (Fused(), Scan()))


@pytest.mark.parametrize(
    "cell",
    [UpdateGateRNN(H), once_more(GRU(H)), once_more(LSTM(H, peephole=True, projection_size=2))],
    ids=["own", "gru", "lstm"],
)
def test_forward_mode_second_derivatives_and_checkpoints_are_those_of_scan(cell):
    params = parameters(cell)

    def derivatives(method, params, xs):
        of = functools.partial(loss, cell, method)
        direction = jax.tree.map(jnp.cos, (params, xs))
        along = lambda params: jax.jvp(of, (params, xs), direction)[1]  # noqa: E731
        steep = lambda params: sum(jnp.square(g).sum() for g in jax.tree.leaves(jax.grad(of)(params, xs)))  # noqa: E731
        again = jax.grad(jax.checkpoint(of))(params, xs)
        return along(params), jax.grad(along)(params), jax.grad(steep)(params), again

    with jax.enable_x64(True):
        wide = jax.tree.map(lambda leaf: leaf.astype(float), (params, XS))
        close(*both(derivatives, *wide), rtol=1e-8, atol=1e-9)


@pytest.mark.promotes_types
@pytest.mark.parametrize("state_dtype", [None, jnp.bfloat16], ids=["wide", "narrow"])
def test_in_bfloat16_gradients_are_those_of_scan_in_the_same_types(state_dtype):
    cell = LSTM(H, peephole=True, dtype=jnp.bfloat16, state_dtype=state_dtype)
    gradients = lambda method, *of: jax.grad(functools.partial(loss, cell, method), (0, 1))(*of)  # noqa: E731
    fused, scanned = both(gradients, parameters(cell), XS)
    assert jax.tree.map(lambda leaf: leaf.dtype, fused) == jax.tree.map(lambda leaf: leaf.dtype, scanned)
    close(jax.tree.map(np.float32, fused), jax.tree.map(np.float32, scanned), rtol=0.1, atol=0.1)


def test_parameters_that_do_not_vary_over_the_mesh_get_the_sum_of_what_each_device_gives_them():
    if jax.device_count() < 2:
        pytest.skip("needs two devices")
    mesh = jax.make_mesh((2,), ("batch",), devices=jax.devices()[:2])
    cell, spec = GATED["lstm_with_everything"], PartitionSpec("batch")
    local = lambda params, xs: jax.grad(functools.partial(loss, cell, Fused()))(params, xs)  # noqa: E731
    sharded = jax.shard_map(local, mesh=mesh, in_specs=(PartitionSpec(), spec), out_specs=PartitionSpec())
    params, halves = parameters(cell), jax.device_put(jnp.concatenate([XS, XS]), NamedSharding(mesh, spec))
    once = jax.jit(jax.grad(functools.partial(loss, cell, Scan())))(params, XS)
    close(jax.jit(sharded)(params, halves), jax.tree.map(lambda leaf: 2 * leaf, once), rtol=1e-3, atol=1e-4)


def test_z_of_the_next_step_travels_in_the_loop_where_it_was_made_before_and_there_are_several_gates():
    def carried(cell):
        (scan,) = named("scan", jax.make_jaxpr(lambda p: unroll(cell, p, XS, method=Fused()))(parameters(cell)).jaxpr)
        return len(carried_and_stacked(scan)[0])

    assert [carried(cell) for cell in (BasicRNN(H), GRU(H), OwnInputs(H))] == [1, 1, 2]


class OwnInputs(UpdateGateRNN):
    def inputs(self, params, xs, *, key=None):
        return jnp.tanh(super().inputs(params, xs))


class OwnGateInputs(UpdateGateRNN):
    def gate_inputs(self, params, zs):
        return jnp.tanh(super().gate_inputs(params, zs))


class NoBias(UpdateGateRNN):
    def gate_inputs(self, params, zs):
        return zs


class SplitGateInputs(UpdateGateRNN):
    """z is a pair: the terms of each gate."""

    def gate_inputs(self, params, zs):
        zs = super().gate_inputs(params, zs)
        return zs[..., 0, :], zs[..., 1, :]

    def gates(self, params, state, z, r):
        return super().gates(params, state, jnp.stack(z, -2), r)


class OwnProduct(UpdateGateRNN):
    def project(self, w_x, xs):
        return jnp.tanh(super().project(w_x, xs))


class DoubledInputs(LSTM):
    def gate_inputs(self, params, zs):
        return zs + zs


class BiasOfEachStep(GRU):
    def gate_inputs(self, params, zs):
        step = jnp.arange(len(zs), dtype=zs.dtype).reshape(-1, *[1] * (zs.ndim - 1))
        return zs + (params.b + step)


@pytest.mark.parametrize("cell", [DoubledInputs(H), BiasOfEachStep(H)], ids=lambda cell: type(cell).__name__)
def test_projected_inputs_added_to_themselves_or_to_what_differs_from_step_to_step_are_no_bias(cell):
    params = parameters(cell)
    close(unroll(cell, params, XS, method=Fused()), unroll(cell, params, XS, method=Scan()))


@pytest.mark.parametrize("cell", [SplitGateInputs(H), OwnProduct(H)], ids=str)
def test_a_z_of_another_structure_and_a_product_of_its_own_are_respected(cell):
    params = parameters(cell)
    close(unroll(cell, params, XS, method=Fused()), unroll(cell, params, XS, method=Scan()))


def read_in_the_loop(cell, features=I):
    """What the forward loop reads at every step: the inputs with a one, to be multiplied beside h; the inputs; or z."""
    params = jax.eval_shape(lambda: cell.init(jax.random.key(0), features))
    xs = jax.ShapeDtypeStruct((B, T, features), np.float32)
    program = jax.make_jaxpr(lambda *given: unroll(cell, *given, method=Fused()))(params, xs)
    (scan,) = named("scan", program.jaxpr)
    shapes = {v.aval.shape for v in scan.invars if v.aval.shape[:2] == (T, B)}
    z = (T, B, cell.gate_count, cell.hidden_size)
    return {(T, B, features + 1): "x, 1", (T, B, features): "x", z: "z"}[shapes.pop()]


@pytest.mark.parametrize("cell", [UpdateGateRNN(H), LSTM(H), NoBias(H)], ids=str)
def test_small_weights_multiply_the_inputs_in_the_loop(cell):
    assert read_in_the_loop(cell) == "x, 1"


def _one_device_mesh():
    return jax.make_mesh((1,), ("batch",), axis_types=(AxisType.Auto,), devices=jax.devices()[:1])


def test_inside_shard_map_small_weights_do_the_same():
    mesh, split = _one_device_mesh(), PartitionSpec("batch")
    local = lambda params, xs: unroll(LSTM(H), params, xs, method=Fused())[0]  # noqa: E731
    mapped = jax.shard_map(local, mesh=mesh, in_specs=(PartitionSpec(), split), out_specs=split)
    (scan,) = named("scan", jax.make_jaxpr(mapped)(parameters(LSTM(H)), XS).jaxpr)
    assert (T, B, I + 1) in {v.aval.shape for v in scan.invars}


@pytest.mark.parametrize("cell", [BasicRNN(H), OwnInputs(H), OwnGateInputs(H)], ids=str)
def test_inputs_of_one_gate_or_of_no_plain_projection_are_projected_before_the_loop(cell):
    assert read_in_the_loop(cell) == "z"


@pytest.mark.parametrize("cell", [GRU(H), GRU(H, reset="before")], ids=str)
def test_inputs_that_are_no_term_of_one_sum_are_projected_step_by_step(cell):
    assert read_in_the_loop(cell) == "x"
    assert read_in_the_loop(cell, features=1) == "z"


def test_the_size_of_the_weights_says_which_are_multiplied_together_or_before_the_loop():
    assert read_in_the_loop(UpdateGateRNN(128), 1919) == "x, 1"
    assert read_in_the_loop(UpdateGateRNN(128), 1921) == "x"
    assert read_in_the_loop(UpdateGateRNN(128), 2049) == "z"


@pytest.mark.parametrize("cell", [UpdateGateRNN(H), LSTM(H, peephole=True), NoBias(H)], ids=str)
def test_inputs_multiplied_in_the_loop_have_their_gradient(cell):
    params = parameters(cell)

    def gradients(method):
        return jax.jit(jax.grad(functools.partial(loss, cell, method), argnums=(0, 1)))(params, XS)

    close(gradients(Fused()), gradients(Scan()))
