import sys
import textwrap
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from fixtures.parameters import array

from rnnjax.config_group import freeze, from_dict, to_dict
from rnnjax.errors import ConfigError
from rnnjax.optimizer import Averaged, OptimizerConfig, build_optimizer, build_schedule, check_undecayed

START, GRADIENT = np.array([1.0, -2.0]), np.array([0.5, 4.0])

pytestmark = pytest.mark.promotes_types  # within optax


def steps_taken(config: OptimizerConfig, count: int = 2) -> np.ndarray:
    """What constant gradients make of the parameters."""
    return taken_by(build_optimizer(config, 10), [1.0] * count)


def taken_by(optimizer: optax.GradientTransformation, factors: Sequence[float]) -> np.ndarray:
    """What multiples of the gradients make of the parameters."""
    params = array(START)
    state = optimizer.init(params)
    for factor in factors:
        updates, state = optimizer.update(array(factor * GRADIENT), state, params)
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


OPTIONS = [
    *[(name, option) for name in ("adam", "adamw", "lamb") for option in ("b1", "b2", "eps")],
    *[("lion", "b1"), ("lion", "b2"), ("rmsprop", "eps"), ("adagrad", "eps")],
]


@pytest.mark.parametrize(("name", "option"), OPTIONS)
def test_an_option_is_that_of_optax(name, option):
    factors = (1.0, -0.05, -0.5)
    fields: dict[str, Any] = {"name": name, "learning_rate": 0.1}
    found = taken_by(build_optimizer(OptimizerConfig(**{**fields, option: 0.3}), 10), factors)
    np.testing.assert_array_equal(found, taken_by(getattr(optax, name)(0.1, **{option: 0.3}), factors))
    assert (found != taken_by(build_optimizer(OptimizerConfig(**fields), 10), factors)).any()


@pytest.mark.parametrize("clip_norm", [None, 0.5])
@pytest.mark.parametrize("frozen", ["", "still"])
def test_accumulated_steps_move_parameters_once_by_their_mean_gradient_at_the_rate_of_the_last(clip_norm, frozen):
    fields: dict[str, Any] = {"name": "sgd", "momentum": 0.5, "learning_rate": 0.8, "schedule": "linear"}
    optimizer = build_optimizer(OptimizerConfig(**fields, clip_norm=clip_norm, accumulate=3), 8, frozen=frozen)
    params: Any = {"still": array(START), "moved": array(START)}
    state, found = optimizer.init(params), []
    for factor in (1.0, 2.0, 6.0, -1.0, 0.0, -5.0, 9.0, 9.0):
        gradients = {"still": jnp.zeros(2), "moved": array(factor * GRADIENT)}
        updates, state = optimizer.update(gradients, state, params)
        params = optax.apply_updates(params, updates)
        found.append(params["moved"])
    one, other = 3 * GRADIENT, -2 * GRADIENT
    if clip_norm is not None:
        one, other = (clip_norm * mean / np.linalg.norm(mean) for mean in (one, other))
    first = START - 0.8 * (1 - 2 / 8) * one
    second = first - 0.8 * (1 - 5 / 8) * (other + 0.5 * one)
    np.testing.assert_allclose(found, [START, START, first, first, first, second, second, second], rtol=1e-5)
    np.testing.assert_array_equal(params["still"], START)


def test_the_average_of_parameters_keeps_its_share_at_every_step_and_changes_no_update():
    plain, averaging = (
        build_optimizer(OptimizerConfig(learning_rate=0.1, ema_decay=decay), 5, frozen="still") for decay in (0.0, 0.75)
    )
    params: Any = {"still": array(START), "moved": array(START)}
    state, other, average = averaging.init(params), plain.init(params), START
    for factor in (1.0, -2.0, 3.0):
        gradients = jax.tree.map(lambda _, factor=factor: array(factor * GRADIENT), params)
        updates, state = averaging.update(gradients, state, params)
        expected, other = plain.update(gradients, other, params)
        jax.tree.map(np.testing.assert_array_equal, updates, expected)
        params = optax.apply_updates(params, updates)
        average = 0.75 * average + 0.25 * np.asarray(params["moved"])
        assert isinstance(state, Averaged)
        np.testing.assert_allclose(state.average["moved"], average, rtol=1e-6)
        np.testing.assert_array_equal(state.average["still"], START)


