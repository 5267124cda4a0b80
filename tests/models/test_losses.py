import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnnjax.models import mean_over_steps, sequence_loss, token_losses

LOGITS = jax.random.normal(jax.random.key(0), (3, 4, 5))
TARGETS = jnp.array([[0, 1, 2, 3], [4, 0, 1, 2], [3, 3, 3, 3]])
WEIGHTS = jnp.array([[1.0, 1, 1, 0], [1, 0, 0, 0], [0.5, 2, 0, 1]])


def by_hand():
    """-log softmax(logits)[target] of every step, in float64."""
    logits = np.asarray(LOGITS, np.float64)
    exponentials = np.exp(logits)
    probabilities = exponentials / exponentials.sum(-1, keepdims=True)
    return -np.log(np.take_along_axis(probabilities, np.asarray(TARGETS)[..., None], -1)[..., 0])


def test_a_hand_computed_example():
    # Two classes at odds 3 to 1: a right guess costs log(4/3), a wrong one log 4.
    logits = jnp.log(jnp.array([[[3.0, 1], [3, 1], [3, 1]]]))
    loss, weight = sequence_loss(logits, jnp.array([[0, 1, 1]]), jnp.array([[1.0, 1, 0]]))
    np.testing.assert_allclose(loss, [(np.log(4 / 3) + np.log(4)) / 2], rtol=1e-6)
    np.testing.assert_array_equal(weight, [2.0])


def test_token_losses_are_the_cross_entropies_of_the_steps():
    np.testing.assert_allclose(token_losses(LOGITS, TARGETS), by_hand(), rtol=1e-5)


def test_the_loss_is_the_mean_of_the_steps_by_their_weights():
    loss, weight = sequence_loss(LOGITS, TARGETS, WEIGHTS)
    np.testing.assert_allclose(loss, np.average(by_hand(), axis=1, weights=WEIGHTS), rtol=1e-5)
    np.testing.assert_allclose(weight, [3, 1, 3.5])


def test_over_the_batch_every_step_counts_by_its_own_weight():
    loss, weight = sequence_loss(LOGITS, TARGETS, WEIGHTS)
    expected = (by_hand() * WEIGHTS).sum() / WEIGHTS.sum()
    np.testing.assert_allclose((loss * weight).sum() / weight.sum(), expected, rtol=1e-5)


def test_without_weights_all_steps_count_alike():
    for found, expected in zip(sequence_loss(LOGITS, TARGETS), sequence_loss(LOGITS, TARGETS, jnp.ones((3, 4)))):
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("filler", [1e4, jnp.inf, jnp.nan])
def test_steps_of_weight_0_change_neither_loss_nor_gradient(filler):
    def loss(logits, targets):
        return sequence_loss(logits, targets, WEIGHTS)[0].sum()

    masked = WEIGHTS == 0
    value_and_grad = jax.value_and_grad(loss)
    expected, expected_gradient = value_and_grad(LOGITS, TARGETS)
    found, gradient = value_and_grad(jnp.where(masked[..., None], filler, LOGITS), jnp.where(masked, -100, TARGETS))
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(gradient, expected_gradient)
    assert not np.asarray(gradient)[masked].any()
    assert np.abs(np.asarray(gradient)[~np.asarray(masked)]).min() > 0


def test_a_sequence_without_weight_has_loss_0_and_no_gradient():
    weights = WEIGHTS.at[1].set(0)
    loss, weight = sequence_loss(LOGITS, TARGETS, weights)
    assert loss[1] == weight[1] == 0
    gradient = jax.grad(lambda logits: sequence_loss(logits, TARGETS, weights)[0].sum())(LOGITS)
    assert np.isfinite(gradient).all()
    assert not np.asarray(gradient)[1].any()


def test_in_bfloat16_the_loss_is_float32():
    loss, weight = sequence_loss(LOGITS.astype(jnp.bfloat16), TARGETS, WEIGHTS)
    assert loss.dtype == weight.dtype == jnp.float32
    np.testing.assert_allclose(loss, sequence_loss(LOGITS, TARGETS, WEIGHTS)[0], rtol=0.02)


def test_weights_may_be_truth_values():
    valid = WEIGHTS != 0
    for found, expected in zip(
        sequence_loss(LOGITS, TARGETS, valid), sequence_loss(LOGITS, TARGETS, valid.astype(float))
    ):
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
