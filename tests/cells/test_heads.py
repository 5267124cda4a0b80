"""Heads are cells side by side: the same values and gradients, whatever unrolls them."""

import dataclasses
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cells_under_test import UpdateGateRNN, close, inputs, parameters, some_state
from fixtures.thorough import main_of

from rnnjax import (
    GRU,
    LSTM,
    BasicRNN,
    CuDNN,
    Dropout,
    Fused,
    Heads,
    Scan,
    Static,
    bidirectional,
    unroll,
)
from rnnjax.interop import from_torch

N, K, I, B, T = 3, 2, 4, 3, 3
H = N * K
LENGTHS = np.array([3, 0, 2])
RESETS = np.array([[0, 1, 0], [1, 1, 1], [0, 1, 0]], bool)
KINDS = {
    "rnn": BasicRNN,
    "lstm": functools.partial(LSTM, peephole=True, coupled_gates=True, cell_clip=0.6),
    "gru": GRU,
    "own": UpdateGateRNN,
}
METHODS = {name: [Fused()] for name in KINDS} | {"lstm": [Static(), Scan(), Fused()]}


def head(tree, k):
    """Returns one head's part of parameters or of a state: its units, and its block of the recurrent weight."""
    parts = jax.tree.map(lambda leaf: leaf[..., k * K : (k + 1) * K], tree)
    return parts._replace(w_h=tree.w_h[k]) if hasattr(tree, "w_h") else parts


def side_by_side(kind, params, xs, state, **options):
    """Unrolls each head as a cell by itself, all of them as a batch of cells."""
    heads = [(head(params, k), head(state, k)) for k in range(N)]
    run = lambda params, state: unroll(kind(K), params, xs, state, method=Scan(), **options)  # noqa: E731
    found = jax.vmap(run)(*jax.tree.map(lambda *leaves: jnp.stack(leaves), *heads))
    return jax.tree.map(lambda leaf: jnp.concatenate([*leaf], -1), found)


def weighed(outputs):
    ys, last = outputs
    loss = (jnp.cos(jnp.arange(ys.size)).reshape(ys.shape) * ys).sum()
    return loss + sum(jnp.sin(leaf).sum() for leaf in jax.tree.leaves(last)), outputs


def found_by(run, arguments):
    """Returns outputs, final state, and the gradients of a loss on both."""
    return jax.value_and_grad(lambda *given: weighed(run(*given)), argnums=(0, 1, 2), has_aux=True)(*arguments)


@pytest.mark.parametrize("name", main_of(KINDS, ("lstm",)))
def test_heads_are_cells_side_by_side_by_every_method(name):
    kind = KINDS[name]
    cell, options = Heads(kind(H), N), {"lengths": LENGTHS, "resets": RESETS, "reverse": True}
    with jax.enable_x64(True):
        arguments = parameters(cell, I, float), inputs(B, T, I, dtype=float), some_state(cell, B, dtype=float)
        runs = {str(method): functools.partial(unroll, cell, method=method, **options) for method in METHODS[name]}
        runs["side by side"] = functools.partial(side_by_side, kind, **options)
        found = jax.jit(lambda *given: {name: found_by(run, given) for name, run in runs.items()})(*arguments)
    expected = found.pop("side by side")
    assert all(np.any(np.asarray(leaf) != 0) for leaf in jax.tree.leaves(expected))
    for got in found.values():
        close(got, expected, rtol=1e-9, atol=1e-10)


def test_both_directions_of_a_layer_may_have_heads():
    cell = Heads(GRU(H), N)
    params = parameters(cell, I), jax.tree.map(jnp.negative, parameters(cell, I))
    xs = inputs(B, T, I)
    ys, last = bidirectional(cell, cell, params, xs, lengths=LENGTHS)
    ways = [unroll(cell, given, xs, lengths=LENGTHS, reverse=reverse) for given, reverse in zip(params, (False, True))]
    close((ys, last), (jnp.concatenate([ys for ys, _ in ways], -1), tuple(state for _, state in ways)))


