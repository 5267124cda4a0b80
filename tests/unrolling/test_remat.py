"""`Scan(remat_every=...)`: the same values and gradients, from chunks that make their own z."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cells_under_test import H, I, LeakySum, UpdateGateRNN, close, inputs, parameters, some_state
from fixtures.thorough import once_more
from test_programs import carried_and_stacked, named

from rnnjax import GRU, LRU, LSTM, BasicRNN, Cell, Dropout, Scan, Stack, bidirectional, unroll

B, T, EVERY = 5, 7, 2
LENGTHS = np.array([7, 0, 3, 6, 1])
RESETS = np.arange(B * T).reshape(B, T) % 3 == 1
METHODS = (Scan(), Scan(remat_every=EVERY))


class RunningSum(UpdateGateRNN):
    """A user's own cell whose z of a step depends on the steps before, so that no chunk can make its own."""

    def inputs(self, params, xs, *, key=None):
        return jnp.cumsum(super().inputs(params, xs), 0)


class RunningSumOfProducts(UpdateGateRNN):
    def gate_inputs(self, params, zs):
        return jnp.cumsum(super().gate_inputs(params, zs), 0)


class RunningSumOfInputs(LRU):
    """A cell that overrides what the one it derives from is known for, that each step's z is of its own input."""

    def inputs(self, params, xs, *, key=None):
        return super().inputs(params, jnp.cumsum(xs, 0))


PLAIN = [BasicRNN(H), LSTM(H, peephole=True), LSTM(H, projection_size=2), GRU(H), GRU(H, reset="before")]
OWN = [RunningSum(H), RunningSumOfProducts(H), LeakySum(I), LSTM(H, layer_norm=True)]


def loss(cell, method, params, xs, state, **options):
    ys, last = unroll(cell, params, xs, state, method=method, **options)
    leaves = sum(jnp.sin(leaf).sum() for leaf in jax.tree.leaves(last))
    return (jnp.cos(jnp.arange(ys.size)).reshape(ys.shape) * ys).sum() + leaves


def check(of, *arguments):
    """Asserts that a function of the method gives in chunks what it gives in one piece, in float64."""
    with jax.enable_x64(True):
        wide = jax.tree.map(lambda leaf: np.asarray(leaf, float), arguments)
        whole, in_chunks = jax.jit(lambda *given: [of(method, *given) for method in METHODS])(*wide)
    close(in_chunks, whole, rtol=1e-9, atol=1e-10)


ALL = {"lengths": LENGTHS, "resets": RESETS, "reverse": True}
RUN = [(LSTM(H, peephole=True, projection_size=2), ALL), (RunningSumOfInputs(H), {"lengths": LENGTHS})]
AGAIN = [
    (RunningSum(H), ALL),
    (GRU(H), ALL),
    (GRU(H, reset="before"), ALL),
    (LeakySum(I), ALL),
    (Stack((BasicRNN(H), GRU(2))), {}),
]
CASES = RUN + [once_more(*case) for case in AGAIN]


@pytest.mark.parametrize(("cell", "options"), CASES, ids=lambda value: type(value).__name__)
def test_remat_changes_no_value_and_no_gradient(cell, options):
    def both(method, *arguments):
        of = functools.partial(loss, cell, method, **options)
        return jax.value_and_grad(of, argnums=(0, 1, 2))(*arguments)

    check(both, parameters(cell), inputs(B, T, I), some_state(cell, B))


@pytest.mark.thorough
def test_nor_do_derivatives_along_a_direction_and_of_second_order_differ():
    cell = UpdateGateRNN(H)

    def derivatives(method, *at):
        of = functools.partial(loss, cell, method, lengths=LENGTHS, resets=RESETS)
        along = lambda *at: jax.jvp(of, at, jax.tree.map(jnp.cos, at))[1]  # noqa: E731
        steep = lambda *at: sum(jnp.square(g).sum() for g in jax.tree.leaves(jax.grad(of)(*at)))  # noqa: E731
        return along(*at), jax.grad(along, argnums=(0, 1, 2))(*at), jax.grad(steep, argnums=(0, 1, 2))(*at)

    check(derivatives, parameters(cell), inputs(B, T, I), some_state(cell, B))


def test_both_directions_of_a_bidirectional_layer_and_dropout_are_the_same():
    ahead, back = Dropout(LSTM(H), input_rate=0.3, output_rate=0.3), GRU(H)

    def both(method, params, xs):
        total = lambda *at: jnp.square(  # noqa: E731
            bidirectional(ahead, back, *at, method=method, lengths=LENGTHS, key=jax.random.key(1))[0]
        ).sum()
        return jax.value_and_grad(total, argnums=(0, 1))(params, xs)

    check(both, (parameters(ahead), parameters(back)), inputs(B, T, I))


def test_an_ensemble_is_mapped_over_its_parameters():
    cell = GRU(H)
    members = jax.tree.map(lambda leaf: jnp.stack([leaf, -leaf]), parameters(cell))
    gradients = lambda method, *at: jax.vmap(  # noqa: E731
        jax.grad(functools.partial(loss, cell, method)), (0, None, None)
    )(*at)
    check(gradients, members, inputs(B, T, I), some_state(cell, B))


def outer_scan(cell: Cell, of=lambda f: f):
    """Returns the loop over chunks, the last that the program has, of a program of the parameters."""
    total = lambda p, xs: unroll(cell, p, xs, method=Scan(remat_every=EVERY))[0].sum()  # noqa: E731
    scans = named("scan", jax.make_jaxpr(of(total))(parameters(cell), inputs(B, T, I)).jaxpr)
    return [scan for scan in scans if scan.params["length"] == T // EVERY][-1]


@pytest.mark.parametrize(("cell", "made"), [(cell, True) for cell in PLAIN] + [(cell, False) for cell in OWN], ids=str)
def test_a_chunk_makes_its_own_z_where_that_is_known_to_be_the_same(cell, made):
    scan = outer_scan(cell)
    read = {v.aval.shape[3:] for v in scan.invars if v.aval.shape[:3] == (T // EVERY, EVERY, B)}
    assert len(read) == 1
    products = named("dot_general", scan.params["jaxpr"].jaxpr, stop_at=("scan",))
    assert (len(products), read == {(I,)}) == ((1, True) if made else (0, isinstance(cell, LeakySum)))


@pytest.mark.parametrize("cell", PLAIN, ids=str)
def test_the_gradients_of_weights_are_summed_in_the_loop_and_not_stacked_by_chunk(cell):
    carried, stacked = carried_and_stacked(outer_scan(cell, jax.grad))
    assert all(B in shape for shape in stacked)
    assert (I, cell.gate_count * H) in carried or (I, len(parameters(cell).b), H) in carried
