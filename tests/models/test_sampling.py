import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from fixtures.parameters import array

from rnnjax.models.sampling import keep_top_k, keep_top_p, sample

# Probabilities 0.5, 0.1, 0.25, 0.15.
LOGITS = array(np.log([0.5, 0.1, 0.25, 0.15]))
DRAWS = 4000


def kept(logits):
    return np.isfinite(logits).tolist()


def frequencies(**options):
    drawn = jax.jit(jax.vmap(functools.partial(sample, logits=LOGITS, **options)))
    return np.bincount(drawn(keys()), minlength=4) / DRAWS


@functools.cache
def keys():
    return jax.random.split(jax.random.key(0), DRAWS)


@pytest.mark.parametrize(
    ("k", "expected"),
    [(1, [1, 0, 0, 0]), (2, [1, 0, 1, 0]), (3, [1, 0, 1, 1]), (4, [1, 1, 1, 1]), (9, [1, 1, 1, 1])],
)
def test_top_k_keeps_the_k_likeliest(k, expected):
    found = np.asarray(keep_top_k(LOGITS, k))
    assert kept(found) == [bool(e) for e in expected]
    np.testing.assert_array_equal(found[np.isfinite(found)], np.asarray(LOGITS)[np.isfinite(found)])


@pytest.mark.parametrize(
    ("p", "expected"),
    [
        (0.01, [1, 0, 0, 0]),
        (0.49, [1, 0, 0, 0]),
        (0.51, [1, 0, 1, 0]),
        (0.74, [1, 0, 1, 0]),
        (0.76, [1, 0, 1, 1]),
        (0.91, [1, 1, 1, 1]),
        (1.0, [1, 1, 1, 1]),
    ],
)
def test_top_p_keeps_the_fewest_that_come_to_p(p, expected):
    assert kept(keep_top_p(LOGITS, p)) == [bool(e) for e in expected]


def test_of_equal_logits_the_first_are_kept():
    assert kept(keep_top_k(jnp.zeros(4), 2)) == [True, True, False, False]
    assert kept(keep_top_p(jnp.zeros(4), 0.5)) == [True, True, False, False]


def test_every_row_is_treated_by_itself():
    rows = jax.device_put(np.stack([LOGITS, np.asarray(LOGITS)[::-1]]))
    assert kept(keep_top_k(rows, 2)) == [[True, False, True, False], [False, True, False, True]]
    assert kept(keep_top_p(rows, 0.6)) == [[True, False, True, False], [False, True, False, True]]
    assert sample(jax.random.key(0), rows, temperature=0).tolist() == [0, 3]


def test_tokens_come_as_often_as_their_probabilities_say():
    np.testing.assert_allclose(frequencies(), [0.5, 0.1, 0.25, 0.15], atol=0.03)


def test_at_half_the_temperature_probabilities_are_squared():
    squares = np.array([0.5, 0.1, 0.25, 0.15]) ** 2
    np.testing.assert_allclose(frequencies(temperature=0.5), squares / squares.sum(), atol=0.03)


def test_what_is_left_is_drawn_in_proportion():
    np.testing.assert_allclose(frequencies(top_k=2), [2 / 3, 0, 1 / 3, 0], atol=0.03)
    np.testing.assert_allclose(frequencies(top_p=0.8), [5 / 9, 0, 2.5 / 9, 1.5 / 9], atol=0.03)
    # Of the two that top_k leaves, the first has two thirds: top_p sees what top_k leaves.
    np.testing.assert_allclose(frequencies(top_k=2, top_p=0.6), [1, 0, 0, 0])


def test_temperature_zero_takes_the_likeliest():
    np.testing.assert_array_equal(frequencies(temperature=0), [1, 0, 0, 0])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": -1.0}, "temperature must not be negative, got -1.0"),
        ({"temperature": float("nan")}, "temperature must not be negative, got nan"),
        ({"top_k": 0}, "top_k must be at least 1, got 0"),
        ({"top_p": 0.0}, "top_p must be above 0 and at most 1, got 0.0"),
        ({"top_p": 1.5}, "top_p must be above 0 and at most 1, got 1.5"),
    ],
)
def test_what_cannot_be_meant_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        sample(jax.random.key(0), LOGITS, **options)


def test_limits_beyond_what_the_types_hold_leave_all_or_the_likeliest():
    logits = jnp.array([1.0, 3.0, 2.0])
    assert keep_top_k(logits, 10**20).tolist() == logits.tolist()
    assert keep_top_p(logits, 1e-300).tolist() == [-jnp.inf, 3.0, -jnp.inf]


@pytest.mark.parametrize("temperature", [1e-8, 1e-37, 1e-40], ids=str)
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float16], ids=["float32", "float16"])
def test_at_a_temperature_near_zero_the_most_likely_token_is_taken(temperature, dtype):
    logits = jnp.array([[1.0, 3.0, 2.0], [-1e4, -3e4, -2e4]], dtype)
    assert sample(jax.random.key(0), logits, temperature=temperature).tolist() == [1, 0]
