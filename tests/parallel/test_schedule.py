"""The schedule of a pipeline, against closed forms and against trying everything."""

import itertools
import math

import jax
import jax.numpy as jnp
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rnnjax.parallel.operation_count import count_multiplications
from rnnjax.parallel.schedule import ChunkCost, balanced, best_chunk, pipeline_seconds

SECONDS = st.floats(1e-6, 1e3)


@given(st.integers(1, 300), st.integers(1, 16), SECONDS, SECONDS)
def test_no_chunk_is_faster_than_the_best(length, devices, fixed, step):
    cost = ChunkCost(fixed, step)
    best = pipeline_seconds(length, best_chunk(length, devices, cost), devices, cost)
    assert best == min(pipeline_seconds(length, chunk, devices, cost) for chunk in range(1, length + 1))


def test_the_best_chunk_is_near_the_formula():
    length, devices, cost = 10_000, 8, ChunkCost(3.0, 2.0)
    chunks = math.sqrt((devices - 1) * length * cost.step / cost.fixed)
    assert best_chunk(length, devices, cost) == pytest.approx(length / chunks, rel=0.1)


def test_one_device_takes_the_whole_sequence_at_once():
    assert best_chunk(50, 1) == 50


@given(st.lists(st.integers(0, 9), min_size=1, max_size=7), st.integers(1, 7))
def test_neighbouring_costs_are_shared_out_evenly(costs, parts):
    if len(costs) < parts:
        with pytest.raises(ValueError, match="cannot be put into"):
            balanced(tuple(costs), parts)
        return
    found = balanced(tuple(costs), parts)
    assert [index for part in found for index in range(len(costs))[part]] == [*range(len(costs))]
    cuts = [(0, *cut, len(costs)) for cut in itertools.combinations(range(1, len(costs)), parts - 1)]
    least = min(max(sum(costs[a:b]) for a, b in itertools.pairwise(cut)) for cut in cuts)
    assert max(sum(costs[part]) for part in found) == least
    assert all(part.stop > part.start for part in found)


def test_the_work_of_a_program_is_that_of_its_products():
    def program(xs, w):
        return jax.lax.scan(lambda h, x: (jnp.tanh(x @ w + h), None), xs[0] @ w, xs)[0]

    traced = jax.make_jaxpr(jax.jit(program))(jnp.ones((5, 2, 3)), jnp.ones((3, 3)))
    assert count_multiplications(traced.jaxpr) == (1 + 5) * 2 * 3 * 3


def test_what_is_no_schedule_is_refused():
    with pytest.raises(ValueError, match="length must be at least 1, got 0"):
        best_chunk(0, 2)
