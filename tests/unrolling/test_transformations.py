"""Unrolling under the transformations of JAX, and over devices."""

import contextlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cells_under_test import H, I, UpdateGateRNN, close, inputs, parameters, same, some_state
from fixtures.thorough import main_of
from jax.sharding import NamedSharding, PartitionSpec

from rnnjax import GRU, LSTM, BasicRNN, Dropout, Fused, LearnedState, Newton, ParaGRU, Scan, Stack, Static, unroll

B, T = 4, 3
LENGTHS = np.array([3, 1, 0, 2])
RESETS = np.array([[0, 1, 0], [0, 0, 0], [1, 1, 1], [1, 0, 0]], bool)
KEY = jax.random.key(5)
CELL = Stack((Dropout(LSTM(H), state_rate=0.3), LearnedState(GRU(H))))


def everything(cell, key=KEY):
    return {
        "params": parameters(cell),
        "xs": inputs(B, T, I),
        "state": some_state(cell, B),
        "lengths": jax.device_put(LENGTHS),
        "resets": jax.device_put(RESETS),
        "key": key,
    }


def test_traced_lengths_resets_state_and_key_mean_what_concrete_ones_mean():
    arguments = everything(CELL)
    traced = jax.jit(lambda arguments: unroll(CELL, **arguments, reverse=True))(arguments)
    close(traced, unroll(CELL, **arguments, reverse=True))


def test_the_cell_and_the_method_may_be_static_arguments_of_a_jitted_function():
    jitted = jax.jit(unroll, static_argnames=("cell", "method", "reverse"))
    arguments = everything(CELL)
    close(jitted(CELL, **arguments, reverse=True, method=Scan(2)), unroll(CELL, **arguments, reverse=True))


@pytest.mark.parametrize("method", [Static(), Scan(2), Scan(remat_every=2), Fused()], ids=str)
def test_vmap_over_sequences_is_the_batch(method):
    cell = LearnedState(GRU(H))
    given = everything(cell)
    alone = lambda xs, state, lengths, resets: unroll(  # noqa: E731
        cell, given["params"], xs, state, lengths=lengths, resets=resets, reverse=True, method=method
    )
    mapped = jax.jit(jax.vmap(alone))(given["xs"], given["state"], given["lengths"], given["resets"])
    close(mapped, unroll(cell, **{**given, "key": None}, reverse=True))


def test_vmap_over_parameters_is_an_ensemble():
    cell, xs = LSTM(H), inputs(B, T, I)
    members = [parameters(cell), jax.tree.map(jnp.negative, parameters(cell))]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *members)
    ys, state = jax.vmap(lambda params: unroll(cell, params, xs))(stacked)
    for member, params in enumerate(members):
        close((ys[member], jax.tree.map(lambda leaf, m=member: leaf[m], state)), unroll(cell, params, xs))


def test_vmap_over_keys_draws_anew_for_each():
    cell = Dropout(GRU(H), output_rate=0.5)
    params, xs, keys = parameters(cell), inputs(B, T, I), jax.random.split(KEY, 3)
    mapped = jax.vmap(lambda key: unroll(cell, params, xs, key=key)[0])(keys)
    close(mapped[1], unroll(cell, params, xs, key=keys[1])[0])
    assert ((mapped[0] == 0) != (mapped[1] == 0)).any()


def loss(cell, params, xs, **options):
    return jnp.square(unroll(cell, params, xs, **options)[0]).sum()


def test_vmap_of_grad_gives_the_gradient_of_every_sequence():
    cell = LSTM(H)
    params, xs = parameters(cell), inputs(B, T, I)
    gradient = jax.grad(lambda params, x, length: loss(cell, params, x, lengths=length))
    each = jax.jit(jax.vmap(gradient, (None, 0, 0)))(params, xs, LENGTHS)
    alone = jax.jit(gradient)
    for b in range(B):
        close(jax.tree.map(lambda leaf, b=b: leaf[b], each), alone(params, xs[b], LENGTHS[b]))
    close(
        jax.tree.map(lambda leaf: leaf.sum(0), each),
        jax.jit(jax.grad(lambda params: loss(cell, params, xs, lengths=LENGTHS)))(params),
    )


def test_forward_mode_agrees_with_reverse_mode():
    cell = GRU(H)
    params, xs = parameters(cell), inputs(2, T, I)
    direction = jax.tree.map(lambda leaf: jax.device_put(np.cos(leaf)), params)
    of = lambda params: loss(cell, params, xs)  # noqa: E731
    _, ahead = jax.jit(lambda *given: jax.jvp(of, given[:1], given[1:]))(params, direction)
    back = jax.jit(jax.grad(of))(params)
    products = jax.tree.map(lambda a, b: (np.asarray(a) * b).sum(), direction, back)
    np.testing.assert_allclose(ahead, sum(jax.tree.leaves(products)), rtol=1e-4)


