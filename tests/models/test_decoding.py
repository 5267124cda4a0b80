import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from fixtures.parameters import array

from rnnjax.models.decoding import beam_search, greedy, penalty

V, L, B = 4, 3, 2
FIRST, END, PADDING = 1, 2, 0
LIMITS = {"length": L, "first": FIRST, "end": END, "padding": PADDING}


def table(seed):
    """Log-probabilities of the next token for every batch entry and every prefix, by its number in base V."""
    return array(np.random.default_rng(seed).standard_normal((B, V**L, V)) * 1.5)


def search(function, logits, **options):
    """Searches where the state is a batch entry's number and its prefix's: every prefix has logits of its own."""

    def step(state, token):
        entry, prefix, time = state
        prefix = jnp.where(time > 0, prefix * V + token, prefix)
        return (entry, prefix, time + 1), logits[entry, prefix % V**L]

    start = (jnp.arange(B), jnp.zeros(B, jnp.int32), jnp.zeros(B, jnp.int32))
    return function(step, start, **(LIMITS | options))


@functools.cache
def compiled(beam_size, exponent):
    if beam_size is None:
        return jax.jit(functools.partial(search, greedy))
    return jax.jit(functools.partial(search, beam_search, beam_size=beam_size, length_penalty=exponent))


def every_sequence(logits, exponent):
    """Returns all sequences, ended or as long as they may be, with their scores, the best first."""
    log_probabilities = np.asarray(jax.nn.log_softmax(logits))
    found = []
    for length in range(1, L + 1):
        for sequence in itertools.product(range(V), repeat=length):
            ended = sequence[-1] == END
            if END in sequence[:-1] or not (ended or length == L):
                continue
            total, prefix = 0.0, 0
            for token in sequence:
                total += log_probabilities[prefix, token]
                prefix = prefix * V + token
            found.append((total / ((5 + length) / 6) ** exponent, sequence))
    return sorted(found, reverse=True)


@pytest.mark.parametrize("exponent", [0.0, 1.0])
@pytest.mark.parametrize("seed", range(3))
def test_a_wide_beam_finds_what_exhaustive_search_finds_in_the_same_order(seed, exponent):
    logits = table(seed)
    found = compiled(64, exponent)(logits)
    for b in range(B):
        expected = every_sequence(logits[b], exponent)
        assert len(expected) == 40
        for k, (score, sequence) in enumerate(expected):
            assert tuple(found.tokens[b, k, : len(sequence)].tolist()) == sequence
            assert not found.tokens[b, k, len(sequence) :].any()
            assert found.lengths[b, k] == len(sequence)
            np.testing.assert_allclose(found.scores[b, k], score, rtol=1e-5)
        assert np.isneginf(found.scores[b, 40:]).all()


def test_tokens_and_scores_have_the_same_types_with_64_bits_enabled():
    for function, options in ((greedy, {}), (beam_search, {"beam_size": 3})):
        expected = search(function, table(0), **options)
        with jax.enable_x64(True):
            found = search(function, table(0).astype(jnp.float64), **options)
        for got, leaf in zip(found, expected):
            assert got.dtype == leaf.dtype
            np.testing.assert_allclose(got, leaf, rtol=1e-5)


@pytest.mark.parametrize("exponent", [0.0, 1.0])
def test_a_beam_of_one_is_greedy(exponent):
    for seed in range(20):
        logits = table(seed)
        one, best = compiled(1, exponent)(logits), compiled(None, 0.0)(logits)
        np.testing.assert_array_equal(one.tokens[:, 0], best.tokens)
        np.testing.assert_array_equal(one.lengths[:, 0], best.lengths)
        np.testing.assert_allclose(
            one.scores[:, 0], best.scores / penalty(best.lengths, exponent), rtol=1e-5, atol=1e-6
        )


