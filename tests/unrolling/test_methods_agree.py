"""All methods give the outputs, final state and gradients of a loop written by hand."""

import functools
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cells_under_test import CELLS, LINEAR, WHOLE, I, close, inputs, parameters, some_state

from rnnjax import Associative, Auto, Newton, Scan, Static, TimedKey, unroll

B, T = 3, 3
LENGTHS = np.array([3, 0, 2])
RESETS = np.array([[0, 1, 0], [1, 1, 1], [0, 1, 1]], bool)
FULL, NONE = np.full(B, T), np.zeros((B, T), bool)
KEY = jax.random.key(3)
METHODS = {
    "static": Static(),
    "scan": Scan(),
    "auto": Auto(),  # on a CPU Fused, for the parts that it can serve
}


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


WAYS = {name: by_method(method) for name, method in METHODS.items()} | {"by_parts": by_parts}
PREFIXES = {of: by_method(Associative(of)) for of in ("scan", "associative")}
# The last step is taken by itself, where Newton's method has not converged.
NEWTON = {"static": WAYS["static"], "newton": by_method(Newton(iterations=2))}
BY_NEWTON = [CELLS[name] for name in ("lstm_with_everything", "own", "variational_zoneout", "diagonal")]


def ways(cell):
    more = PREFIXES if cell in LINEAR.values() else NEWTON if cell in BY_NEWTON else {}
    return WAYS | more


def values_and_gradients(cell, options, params, xs, state):
    """Returns, for each way, outputs and final state, and the gradients of a loss on both."""

    def loss(way, params, xs, state):
        ys, last = way(cell, params, xs, state, **options)
        weighed = jnp.cos(jnp.arange(ys.size)).reshape(ys.shape) * ys
        return weighed.sum() + sum(jnp.sin(leaf).sum() for leaf in jax.tree.leaves(last)), (ys, last)

    def of(way):
        gradients, values = jax.grad(functools.partial(loss, way), argnums=(0, 1, 2), has_aux=True)(params, xs, state)
        return {"values": values, "params": gradients[0], "xs": gradients[1], "state": gradients[2]}

    return {name: of(way) for name, way in ways(cell).items()}


def check(cell, **options):
    with jax.enable_x64(True):
        arguments = parameters(cell, dtype=float), inputs(B, T, I, dtype=float), some_state(cell, B, dtype=float)
        found = jax.jit(functools.partial(values_and_gradients, cell, options))(*arguments)
        called = jax.jit(functools.partial(by_calls, cell, **options))(*arguments)
    for name in ways(cell):
        for part, expected in found["static"].items():
            close(found[name][part], expected, rtol=1e-9, atol=1e-10)
    close(called, found["static"]["values"], rtol=1e-9, atol=1e-10)
    return found["static"]


@pytest.mark.parametrize("cell", WHOLE.values(), ids=WHOLE)
def test_every_way_to_unroll_gives_the_same_values_and_gradients(cell):
    found = check(cell, lengths=LENGTHS, resets=RESETS, reverse=True)
    for leaf in jax.tree.leaves(found):
        assert np.any(np.asarray(leaf) != 0)


@pytest.mark.thorough
@pytest.mark.parametrize("cell", CELLS.values(), ids=CELLS)
def test_newton_gives_the_same_values_and_gradients_for_every_cell(cell, monkeypatch):
    monkeypatch.setattr(sys.modules[__name__], "WAYS", NEWTON)
    check(cell, lengths=LENGTHS, resets=RESETS, reverse=True)


@pytest.mark.parametrize("method", [Scan(unroll=2), Scan(remat_every=2)], ids=repr)
def test_options_of_scan_change_nothing(method, monkeypatch):
    monkeypatch.setitem(WAYS, "scan", by_method(method))
    monkeypatch.delitem(WAYS, "auto")
    check(CELLS["stack_of_wrapped"], lengths=LENGTHS, resets=RESETS, reverse=True)


@pytest.mark.parametrize("options", [{}, {"lengths": LENGTHS}, {"resets": RESETS}, {"reverse": True}], ids=str)
def test_each_option_by_itself_means_the_same_in_every_way_to_unroll(options):
    check(CELLS["learned"], **options)
