import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnnjax.models import mean_over_steps, sequence_loss, token_losses

LOGITS = np.random.default_rng(0).standard_normal((3, 4, 5)).astype(np.float32)
TARGETS = np.array([[0, 1, 2, 3], [4, 0, 1, 2], [3, 3, 3, 3]])
WEIGHTS = np.array([[1, 1, 1, 0], [1, 0, 0, 0], [0.5, 2, 0, 1]], np.float32)
compiled = jax.jit(sequence_loss)


def by_hand():
    """-log softmax(logits)[target] of every step, in float64."""
    logits = LOGITS.astype(np.float64)
    exponentials = np.exp(logits)
    probabilities = exponentials / exponentials.sum(-1, keepdims=True)
    return -np.log(np.take_along_axis(probabilities, TARGETS[..., None], -1)[..., 0])


def test_a_hand_computed_example():
    # Two classes at odds 3 to 1: a right guess costs log(4/3), a wrong one log 4.
    logits = np.log(np.array([[[3, 1], [3, 1], [3, 1]]], np.float32))
    loss, weight = compiled(logits, np.array([[0, 1, 1]]), np.array([[1, 1, 0]], np.float32))
    np.testing.assert_allclose(loss, [(np.log(4 / 3) + np.log(4)) / 2], rtol=1e-6)
    np.testing.assert_array_equal(weight, [2.0])


def test_token_losses_are_the_cross_entropies_of_the_steps():
    np.testing.assert_allclose(jax.jit(token_losses)(LOGITS, TARGETS), by_hand(), rtol=1e-5)


def test_the_loss_is_the_mean_of_the_steps_by_their_weights():
    loss, weight = compiled(LOGITS, TARGETS, WEIGHTS)
    np.testing.assert_allclose(loss, np.average(by_hand(), axis=1, weights=WEIGHTS), rtol=1e-5)
    np.testing.assert_allclose(weight, [3, 1, 3.5])


def test_over_the_batch_every_step_counts_by_its_own_weight():
    loss, weight = compiled(LOGITS, TARGETS, WEIGHTS)
    expected = (by_hand() * WEIGHTS).sum() / WEIGHTS.sum()
    np.testing.assert_allclose((loss * weight).sum() / weight.sum(), expected, rtol=1e-5)


def test_without_weights_all_steps_count_alike():
    for found, expected in zip(compiled(LOGITS, TARGETS), compiled(LOGITS, TARGETS, np.ones((3, 4), np.float32))):
        np.testing.assert_array_equal(found, expected)


@jax.jit
@functools.partial(jax.value_and_grad, has_aux=True)
def with_gradient(logits, targets, weights):
    loss, weight = sequence_loss(logits, targets, weights)
    return loss.sum(), (loss, weight)


@pytest.mark.parametrize("filler", [1e4, np.inf, np.nan])
def test_steps_of_weight_0_change_neither_loss_nor_gradient(filler):
    masked = WEIGHTS == 0
    filled = np.where(masked[..., None], np.float32(filler), LOGITS), np.where(masked, -100, TARGETS)
    expected, expected_gradient = with_gradient(LOGITS, TARGETS, WEIGHTS)
    found, gradient = with_gradient(*filled, WEIGHTS)
    np.testing.assert_array_equal(found[0], expected[0])
    np.testing.assert_array_equal(gradient, expected_gradient)
    assert not np.asarray(gradient)[masked].any()
    assert np.abs(np.asarray(gradient)[~masked]).min() > 0


def test_a_sequence_without_weight_has_loss_0_and_no_gradient():
    (_, (loss, weight)), gradient = with_gradient(LOGITS, TARGETS, WEIGHTS * [[1], [0], [1]])
    assert loss[1] == weight[1] == 0
    assert np.isfinite(gradient).all()
    assert not np.asarray(gradient)[1].any()


def test_in_bfloat16_the_loss_is_float32():
    loss, weight = compiled(LOGITS.astype(jnp.bfloat16), TARGETS, WEIGHTS)
    assert loss.dtype == weight.dtype == jnp.float32
    np.testing.assert_allclose(loss, compiled(LOGITS, TARGETS, WEIGHTS)[0], rtol=0.02)


def test_weights_may_be_truth_values():
    valid = WEIGHTS != 0
    for found, expected in zip(compiled(LOGITS, TARGETS, valid), compiled(LOGITS, TARGETS, valid.astype(np.float32))):
        np.testing.assert_array_equal(found, expected)


def test_the_mean_over_steps_leaves_out_what_weighs_nothing():
    mean, weight = mean_over_steps(jnp.array([[1.0, 0, jnp.nan]]), jnp.array([[3.0, 1, 0]]))
    np.testing.assert_allclose(mean, [0.75])
    np.testing.assert_allclose(weight, [4])


def test_shapes_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"targets must have shape \[\*batch, T\] = \[3, 4\], got \[3, 3\]"):
        sequence_loss(LOGITS, TARGETS[:, :3])
    with pytest.raises(ValueError, match=r"weights must have shape \[\*batch, T\] = \[3, 4\], got \[3\]"):
        sequence_loss(LOGITS, TARGETS, jnp.ones(3))
