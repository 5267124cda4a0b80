import jax
import jax.numpy as jnp
import numpy as np
import pytest
from fixtures.parameters import array

from rnnjax.data.words import keep_probability, noise_bounds
from rnnjax.models.skip_gram import Draw, SkipGram, contexts, draw
from rnnjax.models.word_neighbours import class_precision, nearest, principal_plane

COUNTS = np.array([600, 300, 90, 10])
KEEP, BOUNDS = jax.device_put((keep_probability(COUNTS, 0.05), noise_bounds(COUNTS)))
TEXT = jax.device_put(np.array([0, 1, 0, 2] * 25 + [-1] * 4))


@jax.jit
def drawn_from(seeds):
    return jax.vmap(lambda seed: draw(jax.random.key(seed), TEXT, KEEP, BOUNDS, window=3, noise=40))(seeds)


@pytest.fixture(scope="module")
def draws():
    return drawn_from(np.arange(500))


def test_what_is_drawn_is_a_function_of_the_key(draws):
    again = drawn_from(np.arange(500)[::-1])
    for one, other in zip(draws, again):
        np.testing.assert_array_equal(one, other[::-1])


def test_kept_words_stay_in_order_and_close_the_gaps(draws):
    for words in np.asarray(draws.words)[:50]:
        kept = words[words >= 0]
        assert (words[: len(kept)] >= 0).all()
        text = iter(TEXT.tolist())
        assert all(word in text for word in kept.tolist())  # a subsequence


def test_words_are_kept_as_often_as_they_should_be(draws):
    words = np.asarray(draws.words)
    for word, places in ((0, 50), (1, 25), (2, 25)):
        assert (words == word).mean() * words.shape[1] / places == pytest.approx(
            float(np.asarray(KEEP)[word]), abs=0.01
        )


def test_reaches_are_uniform_up_to_the_window(draws):
    shares = np.bincount(np.asarray(draws.reach).ravel()) / draws.reach.size
    np.testing.assert_allclose(shares, [0, 1 / 3, 1 / 3, 1 / 3], atol=0.01)


def test_noise_follows_its_distribution(draws):
    shares = np.bincount(np.asarray(draws.noise).ravel(), minlength=4) / draws.noise.size
    np.testing.assert_allclose(shares, COUNTS**0.75 / (COUNTS**0.75).sum(), atol=0.01)


def test_contexts_are_within_reach_of_their_centre_and_hold_no_padding():
    found = contexts(jnp.array([5, 6, 7, 8, -1]), jnp.array([1, 3, 2, 1, 2]))
    np.testing.assert_array_equal(
        found, [[0, 1, 0, 0, 0], [1, 0, 1, 1, 0], [1, 1, 0, 1, 0], [0, 0, 1, 0, 0], [0, 0, 0, 0, 0]]
    )


def hand_drawn():
    rng = np.random.default_rng(0)
    words = np.array([[3, 0, 2, 1, -1], [1, -1, -1, -1, -1]])
    return jax.device_put(Draw(words, rng.integers(1, 4, (2, 5)), rng.integers(0, 4, (2, 6))))


def randomised():
    rng = np.random.default_rng(2)
    return {"params": {name: array(rng.standard_normal((4, 3))) for name in ("centre", "context")}}


def test_the_loss_is_the_published_one_pair_by_pair():
    drawn, variables, negatives = hand_drawn(), randomised(), 2
    loss, pairs = jax.jit(SkipGram(4, 3, negatives).apply)(variables, drawn)
    loss, pairs = np.asarray(loss), np.asarray(pairs)
    v, u = (np.asarray(variables["params"][name], np.float64) for name in ("centre", "context"))
    for row in range(2):
        words, reach, noise = (np.asarray(part)[row] for part in drawn)
        words, wanted, count = words[words >= 0], 0.0, 0
        for t, c in enumerate(words):
            for s, o in enumerate(words):
                if 0 < abs(t - s) <= reach[t]:
                    false = np.mean([np.log(1 + np.exp(u[n] @ v[c])) for n in noise])
                    wanted += np.log(1 + np.exp(-u[o] @ v[c])) + negatives * false
                    count += 1
        assert float(loss[row]) == pytest.approx(wanted, rel=1e-5)
        assert int(pairs[row]) == count


def test_a_row_without_pairs_has_no_loss_and_no_gradient():
    empty = jax.device_put(jax.tree.map(lambda part: np.asarray(part)[1:], hand_drawn()))
    model = SkipGram(4, 3, 2)
    gradient = jax.jit(jax.grad(lambda variables: model.apply(variables, empty)[0].sum()))(randomised())
    assert not any(np.asarray(leaf).any() for leaf in jax.tree.leaves(gradient))


def test_fresh_parameters_know_nothing():
    model, drawn = SkipGram(4, 3, 5), hand_drawn()
    (loss, pairs), variables = jax.jit(model.init_with_output)(jax.random.key(0), drawn)
    np.testing.assert_allclose(loss, pairs * 6 * np.log(2), rtol=1e-6)
    assert float(np.abs(variables["params"]["centre"]).max()) <= 0.5 / 3


# Neighbours

VECTORS = np.array([[1, 0], [2, 0.1], [0, 1], [0.1, 3], [0.2, 1], [-1, 0]], np.float32)
WORDS = ["a", "b", "x", "y", "z", "c"]


def test_the_nearest_are_by_cosine():
    found, cosines = nearest(VECTORS, VECTORS[0], 2, [0])
    np.testing.assert_array_equal(found, [1, 4])
    np.testing.assert_allclose(cosines, [2 / np.hypot(2, 0.1), 0.2 / np.hypot(0.2, 1)], rtol=1e-6)


def test_class_precision_by_hand():
    assert class_precision(VECTORS, WORDS, [["x", "y", "z", "missing"]]) == 1
    # a's nearest two are b and z, b's are a and z, c's are x and y.
    assert class_precision(VECTORS, WORDS, [["a", "b", "c"]]) == pytest.approx((0.5 + 0.5 + 0) / 3)
    assert class_precision(VECTORS, WORDS, [["x", "y"], ["missing"]]) is None


def test_the_plane_keeps_the_distances_of_points_that_lie_in_one():
    rng = np.random.default_rng(0)
    flat = rng.normal(size=(9, 2))
    points = principal_plane(flat @ np.linalg.qr(rng.normal(size=(5, 5)))[0][:2] + 7)
    for i in range(9):
        np.testing.assert_allclose(np.linalg.norm(points - points[i], axis=1), np.linalg.norm(flat - flat[i], axis=1))
