import jax.numpy as jnp
import numpy as np
import pytest
from fixtures.parameters import array

from rnnjax.errors import ConfigError
from rnnjax.optimizer import OptimizerConfig, build_optimizer, build_schedule

START, GRADIENT = np.array([1.0, -2.0]), np.array([0.5, 4.0])

pytestmark = pytest.mark.promotes_types  # within optax


def steps_taken(config: OptimizerConfig, count: int = 2) -> np.ndarray:
    """What constant gradients make of the parameters."""
    optimizer = build_optimizer(config, 10)
    params = array(START)
    state = optimizer.init(params)
    for _ in range(count):
        updates, state = optimizer.update(array(GRADIENT), state, params)
        params = params + updates
    return np.asarray(params)


def test_sgd_subtracts_the_rate_times_the_gradient():
    config = OptimizerConfig(name="sgd", learning_rate=0.1)
    np.testing.assert_allclose(steps_taken(config), START - 2 * 0.1 * GRADIENT, rtol=1e-6)


def test_momentum_adds_up_gradients():
    config = OptimizerConfig(name="sgd", learning_rate=0.1, momentum=0.5)
    np.testing.assert_allclose(steps_taken(config), START - 0.1 * (1 + 1.5) * GRADIENT, rtol=1e-6)


def test_adam_takes_steps_of_the_rate_under_a_constant_gradient():
    config = OptimizerConfig(name="adam", learning_rate=0.1)
    np.testing.assert_allclose(steps_taken(config), START - 2 * 0.1, rtol=1e-5)


def test_adamw_decays_weights_besides():
    config = OptimizerConfig(name="adamw", learning_rate=0.1, weight_decay=0.5)
    once = START - 0.1 * (1 + 0.5 * START)
    np.testing.assert_allclose(steps_taken(config), once - 0.1 * (1 + 0.5 * once), rtol=1e-5)


def test_lion_takes_signs():
    config = OptimizerConfig(name="lion", learning_rate=0.1, weight_decay=0.5)
    once = START - 0.1 * (np.sign(GRADIENT) + 0.5 * START)
    np.testing.assert_allclose(steps_taken(config, 1), once, rtol=1e-5)


def test_adagrad_divides_by_the_root_of_the_sum_of_squares():
    config = OptimizerConfig(name="adagrad", learning_rate=0.1)
    expected = START - 0.1 * GRADIENT / np.sqrt(0.1 + GRADIENT**2 + 1e-7)
    np.testing.assert_allclose(steps_taken(config, 1), expected, rtol=1e-5)


@pytest.mark.parametrize(("name", "momentum"), [("rmsprop", None), ("rmsprop", 0.9), ("lamb", None)])
def test_the_other_optimisers_go_downhill(name, momentum):
    moved = steps_taken(OptimizerConfig(name=name, learning_rate=0.01, momentum=momentum)) - START
    assert (np.sign(moved) == -np.sign(GRADIENT)).all()


def test_a_gradient_above_clip_norm_is_scaled_to_it():
    config = OptimizerConfig(name="sgd", learning_rate=1.0, clip_norm=0.5)
    expected = START - 0.5 * GRADIENT / np.linalg.norm(GRADIENT)
    np.testing.assert_allclose(steps_taken(config, 1), expected, rtol=1e-6)


def test_a_gradient_below_clip_norm_is_left_alone():
    config = OptimizerConfig(name="sgd", learning_rate=1.0, clip_norm=5.0)
    np.testing.assert_allclose(steps_taken(config, 1), START - GRADIENT, rtol=1e-6)


