"""`check_cell` finds cells that break their contract, and passes those that keep it."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest
from cells_under_test import H, I, LeakySum, UpdateGateRNN
from fixtures.thorough import once_more

from rnnjax import GRU, Associative, Fused, LearnedState, LinearCell, MinGRU, Project, Stack, Static, check_cell


@dataclasses.dataclass(frozen=True)
class LooksAhead(LinearCell):
    """Its coefficients are sums over the first axis: time, or in a single step the sequences."""

    def coefficients(self, params, zs):
        return jax.nn.sigmoid(jnp.cumsum(zs[..., 0, :], 0)), zs[..., 0, :]


class MixesTheBatch(LeakySum):
    """Its step subtracts the mean of all sequences."""

    def step(self, params, state, z):
        state, y = super().step(params, state, z - z.mean(0, keepdims=True))
        return state, y


class ReadsTheStepBefore(LeakySum):
    """Its inputs are those of the step before."""

    def inputs(self, params, xs, *, key=None):
        return jnp.concatenate([jnp.zeros_like(xs[:1]), xs[:-1]])


class ReadsADirection(UpdateGateRNN):
    """Its projected inputs have length 1, which those of zeros cannot have without a bias."""

    def gate_inputs(self, params, zs):
        return zs / jnp.maximum(jnp.linalg.norm(zs, axis=-1, keepdims=True), 1e-6)


class CentresItsSums(UpdateGateRNN):
    """Its gates subtract a mean over hidden units, and it does not say `pointwise = False`."""

    def gates(self, params, state, z, r):
        return super().gates(params, state, z - z.mean(-1, keepdims=True), r)


class FixedBias(UpdateGateRNN):
    """Its bias is not to be learnt, which a method that adds it elsewhere must respect."""

    def gate_inputs(self, params, zs):
        return zs + jax.lax.stop_gradient(params.b)


@pytest.mark.parametrize(
    ("cell", "served"),
    [
        (FixedBias(H), {Static(), Fused()}),
        once_more(MinGRU(H), {Static(), Associative("scan"), Associative("associative")}),
        once_more(LeakySum(I), {Static()}),
        once_more(Stack((Project(GRU(H), 2), LearnedState(UpdateGateRNN(2)))), {Static(), Fused()}),
    ],
    ids=["gated", "linear", "any", "stack"],
)
def test_a_cell_that_keeps_its_contract_passes_with_the_methods_that_serve_it(cell, served):
    assert served <= set(check_cell(cell, I))


@pytest.mark.parametrize(
    ("cell", "sentence"),
    [
        (LooksAhead(H), "LooksAhead gives other outputs by each sequence by itself than by Scan"),
        (MixesTheBatch(I), "MixesTheBatch gives other outputs by each sequence by itself than by Scan"),
        (ReadsTheStepBefore(I), "ReadsTheStepBefore gives other outputs by one step after another than by Scan"),
        (CentresItsSums(H), "the gates of CentresItsSums give .* another state than among all: set pointwise = False"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_cell_that_breaks_it_is_refused_by_what_differs(cell, sentence):
    with pytest.raises(ValueError, match=sentence):
        check_cell(cell, I)


def test_gradients_that_padding_makes_nan_are_refused_with_the_reason():
    with pytest.raises(ValueError, match=r"gradients that are not finite.*with lengths and resets: inputs of missing"):
        check_cell(ReadsADirection(H, use_bias=False), I)


def test_a_tolerance_of_zero_is_not_the_default():
    with pytest.raises(ValueError, match="of the largest number apart"):
        check_cell(GRU(H), I, tolerance=0.0)