@pytest.mark.promotes_types
@pytest.mark.parametrize("method", [Scan(), Fused()], ids=str)
def test_in_bfloat16_outputs_are_bfloat16_and_the_state_float32(method):
    cell = Heads(LSTM(H), N)
    params, xs = jax.tree.map(lambda leaf: leaf / 4, parameters(cell, I)), inputs(B, T, I)
    ys, last = unroll(cell, params, xs.astype(jnp.bfloat16), method=method)
    assert (ys.dtype, last.h.dtype, last.c.dtype) == (jnp.bfloat16, jnp.float32, jnp.float32)
    close(ys.astype(jnp.float32), unroll(cell, params, xs)[0], rtol=0.05, atol=0.005)


def test_each_head_is_initialised_as_a_cell_by_itself():
    params = Heads(LSTM(64, kernel_init="glorot_uniform"), 4).init(jax.random.key(0), I)
    assert jax.tree.map(np.shape, params)[:3] == ((I, 4, 64), (4, 16, 4, 16), (4, 64))
    matrices = np.moveaxis(np.asarray(params.w_h), 2, 1).reshape(16, 16, 16)
    np.testing.assert_allclose(matrices @ matrices.swapaxes(1, 2), np.tile(np.eye(16), (16, 1, 1)), atol=1e-5)
    assert len({matrix.tobytes() for matrix in matrices}) == 16
    bound = np.sqrt(6 / (I + 16))
    assert 0.95 * bound < np.abs(params.w_x).max() <= bound
    np.testing.assert_array_equal(params.b[1], 1.0)  # the forget gate's


@dataclasses.dataclass(frozen=True)
class Tempered(UpdateGateRNN):
    """A user's own cell with a parameter that all units share."""

    def init(self, key, input_size):
        return TemperedParams(*super().init(key, input_size), jnp.full((1,), 0.5))

    def gates(self, params, state, z, r):
        return super().gates(params, state, params.warmth * z, r)


class TemperedParams(NamedTuple):
    w_x: jax.Array
    w_h: jax.Array
    b: jax.Array
    warmth: jax.Array


def test_a_parameter_for_all_units_is_one_for_all_heads():
    cell = Heads(Tempered(H), N)
    params = parameters(cell, I)
    assert params.warmth.shape == (1,)
    assert unroll(cell, params, inputs(B, T, I))[0].shape == (B, T, H)


@dataclasses.dataclass(frozen=True)
class Scaled(UpdateGateRNN):
    """A user's own cell whose recurrent weight is computed."""

    def recurrent_weight(self, params):
        return 0.5 * params.w_h


@pytest.mark.parametrize(
    ("make", "error", "sentence"),
    [
        (lambda: Heads(LSTM(10), 3), ValueError, "number of heads must divide hidden_size=10, got n=3"),
        (lambda: Heads(LSTM(10), 0), ValueError, "n must be at least 1, got 0"),
        (lambda: Heads(LSTM(10), 2.0), TypeError, "n must be a whole number, got 2.0"),
        (lambda: Heads(Dropout(LSTM(10)), 2), TypeError, "divides the hidden units of a gated cell, .* got Dropout"),
        (lambda: Heads(LSTM(10, projection_size=4), 2), ValueError, "gates of LSTM.* mix them; take a cell whose"),
        (lambda: Heads(LSTM(10, layer_norm=True), 2), ValueError, "gates of LSTM.* mix them"),
        (lambda: Heads(GRU(10, reset="before"), 2), ValueError, "gates of GRU.* mix them"),
        (lambda: Heads(Scaled(10), 2).init(jax.random.key(0), I), TypeError, "must be the recurrent weight as it is"),
        (
            lambda: from_torch(Heads(LSTM(H), N), {"weight_ih_l0": np.ones((24, 4))}),
            ValueError,
            "PyTorch has no counterpart of Heads",
        ),
    ],
    ids=range(9),
)
def test_what_has_no_heads_is_refused_in_a_sentence(make, error, sentence):
    with pytest.raises(error, match=sentence):
        make()


def test_cudnn_which_has_no_heads_says_so():
    cell = Heads(LSTM(H), N)
    with pytest.raises(ValueError, match="cuDNN runs the plain LSTM only, got one in 3 heads; use Fused"):
        unroll(cell, parameters(cell, I), inputs(B, T, I), method=CuDNN())


def test_a_weight_without_blocks_does_not_fit():
    with pytest.raises(ValueError, match=r"params must have the shapes .*w_h=\[3, 2, 3, 2\].* got .*w_h=\[6, 3, 6\]"):
        unroll(Heads(GRU(H), N), parameters(GRU(H), I), inputs(B, T, I))