def rates(steps: int, **fields) -> list[float]:
    schedule = build_schedule(OptimizerConfig(learning_rate=0.8, **fields), steps)
    return [float(schedule(step)) for step in range(steps + 1)]


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, [0.8] * 5),
        ({"schedule": "linear"}, [0.8, 0.6, 0.4, 0.2, 0.0]),
        ({"schedule": "linear", "final_fraction": 0.5}, [0.8, 0.7, 0.6, 0.5, 0.4]),
        ({"schedule": "cosine"}, [0.4 * (1 + np.cos(np.pi * t / 4)) for t in range(5)]),
        (
            {"schedule": "cosine", "final_fraction": 0.5},
            [0.4 + 0.2 * (1 + np.cos(np.pi * t / 4)) for t in range(5)],
        ),
        ({"schedule": "exponential", "final_fraction": 1 / 16}, [0.8 / 2**t for t in range(5)]),
        ({"warmup_steps": 2}, [0.0, 0.4, 0.8, 0.8, 0.8]),
        ({"schedule": "linear", "warmup_steps": 2}, [0.0, 0.4, 0.8, 0.4, 0.0]),
        ({"schedule": "exponential", "final_fraction": 0.25, "warmup_steps": 2}, [0.0, 0.4, 0.8, 0.4, 0.2]),
    ],
    ids=str,
)
def test_the_learning_rate_of_a_run_of_four_steps(fields, expected):
    np.testing.assert_allclose(rates(4, **fields), expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(("after", "epochs"), [(1, [1, 1 / 2, 1 / 4, 1 / 8]), (3, [1, 1, 1, 1 / 2])])
def test_a_staircase_falls_before_every_epoch_after_the_first_ones(after, epochs):
    config = OptimizerConfig(learning_rate=0.8, schedule="staircase", decay_after=after, decay_rate=0.5)
    schedule = build_schedule(config, 12, epoch_steps=3)
    found = [float(schedule(step)) for step in range(12)]
    np.testing.assert_allclose(found, np.repeat([0.8 * factor for factor in epochs], 3), rtol=1e-6)


def test_a_staircase_of_a_long_run_falls_at_the_step_itself():
    config = OptimizerConfig(learning_rate=1.0, schedule="staircase", decay_after=4, decay_rate=0.5)
    schedule = build_schedule(config, 13 * 2323, epoch_steps=2323)
    steps = np.arange(13 * 2323)
    expected = 0.5 ** np.maximum(steps // 2323 - 3, 0)
    np.testing.assert_allclose(schedule(jnp.asarray(steps)), expected, rtol=1e-5)


def test_the_schedule_reaches_the_optimiser():
    config = OptimizerConfig(name="sgd", learning_rate=0.8, schedule="linear")
    np.testing.assert_allclose(steps_taken(config, 3), START - 0.8 * (1 + 0.9 + 0.8) * GRADIENT, rtol=1e-5)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"name": "adamm"}, "unknown optimizer.name 'adamm'; choose from adam, .*lion"),
        ({"name": "adam", "momentum": 0.9}, "adam has no momentum; leave optimizer.momentum out"),
        ({"name": "sgd", "weight_decay": 0.1}, "sgd has no weight_decay; leave optimizer.weight_decay out"),
        ({"learning_rate": 0.0}, "optimizer.learning_rate must be positive, got 0.0"),
        ({"learning_rate": -1e-3}, "optimizer.learning_rate must be positive, got -0.001"),
        ({"learning_rate": float("nan")}, "optimizer.learning_rate must be positive, got nan"),
        ({"clip_norm": 0.0}, "optimizer.clip_norm must be positive, got 0.0"),
        ({"clip_norm": -1.0}, "optimizer.clip_norm must be positive, got -1.0"),
        ({"schedule": "stairs"}, "unknown optimizer.schedule 'stairs'; choose from constant, cosine"),
        ({"schedule": "staircase", "decay_after": 0}, "optimizer.decay_after must be at least 1, got 0"),
        ({"schedule": "staircase", "decay_rate": 0.0}, "optimizer.decay_rate must be above 0 and at most 1, got 0.0"),
        ({"schedule": "staircase", "warmup_steps": 2}, "leave optimizer.warmup_steps out"),
        ({"schedule": "exponential"}, "optimizer.final_fraction must be above 0"),
        ({"final_fraction": 1.5}, "optimizer.final_fraction must be from 0 to 1, got 1.5"),
        ({"warmup_steps": 10}, "optimizer.warmup_steps must be .*9, got 10"),
        ({"warmup_steps": -1}, "optimizer.warmup_steps must .* got -1"),
    ],
)
def test_what_cannot_be_meant_is_refused_by_name_and_value(fields, message):
    with pytest.raises(ConfigError, match=message):
        build_optimizer(OptimizerConfig(**fields), 10)
