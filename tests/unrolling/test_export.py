"""A cell's unrolling is exported once for any batch and any length, and read back from bytes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cells_under_test import CELLS, I, close, inputs, parameters
from fixtures.thorough import main_of

from rnnjax import Associative, Newton, Scan, Static, unroll

# Of every kind of cell and of wrapper one: without a key, others of a kind are the same program.
MAIN = ("rnn", "lstm_with_everything", "own_gated", "wrapped_stack", "lru")
EXPORTED = (
    "rnn",
    "lstm_with_everything",
    "gru_before",
    "own",
    "own_gated",
    "variational_zoneout",
    "stack_of_weight_drop",
    "stack_of_stacks",
    "wrapped_stack",
    "lru",
)


@pytest.mark.parametrize("name", main_of(EXPORTED, MAIN))
def test_an_exported_cell_takes_any_batch_and_length_once_read_back(name):
    cell = CELLS[name]
    params = parameters(cell)

    def run(params, xs, lengths, resets):
        return unroll(cell, params, xs, lengths=lengths, resets=resets)

    B, T = jax.export.symbolic_shape("B, T")
    like = [((B, T, I), jnp.float32), ((B,), jnp.int32), ((B, T), bool)]
    shapes = [jax.ShapeDtypeStruct(shape, dtype) for shape, dtype in like]
    exported = jax.export.export(jax.jit(lambda *given: jax.tree.leaves(run(params, *given))))(*shapes)
    read = jax.export.deserialize(exported.serialize())
    for batch, length in ((3, 4), (2, 7)) if name == EXPORTED[0] else ((3, 4),):
        lengths = np.array([length, 0, 2][:batch], np.int32)
        resets = np.zeros((batch, length), bool)
        resets[0, 2] = True
        given = inputs(batch, length, I), lengths, resets
        close(read.call(*given), jax.tree.leaves(run(params, *given)))


@pytest.mark.parametrize("method", [Associative(), Newton()], ids=lambda method: type(method).__name__)
def test_gradients_of_a_linear_cell_are_exported_for_any_batch_and_length(method):
    cell = CELLS["lru"]
    params = parameters(cell)

    def gradients(xs):
        return jax.grad(lambda params, xs: unroll(cell, params, xs, method=method)[0].sum(), (0, 1))(params, xs)

    B, T = jax.export.symbolic_shape("B, T")
    like = jax.ShapeDtypeStruct((B, T, I), jnp.float32)
    exported = jax.export.export(jax.jit(lambda xs: jax.tree.leaves(gradients(xs))))(like)
    given = inputs(2, 5, I)
    close(exported.call(given), jax.tree.leaves(gradients(given)))


@pytest.mark.parametrize(
    ("method", "sentence"),
    [
        (
            Static(),
            r"Static\(\) makes a program of a number of steps that is known, got T; use Scan\(\)",
        ),
        (Scan(remat_every=2), "remat_every=2 takes a number of steps that is known, got T; leave it out"),
        (Associative(remat_every=2), "remat_every=2 takes a number of steps that is known, got T; leave it out"),
        (
            Associative("associative"),
            r"a tree of a number of steps that is known, got T; use Associative\(.scan",
        ),
    ],
    ids=repr,
)
def test_what_needs_to_know_the_length_says_so(method, sentence):
    params = parameters(CELLS["lru"])
    (T,) = jax.export.symbolic_shape("T")
    with pytest.raises(ValueError, match=sentence):
        jax.eval_shape(
            lambda xs: unroll(CELLS["lru"], params, xs, method=method), jax.ShapeDtypeStruct((2, T, I), jnp.float32)
        )