def test_parameters_too_coarse_for_an_average_are_refused():
    averaging = build_optimizer(OptimizerConfig(ema_decay=0.9), 5)
    with pytest.raises(ConfigError, match=r"ema_decay needs parameters of float32, .*, got bfloat16"):
        averaging.init({"w": jnp.ones(2, jnp.bfloat16)})


def test_what_does_not_change_is_its_own_average_to_the_last_bit():
    averaging = build_optimizer(OptimizerConfig(ema_decay=0.9999), 5, frozen="still")
    params = {"still": 0.1 * jnp.arange(1.0, 9.0), "moved": jnp.ones(1)}
    step = jax.jit(lambda state: averaging.update(jax.tree.map(jnp.zeros_like, params), state, params)[1])
    state: Any = averaging.init(params)
    for _ in range(300):
        state = step(state)
    np.testing.assert_array_equal(state.average["still"], params["still"])


def test_the_rate_that_is_told_is_that_of_the_training_step():
    config = OptimizerConfig(learning_rate=0.8, schedule="linear", accumulate=2)
    told = build_optimizer(config, 8).learning_rate
    np.testing.assert_allclose(
        [told(step) for step in range(8)], [0.8 * (1 - step / 8) for step in range(8)], rtol=1e-5
    )


@pytest.mark.parametrize("name", ["adamw", "lamb", "lion", "optax:nadamw"])
@pytest.mark.parametrize("frozen", ["", "still"])
def test_what_is_undecayed_is_moved_as_without_weight_decay_and_all_else_as_with(name, frozen):
    params = {"params": {"rnn": {"w": array(START), "b": array(START)}}, "still": array(START)}

    def updates(**fields: Any) -> Any:
        optimizer = build_optimizer(OptimizerConfig(name=name, learning_rate=0.1, **fields), 10, frozen=frozen)
        return optimizer.update(jax.tree.map(jnp.ones_like, params), optimizer.init(params), params)[0]

    found = updates(weight_decay=0.5, undecayed=r"rnn\.b")
    plain, decayed = updates(weight_decay=0.0), updates(weight_decay=0.5)
    expected = {"params": {"rnn": {"w": decayed["params"]["rnn"]["w"], "b": plain["params"]["rnn"]["b"]}}}
    jax.tree.map(np.testing.assert_array_equal, found, expected | {"still": decayed["still"]})
    assert (plain["params"]["rnn"]["w"] != decayed["params"]["rnn"]["w"]).all()


def test_a_pattern_of_undecayed_parameters_that_matches_none_is_refused_with_their_names():
    params = {"params": {"dense": {"bias": START, "kernel": START}}}
    check_undecayed("", params)
    check_undecayed(r".*\.bias", params)
    with pytest.raises(ConfigError, match=r"optimizer.undecayed = 'bias' matches none .* are dense.bias, dense.kernel"):
        check_undecayed("bias", params)


def test_fields_that_are_not_set_are_in_no_config_so_that_runs_of_before_they_came_have_the_same():
    before = {"name", "learning_rate", "schedule", "warmup_steps", "final_fraction", "decay_after", "decay_rate"}
    before |= {"momentum", "weight_decay", "clip_norm"}
    assert to_dict(OptimizerConfig()).keys() == before
    config = OptimizerConfig(b2=0.5)
    assert to_dict(config).keys() == before | {"b2"}
    assert from_dict(OptimizerConfig, to_dict(config)) == config


@pytest.fixture
def own(tmp_path, monkeypatch):
    """Writes a module of one's own, `mine_optimizers`."""

    def write(text: str) -> None:
        (tmp_path / "mine_optimizers.py").write_text("import optax\n" + textwrap.dedent(text))

    monkeypatch.syspath_prepend(tmp_path)
    yield write
    sys.modules.pop("mine_optimizers", None)


HALVED = """
def halved(rate, momentum=None, *, weight_decay=0.0):
    assert callable(rate)
    return optax.chain(optax.add_decayed_weights(weight_decay), optax.sgd(rate, momentum), optax.scale(0.5))
"""


