"""All methods give the outputs, final state and gradients of a loop written by hand."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cells_under_test import CELLS, LINEAR, WHOLE, I, close, inputs, parameters, some_state
from fixtures.thorough import main_of, once_more

from rnnjax import Associative, Auto, Newton, Scan, Static, TimedKey, unroll

B, T = 3, 2
LENGTHS = np.array([2, 0, 1])
RESETS = np.array([[0, 1], [1, 1], [0, 1]], bool)
FULL, NONE = np.full(B, T), np.zeros((B, T), bool)
KEY = jax.random.key(3)
METHODS = (Static(), Scan(), Auto())  # on a CPU, Auto is Fused, for the parts that it can serve
NEWTON = Newton(iterations=1)  # takes steps by themselves where it has not converged
# Cells of which none is like one in the tests of Newton's method; those of the others are for --thorough.
ALSO_BY_NEWTON = ("gru_before", "own", "variational", "wrapped_stack")
# What the others have is in one of these, or in the tests of their parts.
MAIN = ("rnn", "lstm_with_everything", "own", "wrapped_stack", "lru", "diagonal")


def where(condition, yes, no):
    pick = lambda a, b: jnp.where(condition.reshape(-1, *[1] * (a.ndim - 1)), a, b)  # noqa: E731
    return jax.tree.map(pick, yes, no)


def by_hand(cell, params, xs, state, take, lengths=FULL, resets=NONE, reverse=False):
    """Unrolls step by step, ``take(xs)`` saying how to take step t of inputs in the order of the steps."""
    order = np.tile(np.arange(T), (B, 1))
    for steps, length in zip(order, lengths):
        steps[:length] = steps[:length][::-1] if reverse else steps[:length]
    in_order = np.arange(B)[:, None], order  # an order that is its own inverse
    step, finish = take(xs[in_order])
    start, resets = cell.start(params, B, xs.dtype), resets[in_order]
    ys = []
    for t in range(T):
        after, y = step(t, where(resets[:, t], start, state))
        state = where(t < lengths, after, state)
        ys.append(y)
    ys = finish(jnp.stack(ys, 1))
    return jnp.where((np.arange(T) < lengths[:, None])[..., None], ys, 0)[in_order], state


def by_parts(cell, params, xs, state, **options):
    """Takes `inputs` of all steps, then `step` by `step`, then `outputs`."""

    def take(xs):
        zs = cell.inputs(params, xs.swapaxes(0, 1), key=KEY)
        step = lambda t, state: cell.step(params, state, jax.tree.map(lambda z: z[t], zs))  # noqa: E731
        return step, lambda ys: cell.outputs(params, ys)

    return by_hand(cell, params, xs, state, take, **options)


def by_calls(cell, params, xs, state, **options):
    """Calls the cell once a step."""

    def take(xs):
        step = lambda t, state: cell(params, state, xs[:, t], key=TimedKey(KEY, jnp.array([t])))  # noqa: E731
        return step, lambda ys: ys

    return by_hand(cell, params, xs, state, take, **options)


def by_method(method):
    def run(cell, params, xs, state, **options):
        return unroll(cell, params, xs, state, method=method, key=KEY, **options)

    return run


WAYS = [by_method(method) for method in METHODS]
PREFIXES = [by_method(Associative(of)) for of in ("scan", "associative")]


def values_and_gradients(cell, ways, by_hand, options, params, xs, state):
    """Returns, for each way, outputs and final state, and the gradients of a loss on both; by hand the values alone."""

    def loss(way, params, xs, state):
        ys, last = way(cell, params, xs, state, **options)
        weighed = jnp.cos(jnp.arange(ys.size)).reshape(ys.shape) * ys
        return weighed.sum() + sum(jnp.sin(leaf).sum() for leaf in jax.tree.leaves(last)), (ys, last)

    def of(way):
        gradients, values = jax.grad(functools.partial(loss, way), argnums=(0, 1, 2), has_aux=True)(params, xs, state)
        return {"values": values, "params": gradients[0], "xs": gradients[1], "state": gradients[2]}

    return [of(way) for way in ways], [way(cell, params, xs, state, **options) for way in by_hand]


def check(cell, ways, by_hand=(), time=T, **options):
    """Asserts that all ways give what the first of them does, and returns that."""
    with jax.enable_x64(True):
        arguments = parameters(cell, dtype=float), inputs(B, time, I, dtype=float), some_state(cell, B, dtype=float)
        (expected, *others), values = jax.jit(functools.partial(values_and_gradients, cell, ways, by_hand, options))(
            *arguments
        )
    for other in others:
        close(other, expected, rtol=1e-9, atol=1e-10)
    for other in values:
        close(other, expected["values"], rtol=1e-9, atol=1e-10)
    return expected


@pytest.mark.parametrize("name", main_of(WHOLE, MAIN))
def test_every_way_to_unroll_gives_the_same_values_and_gradients(name):
    ways = WAYS + (PREFIXES if name in LINEAR else []) + ([by_method(NEWTON)] if name in ALSO_BY_NEWTON else [])
    found = check(WHOLE[name], ways, (by_parts, by_calls), lengths=LENGTHS, resets=RESETS, reverse=True)
    for leaf in jax.tree.leaves(found):
        assert np.any(np.asarray(leaf) != 0)


@pytest.mark.thorough
@pytest.mark.parametrize("name", [name for name in WHOLE if name not in ALSO_BY_NEWTON])
def test_newton_gives_what_scan_gives_for_every_other_cell(name):
    ways = [by_method(method) for method in (Scan(), NEWTON)]
    check(WHOLE[name], ways, lengths=LENGTHS, resets=RESETS, reverse=True)


@pytest.mark.parametrize("name", main_of(LINEAR, ("lru",)))
def test_a_prefix_computed_in_pieces_gives_what_scan_gives(name):
    ways = [by_method(method) for method in (Scan(), Associative("scan", remat_every=2))]
    check(WHOLE[name], ways, lengths=LENGTHS, resets=RESETS, reverse=True)


def test_options_of_scan_change_nothing():
    ways = [by_method(method) for method in (Scan(), Scan(unroll=2), Scan(remat_every=2))]
    lengths, resets = np.array([3, 0, 2]), np.array([[0, 1, 0], [1, 1, 1], [0, 1, 1]], bool)
    check(CELLS["dropout"], ways, time=3, lengths=lengths, resets=resets, reverse=True)


# Lengths are a mask, and sequences are turned round, before a method sees them.
@pytest.mark.parametrize(
    "options", [{}, once_more({"lengths": LENGTHS}), {"resets": RESETS}, once_more({"reverse": True})], ids=str
)
def test_each_option_by_itself_means_the_same_in_every_way_to_unroll(options):
    check(CELLS["learned"], [by_parts, *WAYS], **options)
