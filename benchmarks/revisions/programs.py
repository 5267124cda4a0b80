"""Writes the programs of `unroll` to a file: ``python benchmarks/revisions/programs.py FILE SHAPE...``.

`benchmarks.revisions` has each revision of the library do so. Only names are used that all of them have.
"""

from __future__ import annotations

import itertools
import pickle
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax import export

import rnnjax

CELLS = ("BasicRNN", "LSTM", "GRU")
METHODS = {"fused": rnnjax.Fused(), "scan": rnnjax.Scan(), "scan(4)": rnnjax.Scan(unroll=4)}
DIRECTIONS = ("forward", "forward+backward")


def programs(shape: tuple[int, ...]) -> dict[tuple[str, ...], bytes]:
    """Returns serialised programs by cell, shape, method and direction.

    Their arguments are the parameters, then the inputs ``[B, T, I]``.
    """
    found = {}
    for name, method, direction in itertools.product(CELLS, METHODS, DIRECTIONS):
        function, arguments = program(name, shape, method, direction)
        key = (name, ",".join(map(str, shape)), method, direction)
        found[key] = bytes(export.export(jax.jit(function))(*arguments).serialize())
    return found


def program(
    name: str, shape: tuple[int, ...], method: str, direction: str
) -> tuple[Callable[..., Any], list[jax.ShapeDtypeStruct]]:
    """Returns a function of arrays alone, since programs of one revision do not know the classes of another.

    Args:
      name: of the cell's class.
      shape: ``(T, B, I, H)``.
      method: one of `METHODS`.
      direction: one of `DIRECTIONS`; the loss is the mean of the squared outputs.
    """
    length, batch, features, hidden = shape
    cell = getattr(rnnjax, name)(hidden)
    leaves, tree = jax.tree.flatten(jax.eval_shape(lambda key: cell.init(key, features), jax.random.key(0)))

    def forward(params, xs):
        return rnnjax.unroll(cell, params, xs, method=METHODS[method])

    def both(params, xs):
        return jax.value_and_grad(lambda params: jnp.mean(forward(params, xs)[0] ** 2))(params)

    def function(*arrays):
        *leaves, xs = arrays
        run = forward if direction == "forward" else both
        return jax.tree.leaves(run(jax.tree.unflatten(tree, leaves), xs))

    return function, [*leaves, jax.ShapeDtypeStruct((batch, length, features), jnp.float32)]


if __name__ == "__main__":
    out, *shapes = sys.argv[1:]
    jax.config.update("jax_traceback_in_locations_limit", 0)  # lines of the source would make equal programs differ
    sizes = [tuple(map(int, shape.split(","))) for shape in shapes]
    Path(out).write_bytes(pickle.dumps({key: value for shape in sizes for key, value in programs(shape).items()}))
