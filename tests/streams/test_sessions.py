"""Sessions of different ages, stepped together, are what each would be alone."""

import re
from collections.abc import Callable

import flax.linen
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rnnjax
from rnnjax import GRU, LRU, LSTM, Dropout, HiddenState, LearnedState, Project, Sessions, Stack
from rnnjax.models.language_model import LanguageModel
from rnnjax.models.next_item import NextItem
from rnnjax.nn import RNN, Bidirectional

I = 3


def made(cell):
    params = cell.init(jax.random.key(0), I)
    leaves, structure = jax.tree.flatten(params)
    random = np.random.default_rng(1)
    return structure.unflatten([leaf + 0.3 * random.normal(size=leaf.shape).astype("float32") for leaf in leaves])


def interleaved(sessions, length, draw, *, turns, seed=0):
    """Opens, steps and closes sessions at random; returns what each was given and what it answered."""
    random, ended, alive, count = np.random.default_rng(seed), [], {}, 0
    for _ in range(turns):
        if alive and random.random() < 0.25:
            name = random.choice(list(alive))
            sessions.close(name)
            ended.append(alive.pop(name))
        while len(alive) < length and random.random() < 0.6:
            name = sessions.open(f"session {count}")
            alive[name], count = ([], []), count + 1
        stepping = [name for name in alive if random.random() < 0.5]
        inputs = {name: draw(random) for name in random.permutation(stepping)}
        for name, y in sessions.step(inputs).items():
            alive[name][0].append(inputs[name])
            alive[name][1].append(y)
    return [each for each in [*ended, *alive.values()] if each[0]]


def test_sessions_that_come_and_go_at_random_equal_each_alone():
    # Gates, complex states, an initial state that is learned, and dropout, which is left out here.
    cell = Stack([LearnedState(LSTM(4)), Dropout(GRU(3), input_rate=0.5), Project(LRU(4), 2)])
    params = made(cell)
    sessions = Sessions(cell, params, slots=5)
    told = interleaved(sessions, 5, lambda random: random.normal(size=I).astype("float32"), turns=60)
    assert len(told) > 10
    assert len({len(xs) for xs, _ in told}) > 3
    lengths = [len(xs) for xs, _ in told]
    padded = np.stack([np.pad(np.stack(xs), [(0, max(lengths) - len(xs)), (0, 0)]) for xs, _ in told])
    expected, _ = rnnjax.unroll(cell, params, padded, lengths=lengths)
    for row, (xs, ys) in enumerate(told):
        np.testing.assert_allclose(np.stack(ys), expected[row, : len(xs)], rtol=1e-5, atol=1e-6)


def test_a_model_of_tokens_is_stepped_as_it_reads_whole_texts():
    model = LanguageModel(GRU(4), vocabulary_size=7, embedding_size=3)
    variables = model.init(jax.random.key(0), jnp.zeros((1, 1), jnp.int32))
    sessions = Sessions(model, variables, slots=3)
    told = interleaved(sessions, 3, lambda random: random.integers(7), turns=12)
    longest = max(len(tokens) for tokens, _ in told)
    padded = jnp.array([[*tokens, *[0] * (longest - len(tokens))] for tokens, _ in told])
    expected, _ = jax.jit(lambda v, x: model.apply(v, x, deterministic=True))(variables, padded)
    for row, (tokens, ys) in enumerate(told):
        np.testing.assert_allclose(np.stack(ys), expected[row, : len(tokens)], rtol=1e-4, atol=1e-5)