def test_a_narrow_beam_is_no_better_than_exhaustive_search_and_scores_truly():
    for seed in range(20):
        logits = table(seed)
        found = compiled(3, 1.0)(logits)
        for b in range(B):
            truth = {sequence: score for score, sequence in every_sequence(logits[b], 1.0)}
            scores = found.scores[b].tolist()
            assert scores == sorted(scores, reverse=True)
            assert len({tuple(tokens) for tokens in found.tokens[b].tolist()}) == 3
            assert scores[0] <= max(truth.values()) + 1e-5
            for tokens, length, score in zip(found.tokens[b], found.lengths[b], scores):
                np.testing.assert_allclose(truth[tuple(tokens[:length].tolist())], score, rtol=1e-5)


def test_greedy_takes_the_likeliest_token_until_the_end():
    logits = table(7).at[0, 0].set(jnp.array([0, 0, 9.0, 0])).at[1, 0].set(jnp.array([0, 0, 0, 9.0]))
    found = compiled(None, 0.0)(logits)
    assert found.tokens[0].tolist() == [END, PADDING, PADDING]
    assert found.lengths[0] == 1
    assert found.tokens[1, 0] == 3
    assert found.tokens[1, 1] == int(logits[1, 3].argmax())


@pytest.mark.parametrize(("function", "beams"), [(greedy, 1), (functools.partial(beam_search, beam_size=3), 3)])
def test_every_search_calls_a_step_with_the_same_leading_axes(function, beams):
    seen = []

    def step(state, token):
        seen.append((state.shape, token.shape))
        return state, jnp.zeros((*token.shape, V))

    function(step, jnp.zeros((B, 5)), **LIMITS)
    assert set(seen) == {((B, beams, 5), (B, beams))}


def test_a_sequence_that_does_not_end_is_cut_at_the_limit():
    never = table(0).at[..., END].set(-1e9)
    for beam_size in (None, 2):
        found = compiled(beam_size, 0.0)(never)
        assert (np.asarray(found.lengths) == L).all()
        assert not (np.asarray(found.tokens) == END).any()


def test_the_loop_stops_when_all_have_ended():
    def step(steps, token):
        return steps + 1, jnp.zeros((*token.shape, V)).at[..., END].set(50.0)

    limits = LIMITS | {"length": 1000}
    calls = []

    def counted(state, token):
        jax.debug.callback(lambda: calls.append(1))
        return step(state, token)

    greedy(counted, jnp.zeros(B), **limits)
    jax.effects_barrier()
    assert len(calls) == 1


def test_a_higher_length_penalty_favours_longer_sequences():
    lengths = []
    for exponent in (0.0, 2.0):
        found = compiled(64, exponent)
        lengths.append(np.mean([found(table(seed)).lengths[:, 0] for seed in range(10)]))
    assert lengths[0] < lengths[1]


def test_sizes_are_checked():
    with pytest.raises(ValueError, match="beam_size must be at least 1, got 0"):
        search(beam_search, table(0), beam_size=0)


@pytest.mark.parametrize("padding", [-1, V + 3])
def test_padding_may_be_a_token_that_the_vocabulary_does_not_have(padding):
    logits = table(0)
    expected = compiled(4, 1.0)(logits)
    found = search(beam_search, logits, beam_size=4, length_penalty=1.0, padding=padding)
    behind = np.arange(L) >= np.asarray(expected.lengths)[..., None]
    assert behind.any()
    np.testing.assert_array_equal(found.tokens, np.where(behind, padding, expected.tokens))
    np.testing.assert_array_equal(found.lengths, expected.lengths)
    np.testing.assert_allclose(found.scores, expected.scores, rtol=1e-6)


def test_no_examples_have_no_sequences():
    step = lambda state, token: (state, jnp.zeros((*token.shape, V)))  # noqa: E731
    assert greedy(step, jnp.zeros((0, 2)), **LIMITS).tokens.shape == (0, L)
    assert beam_search(step, jnp.zeros((0, 2)), beam_size=3, **LIMITS).tokens.shape == (0, 3, L)
