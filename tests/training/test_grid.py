"""Grids of runs: the product of their values, and which of them share a program."""

import json

import pytest
from toytasks.grids import grid_of

from rnnjax.config import OptimizerConfig
from rnnjax.errors import ConfigError
from rnnjax.training.sweeps.grid import groups, read_grid, takes_array

pytestmark = pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")


def numbers_of(grid):
    return [[run.number for run in group.runs] for group in groups(grid)]


@pytest.mark.parametrize(
    ("fields", "name", "expected"),
    [
        ({}, "learning_rate", True),
        ({"schedule": "cosine", "warmup_steps": 3}, "learning_rate", True),
        ({"schedule": "staircase"}, "learning_rate", True),
        ({"schedule": "linear"}, "final_fraction", True),
        ({"schedule": "cosine"}, "final_fraction", True),
        ({"schedule": "exponential", "final_fraction": 0.1}, "final_fraction", False),
        ({"schedule": "staircase"}, "decay_rate", False),
        ({"name": "sgd"}, "momentum", True),
        ({"name": "rmsprop"}, "momentum", True),
        ({"name": "adamw"}, "weight_decay", True),
        ({"name": "lamb"}, "weight_decay", True),
        ({"name": "lion"}, "weight_decay", True),
        ({}, "clip_norm", True),
        *[({"name": name}, option, True) for name in ("adam", "adamw", "lamb") for option in ("b1", "b2", "eps")],
        *[({"name": "lion"}, "b1", True), ({"name": "rmsprop"}, "eps", True), ({"name": "adagrad"}, "eps", True)],
        ({"accumulate": 3}, "learning_rate", True),
        ({"ema_decay": 0.9}, "learning_rate", True),
        ({"ema_decay": 0.9}, "ema_decay", False),
        ({"name": "optax:adabelief"}, "b1", True),
    ],
)
def test_a_number_is_traced_where_the_optimiser_takes_an_array(fields, name, expected):
    assert takes_array(OptimizerConfig(**fields), name) is expected


def test_the_grid_is_the_cross_product_of_seeds_and_values():
    grid = grid_of("--config.seed=7", "--config.optimizer.learning_rate=1,2", "--config.cell.kind=GRU,LSTM", seeds=2)
    assert grid.values == {"optimizer.learning_rate": [1.0, 2.0], "cell.kind": ["GRU", "LSTM"]}
    found = [(run.seed, run.config.optimizer.learning_rate, run.config.cell.kind) for run in grid.runs]
    assert found == [(seed, rate, kind) for rate in (1.0, 2.0) for kind in ("GRU", "LSTM") for seed in (7, 8)]
    assert [run.config.seed for run in grid.runs] == [run.seed for run in grid.runs]
    assert [run.number for run in grid.runs] == list(range(8))


@pytest.mark.parametrize(
    ("text", "wrappers"),
    [
        ("dropout,learned_state;dropout;none", [("dropout", "learned_state"), ("dropout",), ()]),
        ("dropout,learned_state", [("dropout", "learned_state")]),
        ("dropout", [("dropout",)]),
    ],
)
def test_values_that_are_lists_are_parted_by_semicolons(text, wrappers):
    grid = grid_of(f"--config.cell.wrappers={text}")
    assert [run.config.cell.wrappers for run in grid.runs] == wrappers
    assert json.loads(json.dumps(grid.as_dict())) == grid.as_dict()


@pytest.mark.parametrize(("text", "lengths"), [("8,16", [(8, 16)]), ("8,16;4,", [(8, 16), (4,)])])
def test_commas_are_within_a_value_of_any_field_that_is_a_list(text, lengths):
    arguments = ["--config", "configs/sequences.py:adding", f"--config.data.test_lengths={text}"]
    grid, _, _ = read_grid(arguments, seeds=1, at_once=None)
    assert [run.config.data.test_lengths for run in grid.runs] == lengths


def test_of_several_flags_of_a_field_the_last_one_counts_as_in_training():
    rate, rates = "--config.optimizer.learning_rate=3", "--config.optimizer.learning_rate=1,2"
    assert [run.config.optimizer.learning_rate for run in grid_of(rates, rate).runs] == [3]
    assert [run.config.optimizer.learning_rate for run in grid_of(rate, rates).runs] == [1, 2]


@pytest.mark.parametrize("text", ["dropout;", "dropout,residual;dropout,residual"])
def test_semicolons_without_a_value_or_with_one_twice_are_refused(text):
    with pytest.raises(ConfigError, match=f"--config.cell.wrappers has .* '{text}'"):
        grid_of(f"--config.cell.wrappers={text}")


def test_runs_that_differ_in_more_than_traced_numbers_are_groups_of_their_own():
    assert numbers_of(grid_of("--config.optimizer.learning_rate=1,2", seeds=2)) == [[0, 1, 2, 3]]
    assert numbers_of(grid_of("--config.cell.hidden_size=4,8", seeds=2)) == [[0, 1], [2, 3]]
    both = grid_of("--config.optimizer.learning_rate=1,2", "--config.cell.hidden_size=4,8")
    assert numbers_of(both) == [[0, 2], [1, 3]]
    assert numbers_of(grid_of("--config.optimizer.warmup_steps=1,2")) == [[0], [1]]
    exponential = ["--config.optimizer.schedule=exponential", "--config.optimizer.final_fraction=0.1,0.2"]
    assert numbers_of(grid_of(*exponential, seeds=2)) == [[0, 1], [2, 3]]
    assert numbers_of(grid_of(seeds=5, at_once=2)) == [[0, 1], [2, 3], [4]]


def test_values_are_traced_where_they_differ_within_a_group():
    grid = grid_of("--config.optimizer.learning_rate=1,2", "--config.optimizer.clip_norm=3,4")
    (group,) = groups(grid)
    assert {name: list(values) for name, values in group.traced_values().items()} == {
        "learning_rate": [1, 1, 2, 2],
        "clip_norm": [3, 4, 3, 4],
    }