def test_an_optimiser_of_ones_own_takes_the_schedule_and_the_options_that_it_has(own):
    own(HALVED)
    fields = {"learning_rate": 0.8, "schedule": "linear"}
    config = freeze(OptimizerConfig(name="mine_optimizers:halved", momentum=0.5, weight_decay=0.1, **fields))
    rate = build_schedule(config, 10)
    by_hand = optax.chain(optax.add_decayed_weights(0.1), optax.sgd(rate, 0.5), optax.scale(0.5))
    np.testing.assert_array_equal(steps_taken(config, 4), taken_by(by_hand, [1.0] * 4))


def test_gradients_are_clipped_and_parameters_frozen_before_an_optimiser_of_ones_own_sees_them(own):
    own(HALVED)
    config = OptimizerConfig(name="mine_optimizers:halved", learning_rate=1.0, clip_norm=0.5)
    optimizer = build_optimizer(config, 10, frozen="still")
    params = {"still": array(START), "moved": array(START)}
    gradients = {"still": 100 * array(GRADIENT), "moved": array(GRADIENT)}
    updates: Any = optimizer.update(gradients, optimizer.init(params), params)[0]
    np.testing.assert_array_equal(updates["still"], 0.0)
    np.testing.assert_allclose(updates["moved"], -0.25 * GRADIENT / np.linalg.norm(GRADIENT), rtol=1e-6)


OWN = [
    ("", {"name": "mine_optimizers:missing"}, "unknown optimizer.name .*mine_optimizers has no 'missing'$"),
    ("", {"name": "mine_nowhere:sgd"}, "unknown optimizer.name .*there is no module mine_nowhere"),
    ("1 / 0", {}, "unknown optimizer.name .* cannot be imported .*ZeroDivisionError"),
    ("f = 3", {}, "optimizer.name must name a function, got 'mine_optimizers:f'"),
    ("def f(rate): return rate", {}, "mine_optimizers:f must return an optax.GradientTransformation, got function$"),
    ("def f(rate): raise KeyError", {}, "mine_optimizers:f: KeyError"),
    ("def f(rate): raise SystemExit('no\\nmore')", {}, "mine_optimizers:f: no$"),
    ("def f(): pass", {}, r"mine_optimizers:f: f\(\) takes 0 positional arguments but 1 was given"),
    ("f = optax.sgd", {"b1": 0.9}, "mine_optimizers:f has no b1; leave optimizer.b1 out"),
    ("def f(rate, momentum, /): pass", {"momentum": 0.9}, "mine_optimizers:f has no momentum; leave"),
]


@pytest.mark.parametrize(("text", "fields", "message"), OWN)
def test_what_is_no_optimiser_is_refused_in_a_sentence(text, fields, message, own):
    own(text)
    with pytest.raises(ConfigError, match=message) as error:
        freeze(OptimizerConfig(**{"name": "mine_optimizers:f"} | fields))
    assert "\n" not in str(error.value)


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
        ({"name": "sgd", "b1": 0.9}, "sgd has no b1; leave optimizer.b1 out"),
        ({"name": "rmsprop", "b2": 0.9}, "rmsprop has no b2; leave optimizer.b2 out"),
        ({"name": "lion", "eps": 1e-8}, "lion has no eps; leave optimizer.eps out"),
        ({"name": "adam", "undecayed": ".*"}, "adam has no mask of its weight decay; leave optimizer.undecayed out"),
        ({"name": "adamw", "undecayed": "("}, r"optimizer.undecayed must be a regular expression, got '\('"),
        ({"accumulate": 0}, "optimizer.accumulate must be at least 1, got 0"),
        ({"accumulate": 11}, "optimizer.accumulate must be at most 10, the steps of the run, got 11"),
        ({"ema_decay": 1.0}, "optimizer.ema_decay must be from 0 to below 1, got 1.0"),
        ({"b1": 1.0}, "optimizer.b1 must be from 0 to below 1, got 1.0"),
        ({"b2": -0.1}, "optimizer.b2 must be from 0 to below 1, got -0.1"),
        ({"eps": 0.0}, "optimizer.eps must be positive, got 0.0"),
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