def test_few_of_many_slots_are_stepped_by_a_narrower_program_and_the_others_hold_their_states():
    cell = GRU(2)
    sessions = Sessions(cell, made(cell), slots=200)
    names = [sessions.open() for _ in range(200)]
    xs = np.random.default_rng(2).normal(size=(200, I)).astype("float32")
    first = np.asarray(sessions.step_batch(names, xs))
    few = [150, 3, 99]
    again = np.asarray(sessions.step_batch([names[each] for each in few], xs[few]))
    two_steps, _ = rnnjax.unroll(cell, made(cell), jnp.stack([xs, xs], 1))
    np.testing.assert_allclose(first, two_steps[:, 0], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(again, two_steps[few, 1], rtol=1e-5, atol=1e-6)
    for each in range(200):
        expected = two_steps[each, 1 if each in few else 0]
        np.testing.assert_allclose(sessions.state(names[each]).h, expected, rtol=1e-5, atol=1e-6)


def test_all_steps_of_few_slots_are_one_program():
    from rnnjax.streams import sessions as module

    cell = GRU(5)
    sessions = Sessions(cell, made(cell), slots=6)
    for name in range(6):
        sessions.open(name)
    before = module._advance._cache_size()
    for count in (1, 6, 3):
        sessions.step({name: np.ones(I, "float32") for name in range(count)})
    assert module._advance._cache_size() == before + 1


X = np.ones(I, "float32")
REFUSED = {
    "full": (lambda s: s.open(), "all 2 slots are taken; close a session, or make Sessions with more slots"),
    "twice open": (lambda s: s.open("a"), "session 'a' is open already; close it first, or take another name"),
    "unknown": (lambda s: s.step({"c": X}), "no session 'c' is open; open('c') begins one"),
    "closed": (lambda s: (s.close("b"), s.step({"b": X})), "no session 'b' is open; open('b') begins one"),
    "closed twice": (lambda s: (s.close("b"), s.close("b")), "no session 'b' is open; open('b') begins one"),
    "named twice": (lambda s: s.step_batch(["a", "a"], [X, X]), "session 'a' is named twice; a step takes one input"),
    "rows": (
        lambda s: s.step_batch(["a"], [X, X]),
        "xs must have one row for each of 1 sessions, one at least, got the shape [2, 3]",
    ),
    "unlike": (
        lambda s: s.step({"a": X, "b": X[:2]}),
        "inputs must have one shape, got [2] of session 'b', [3] of 'a'",
    ),
    "features": (lambda s: s.step({"a": X[:2]}), "xs has 2 features, but the cell was initialised for 3"),
    "features later": (
        lambda s: (s.step({"a": X}), s.step({"a": X[:2]})),
        "an input must have shape [3], got [2]",
    ),
    "axes": (lambda s: s.step({"a": X[None]}), "an input must have shape [I], got [1, 3]"),
    "type": (lambda s: s.step({"a": [1, 2, 3]}), "an input must be floating point, got int32"),
    "text": (lambda s: s.step({"a": "abc"}), "inputs must be arrays of numbers, got 'abc'"),
    "nothing": (lambda s: s.step_batch(["a"], [None]), "inputs must be arrays of numbers, got [None]"),
    "type later": (
        lambda s: (s.step({"a": X}), s.step({"a": X.astype("float16")})),
        "inputs must be of the type float32, as the first were, got float16",
    ),
}


@pytest.mark.parametrize("why", REFUSED)
def test_what_does_not_fit_is_refused_in_one_sentence(why):
    act, message = REFUSED[why]
    sessions = Sessions(GRU(2), GRU(2).init(jax.random.key(0), I), slots=2)
    sessions.open("a")
    sessions.open("b")
    with pytest.raises((ValueError, TypeError), match=re.escape(message)):
        act(sessions)


UNFIT = {
    "no model": (lambda: (object(), {}), "model must be a cell or a Flax Linen module, got object"),
    "attention": (lambda: (rnnjax.Bahdanau(GRU(2), 2), {}), "attends to a memory"),
}


@pytest.mark.parametrize("why", UNFIT)
def test_what_is_no_model_of_steps_is_refused(why):
    make, message = UNFIT[why]
    with pytest.raises((ValueError, TypeError), match=message):
        Sessions(*make(), slots=2)


def first_step(model, x):
    variables = model.init(jax.random.key(0), jnp.stack([x, x])[None])
    sessions = Sessions(model, variables, slots=1)
    sessions.open("a")
    return sessions.step({"a": x})["a"]


def test_a_module_that_reads_several_steps_besides_its_layers_is_refused():
    from rnnjax.models.classifier import SequenceClassifier

    assert first_step(SequenceClassifier(GRU(2), 4), X).shape == (4,)
    with pytest.raises(ValueError, match="gives other outputs step by step than at once"):
        first_step(SequenceClassifier(GRU(2), 4, pooled=True), X)
    with pytest.raises(ValueError, match="Bidirectional reads a sequence from its end"):
        first_step(Bidirectional(GRU(2), GRU(2)), X)


class Before(flax.linen.Module):
    """A layer over what a function makes of whole sequences."""

    function: Callable

    @flax.linen.compact
    def __call__(self, xs):
        return RNN(GRU(2))(self.function(xs))[0]


@pytest.mark.parametrize("function", [lambda xs: xs - xs.mean(1, keepdims=True), lambda xs: jax.lax.cummax(xs, 1)])
def test_a_module_that_reads_several_inputs_is_refused_even_where_equal_ones_would_not_tell(function):
    with pytest.raises(ValueError, match="gives other outputs step by step than at once"):
        first_step(Before(function), X)


def test_that_some_outputs_are_infinite_hides_no_difference():
    class Masked(Before):
        def __call__(self, xs):
            return super().__call__(xs).at[..., 0].set(-jnp.inf)

    with pytest.raises(ValueError, match="gives other outputs step by step than at once"):
        first_step(Masked(lambda xs: jnp.cumsum(xs, 1)), X)


class Begun(flax.linen.Module):
    """Two layers that begin from a learnt state, the second from the last state of the first if `chained`."""

    chained: bool = False

    @flax.linen.compact
    def __call__(self, xs):
        first = self.param("first", jax.nn.initializers.normal(1.0), (1, 2))
        state = HiddenState(jnp.tile(first, (len(xs), 1)))
        ys, last = RNN(GRU(2))(xs, state=state)
        return RNN(GRU(2))(ys, state=last if self.chained else state)[0]


def test_sessions_begin_from_the_states_that_a_module_gives_its_layers():
    xs = jnp.asarray(np.random.default_rng(0).normal(size=(1, 4, I)), jnp.float32)
    variables = Begun().init(jax.random.key(0), xs)
    sessions = Sessions(Begun(), variables, slots=2)
    sessions.open("a")
    got = [sessions.step({"a": x})["a"] for x in xs[0]]
    np.testing.assert_allclose(got, Begun().apply(variables, xs)[0], rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match="gives other outputs step by step than at once"):
        first_step(Begun(chained=True), X)


@pytest.mark.thorough
def test_a_layer_by_itself_and_a_lookup_of_items_are_models():
    assert first_step(RNN(GRU(2)), X).shape == (2,)
    assert first_step(NextItem(GRU(2), 5), np.int32(3)).shape == (5,)


def test_a_slot_that_is_opened_again_has_nothing_of_the_session_before():
    sessions = Sessions(LSTM(2), made(LSTM(2)), slots=1)
    name = sessions.open()
    first = sessions.step({name: X})[name]
    sessions.step({name: np.full(I, np.nan, "float32")})
    sessions.close(name)
    again = sessions.open()
    assert sessions.state(again) is None
    np.testing.assert_array_equal(sessions.step({again: X})[again], first)
    assert list(sessions) == [again]
    assert name not in sessions


class TimeFirst(flax.linen.Module):
    """A layer that has time on its first axis, in a module that has it on the second."""

    @flax.linen.compact
    def __call__(self, xs):
        return RNN(GRU(4), time_major=True)(xs.swapaxes(0, 1))[0].swapaxes(0, 1)


def test_a_layer_may_have_time_on_its_first_axis():
    xs = np.random.default_rng(0).standard_normal((2, 3, I)).astype("float32")
    variables = TimeFirst().init(jax.random.key(0), xs)
    sessions = Sessions(TimeFirst(), variables, slots=5)
    for name in range(2):
        sessions.open(name)
    ys = [sessions.step_batch([0, 1], xs[:, time]) for time in range(3)]
    np.testing.assert_allclose(np.stack(ys, 1), TimeFirst().apply(variables, xs), rtol=1e-5, atol=1e-6)
