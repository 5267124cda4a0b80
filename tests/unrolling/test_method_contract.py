"""A method of one's own: what it is given, what is asked of it, and what is said where it cannot serve."""

import dataclasses

import jax.numpy as jnp
import pytest
from cells_under_test import H, I, LeakySum, close, inputs, parameters

from rnnjax import GRU, LSTM, Method, Scan, Stack, choose_method, unroll, unroll_states

B, T = 4, 5
STACK = Stack((GRU(H), LSTM(H)))


@dataclasses.dataclass(frozen=True)
class GatedOnly(Method):
    """A way to unroll, as a user writes one: it says what it does not run."""

    def why_not(self, recurrence):
        return None if hasattr(recurrence.state, "h") else "GatedOnly needs a state with h; use Scan()"

    def run(self, recurrence):
        return Scan().run(recurrence)


@dataclasses.dataclass(frozen=True)
class TopReadsZeros(Method):
    """A way to take whole cells that no recurrence by itself could be: the top layer reads nothing of the one below."""

    def over(self, sequence):
        top, below = sequence.cell.cells[-1], sequence._replace(cell=Stack(sequence.cell.cells[:-1]))
        ys, states = Scan().over(below._replace(params=below.params[:-1], state=below.state[:-1]))
        last = sequence._replace(cell=top, params=sequence.params[-1], xs=0 * ys, state=sequence.state[-1])
        ys, state = Scan().over(last)
        return ys, (*states, state)


def test_what_a_method_cannot_run_is_refused_in_its_own_words():
    gated, plain = STACK, Stack((GRU(H), LeakySum(H)))
    params, xs = parameters(gated), inputs(B, T, I)
    close(unroll(gated, params, xs, method=GatedOnly()), unroll(gated, params, xs))
    with pytest.raises(ValueError, match=r"^GatedOnly needs a state with h; use Scan"):
        unroll(plain, parameters(plain), xs, method=GatedOnly())


def test_a_method_for_whole_cells_is_given_the_whole_cell():
    params, xs = parameters(STACK), inputs(B, T, I)
    _, (first, second) = unroll(STACK, params, xs, method=TopReadsZeros())
    _, (expected, _) = unroll(STACK, params, xs)
    close(first, expected)
    close(second, unroll(LSTM(H), params[1], jnp.zeros((B, T, H)))[1])


def test_a_method_that_defines_nothing_says_what_is_missing():
    class Nothing(Method):
        pass

    with pytest.raises(NotImplementedError, match="Nothing must define run, or over if it unrolls whole cells"):
        unroll(GRU(H), parameters(GRU(H)), inputs(B, T, I), method=Nothing())


def test_states_of_all_steps_are_asked_only_of_methods_that_keep_them():
    with pytest.raises(ValueError, match=r"returns all states, such as Scan\(\), got GatedOnly\(\)"):
        unroll_states(GRU(H), parameters(GRU(H)), inputs(B, T, I), method=GatedOnly())


def test_what_has_the_shape_of_a_method_but_is_none_is_refused():
    class Duck:
        def run(self, recurrence):
            return Scan().run(recurrence)

    with pytest.raises(TypeError, match="method must be an unrolling method such as Scan"):
        unroll(GRU(H), parameters(GRU(H)), inputs(B, T, I), method=Duck())


def test_the_method_that_is_chosen_can_be_asked_for_by_name():
    params, xs = parameters(STACK), inputs(B, T, I)
    close(unroll(STACK, params, xs), unroll(STACK, params, xs, method=choose_method(STACK, (T, B, I))))


def test_an_attribute_that_would_not_tell_methods_apart_is_refused():
    class Times(Scan):
        def __init__(self, factor):
            super().__init__()
            self.factor = factor

    with pytest.raises(TypeError, match=r"^objects of Times that differ in factor alone are equal, "):
        Times(2.0)
