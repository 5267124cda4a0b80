"""Examples of the problems against plain Python that reads their inputs, and what is published about them."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rnnjax.data.problems import (
    PROBLEMS,
    Adding,
    AssociativeRecall,
    Copy,
    CycleNavigation,
    ModularArithmetic,
    Parity,
    SelectiveCopy,
    SwapWordProblem,
    WordProblem,
)

STEPS = 40
PERMUTATIONS = list(itertools.permutations(range(5)))


def parity(bits, n):
    return {n - 1: bits[:n].count(1) % 2}


def cycle(moves, n):
    place = 0
    for move in moves[:n]:
        place = (place + {0: -1, 1: 0, 2: 1}[move]) % 5
    return {n - 1: place}


def arithmetic(symbols, n):
    n -= n % 2 == 0
    return {n - 1: eval("".join("01234+-*"[symbol] for symbol in symbols[:n])) % 5}


def word(elements, n):
    things, answers = list(range(5)), {}
    for step, element in enumerate(elements[:n]):
        things = [PERMUTATIONS[element][thing] for thing in things]
        answers[step] = PERMUTATIONS.index(tuple(things))
    return answers


def swaps(symbols, n):
    things, answers = list(range(5)), {}
    for step, symbol in enumerate(symbols[:n]):
        swapped = {symbol: symbol + 1, symbol + 1: symbol}
        things = [swapped.get(thing, thing) for thing in things]
        answers[step] = PERMUTATIONS.index(tuple(things))
    return answers


def adding(inputs, n):
    marked = [step for step, (_, mark) in enumerate(inputs) if mark]
    assert len(marked) == 2
    assert marked[0] < n // 2 <= marked[1] < n
    return {n - 1: sum(inputs[step][0] for step in marked)}


def copy(symbols, n):
    assert symbols[3 : n + 2] == [8] * (n - 1)
    assert symbols[n + 2] == 9
    assert symbols[n + 3 : n + 6] == [8] * 3
    assert max(symbols[:3]) < 8
    return dict(enumerate(symbols[:3], n + 3))


def selective(symbols, n):
    items = [symbol for symbol in symbols[:n] if symbol]
    assert len(items) == 4
    assert max(items) < 15
    assert symbols[n : n + 4] == [15] * 4
    return dict(enumerate(items, n))


def recall(symbols, n):
    pairs = dict(zip(symbols[:6:2], symbols[1:6:2]))
    assert len(pairs) == len(set(pairs.values())) == 3
    assert 1 <= min(pairs) <= max(pairs) < 20 <= min(pairs.values()) <= max(pairs.values()) < 40
    return pairs


CASES = {
    "parity": (Parity(), parity),
    "cycle": (CycleNavigation(), cycle),
    "arithmetic": (ModularArithmetic(), arithmetic),
    "word": (WordProblem(), word),
    "swaps": (SwapWordProblem(), swaps),
    "adding": (Adding(), adding),
    "copy": (Copy(memory=3), copy),
    "selective": (SelectiveCopy(memory=4), selective),
    "recall": (AssociativeRecall(memory=3, alphabet=40), recall),
}


@functools.cache
def drawing(problem):
    return jax.jit(lambda seed, length: problem.example(jax.random.key(seed), length, STEPS))


@pytest.mark.parametrize(("problem", "oracle"), CASES.values(), ids=CASES)
@given(seed=st.integers(0, 2**31 - 1), share=st.floats(0, 1))
@settings(max_examples=25, deadline=None, derandomize=True)
def test_answers_are_what_plain_python_makes_of_the_inputs(problem, oracle, seed, share):
    longest = STEPS - (problem.steps(1) - 1)
    length = problem.shortest + round(share * (longest - problem.shortest))
    example = jax.tree.map(np.asarray, drawing(problem)(seed, length))
    scored = np.flatnonzero(example.scored)
    answers = oracle(example.inputs.tolist(), length)
    if problem == CASES["recall"][0]:
        # Every key is asked for once, an even number of steps after the pairs, and before the end.
        asked = example.inputs[scored].tolist()
        assert sorted(asked) == sorted(answers)
        assert not (scored % 2).any()
        assert 6 <= scored[0] <= scored[-1] < length
        answers = dict(zip(scored.tolist(), (answers[key] for key in asked)))
    assert scored.tolist() == sorted(answers)
    np.testing.assert_allclose(example.targets[scored], [answers[step] for step in scored.tolist()], rtol=1e-6)
    counted = np.arange(STEPS) < problem.steps(length) if isinstance(problem, Copy) else example.scored
    np.testing.assert_array_equal(example.counted, counted)
    silent = example.counted & ~example.scored
    assert set(example.targets[silent].tolist()) <= {8}  # in copy, where silence is the answer, too


def many(problem, length, count=2000):
    keys = jax.random.split(jax.random.key(1), count)
    examples = jax.jit(jax.vmap(lambda key: problem.example(key, length, problem.steps(length))))(keys)
    return jax.tree.map(np.asarray, examples)


def test_who_always_adds_up_to_one_has_the_published_loss():
    examples = many(Adding(), 6)
    errors = np.square(1 - examples.targets[examples.scored])
    assert errors.mean() == pytest.approx(Adding().baseline(6), rel=0.05)


def test_who_remembers_nothing_of_what_is_copied_has_the_published_loss():
    assert Copy().baseline(100) == pytest.approx(10 * np.log(8) / 120)
    problem = Copy(memory=2, alphabet=4)
    (targets,), (counted,), (scored,) = (field[:1] for field in many(problem, 3, 1)[1:])
    told = np.where(scored[:, None], [0.25, 0.25, 0.25, 0.25, 0], [0, 0, 0, 0, 1.0])
    losses = -np.log(told[np.arange(len(targets)), targets])
    assert losses[counted].mean() == pytest.approx(problem.baseline(3))


def test_keys_are_asked_for_soon_unless_the_power_is_one():
    def mean_gap(power):
        scored = many(AssociativeRecall(1, 8, power), 42).scored
        return (scored.argmax(1) // 2 - 1).mean()

    gaps = np.arange(20)
    law = (gaps + 1.0) ** -0.99
    assert mean_gap(0.01) == pytest.approx((gaps * law).sum() / law.sum(), rel=0.08)
    assert mean_gap(1.0) == pytest.approx(9.5, rel=0.08)


def test_every_pair_of_keys_is_as_frequent():
    keys = many(AssociativeRecall(2, 8), 8, 1200).inputs[:, [0, 2]]
    pairs, counts = np.unique(keys, axis=0, return_counts=True)
    assert len(pairs) == 6  # of three keys, in either order
    assert counts.min() > 150


@pytest.mark.parametrize("name", PROBLEMS)
def test_symbols_and_answers_are_as_many_as_published(name):
    problem = PROBLEMS[name]()
    expected = {"adding": (0, 0), "copy": (10, 9), "parity": (2, 2), "modular_arithmetic": (8, 5), "s5": (120, 120)}
    expected |= {"s5_swaps": (4, 120)}
    expected |= {"cycle_navigation": (3, 5), "mqar": (8192, 8192), "selective_copy": (16, 16)}
    assert problem.alphabets == expected[name]
    example = jax.eval_shape(lambda: problem.example(jax.random.key(0), 64, problem.steps(64)))
    assert example.inputs.dtype == (jnp.float32 if name == "adding" else jnp.int32)
