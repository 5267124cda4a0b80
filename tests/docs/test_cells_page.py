"""The page of cells names every cell, and says what is true of it."""

import inspect
import math
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

import rnnjax
from rnnjax.parallel.operation_count import count_multiplications
from rnnjax.parallel.time import TimeSplit
from rnnjax.unrolling.auto import recurrences_in

I, H = 7, 5
PAGE = Path(__file__).parents[2] / "docs" / "cells.md"
ROWS = {
    row[0].strip("` "): [cell.strip() for cell in row[1:]]
    for row in (line.strip("|").split("|") for line in PAGE.read_text().splitlines() if line.startswith("| `"))
}
KINDS = {
    "gated": rnnjax.GatedCell,
    "diagonal": rnnjax.DiagonalCell,
    "linear": rnnjax.LinearCell,
    "memory": rnnjax.MemoryCell,
}
METHODS = {
    "Static": rnnjax.Static(),
    "Scan": rnnjax.Scan(),
    "Fused": rnnjax.Fused(),
    "Associative": rnnjax.Associative(),
    "Chunkwise": rnnjax.Chunkwise(),
    "TimeSplit": TimeSplit(),
    "Newton": rnnjax.Newton(),
}
ON_A_GPU = {"Pallas", "CuDNN"}  # they ask for one before they ask for a cell


def made(name):
    cell = getattr(rnnjax, name)(H)
    inputs = H if name == "RGLRU" else I
    return cell, jax.eval_shape(lambda key: cell.init(key, inputs), jax.random.key(0)), inputs


def sum_of(text):
    """Returns what a sum of products such as ``4*I*H + H`` is."""
    values = {"I": I, "H": H, "n": 1}
    products = (product.split("*") for product in text.split(" + "))
    return sum(math.prod(values.get(factor) or int(factor) for factor in product) for product in products)


def test_every_cell_has_a_row():
    cells = [getattr(rnnjax, name) for name in rnnjax.__all__]
    kinds = tuple(KINDS.values())
    concrete = {c.__name__ for c in cells if inspect.isclass(c) and issubclass(c, kinds) and c not in kinds}
    assert set(ROWS) == concrete - {"JointBasicRNN"}


@pytest.mark.parametrize("name", ROWS)
def test_a_row_says_what_is_true_of_its_cell(name):
    _, kind, served, before, within, after = ROWS[name]
    cell, params, inputs = made(name)
    assert isinstance(cell, KINDS[kind])
    xs = jax.ShapeDtypeStruct((2, 4, inputs), jnp.float32)
    (recurrence,) = recurrences_in(lambda params, xs: rnnjax.unroll(cell, params, xs), params, xs)
    named = set(re.findall(r"`(\w+)`", served))
    serving = {method for method, made in METHODS.items() if made.why_not(recurrence) is None}
    assert named - ON_A_GPU == serving - ({"Newton"} if kind == "linear" else set())

    def one(cell_part, *arguments):
        return count_multiplications(jax.make_jaxpr(cell_part)(*arguments).jaxpr)

    x = jnp.zeros((1, 1, inputs))
    zs = jax.eval_shape(cell.inputs, params, x)
    state, z = cell.initial_state(1), jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), zs)
    y = jax.eval_shape(cell.step, params, state, z)[1]
    counted = one(cell.inputs, params, x), one(cell.step, params, state, z), one(cell.outputs, params, y)
    assert counted == tuple(sum_of(text) for text in (before, within, after))
