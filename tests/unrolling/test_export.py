"""A cell's unrolling is exported once for any batch and any length, and read back from bytes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cells_under_test import CELLS, I, close, inputs, parameters

from rnnjax import unroll


@pytest.mark.parametrize("cell", CELLS.values(), ids=CELLS)
def test_an_exported_cell_takes_any_batch_and_length_once_read_back(cell, symbolic_sizes):
    params = parameters(cell)

    def run(params, xs, lengths, resets):
        return unroll(cell, params, xs, lengths=lengths, resets=resets)

    B, T = jax.export.symbolic_shape("B, T")
    like = [((B, T, I), jnp.float32), ((B,), jnp.int32), ((B, T), bool)]
    shapes = [jax.ShapeDtypeStruct(shape, dtype) for shape, dtype in like]
    exported = jax.export.export(jax.jit(lambda *given: jax.tree.leaves(run(params, *given))))(*shapes)
    read = jax.export.deserialize(exported.serialize())
    for batch, length in ((3, 4), (2, 7)):
        lengths = np.array([length, 0, 2][:batch], np.int32)
        resets = np.zeros((batch, length), bool)
        resets[0, 2] = True
        given = inputs(batch, length, I), lengths, resets
        close(read.call(*given), jax.tree.leaves(run(params, *given)))