@pytest.fixture
def mesh():
    if jax.device_count() < 2:
        pytest.skip("needs two devices")
    return jax.make_mesh((2,), ("batch",), devices=jax.devices()[:2])


UNDIVIDED = {}


def undivided(cell, total, given):
    """Returns outputs and gradient by `Scan` on one device, computed once for all methods of a cell."""
    if cell not in UNDIVIDED:
        of = lambda params: total({**given, "params": params}, Scan())  # noqa: E731
        UNDIVIDED[cell] = jax.jit(jax.value_and_grad(of, has_aux=True))(given["params"])
    (_, ys), gradient = UNDIVIDED[cell]
    return ys, gradient


SPREAD = (Static(), Scan(), Scan(remat_every=2), Fused(), Newton())


@pytest.mark.parametrize("method", main_of(SPREAD, (Scan(), Fused())), ids=str)
def test_shard_map_over_the_batch_changes_no_value_and_no_gradient(mesh, method):
    layers = (ParaGRU(H), ParaGRU(H)) if isinstance(method, Newton) else (BasicRNN(H), GRU(H))
    cell = Stack((layers[0], LearnedState(layers[1])))
    given = everything(cell, key=None)

    def total(given, method=method):
        ys, state = unroll(cell, **given, reverse=True, method=method)
        return jnp.square(ys).sum() + state[1].h.sum(), ys

    def local(params, rest):
        value, ys = total({"params": params, "key": None, **rest})
        return jax.lax.psum(value, "batch"), ys

    split = PartitionSpec("batch")
    sharded = jax.shard_map(local, mesh=mesh, in_specs=(PartitionSpec(), split), out_specs=(PartitionSpec(), split))
    rest = {name: value for name, value in given.items() if name not in ("params", "key")}
    rest = jax.device_put(rest, NamedSharding(mesh, split))
    (_, ys), gradient = jax.jit(jax.value_and_grad(sharded, has_aux=True))(given["params"], rest)
    expected = undivided(cell, total, given)
    assert len(ys.sharding.device_set) == 2
    close((ys, gradient), expected)


def test_inputs_spread_over_devices_give_outputs_spread_alike(mesh):
    cell, xs = LSTM(H), inputs(B, T, I)
    sharding = NamedSharding(mesh, PartitionSpec("batch"))
    ys, state = jax.jit(lambda params, xs: unroll(cell, params, xs))(parameters(cell), jax.device_put(xs, sharding))
    assert ys.sharding.is_equivalent_to(sharding, 3)
    assert state.c.sharding.is_equivalent_to(sharding, 2)
    close(ys, unroll(cell, parameters(cell), xs)[0])


@contextlib.contextmanager
def compilations():
    """Lists the compilations that happen within."""
    events = []

    def listen(event, duration, **_):
        if event == "/jax/core/compile/backend_compile_duration":
            events.append(event)

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        yield events
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)


def test_unrolling_again_compiles_nothing():
    make = lambda: Stack([LearnedState(LSTM(H, peephole=True)), Dropout(GRU(H), input_rate=0.1)])  # noqa: E731
    first = {**everything(make()), "lengths": LENGTHS}
    with compilations() as at_first:
        unroll(make(), **first, reverse=True)
    again = {**first, "key": jax.random.key(6), "lengths": np.array([0, 1, 2, 3]), "xs": 2 * first["xs"]}
    with compilations() as after:
        unroll(make(), **again, reverse=True)
    assert len(at_first) > 0
    assert after == []


def test_a_cell_is_traced_once_for_each_way_to_unroll_it():
    traces = []

    class Counted(UpdateGateRNN):
        def gates(self, params, state, z, r):
            traces.append(r.shape)
            return super().gates(params, state, z, r)

    params, xs = parameters(Counted(H)), inputs(B, T, I)
    unroll(Counted(H), params, xs)
    once = len(traces)
    unroll(Counted(H), params, 2 * xs)
    assert len(traces) == once
    unroll(Counted(H), params, xs, reverse=True)
    assert len(traces) > once


def test_an_unrolling_within_jit_is_the_eager_one_bit_by_bit():
    cell = LSTM(H)
    params, xs = parameters(cell), inputs(B, T, I)
    same(jax.jit(lambda params, xs: unroll(cell, params, xs))(params, xs), unroll(cell, params, xs))
