import copy

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from fixtures.parameters import drawn_parameters

from rnnjax.config import CellConfig, DataConfig
from rnnjax.data.click_windows import Windows, click_data
from rnnjax.errors import ConfigError
from rnnjax.tasks import build_task
from rnnjax.tasks.navigation import Config, baseline_scores, line_ids, ranking


@pytest.fixture(scope="module")
def task():
    cell = CellConfig(kind="LSTM", hidden_size=4)
    return build_task(Config(cell=cell, data=DataConfig(name="embedded"), windows=400))


@pytest.fixture(scope="module")
def params(task):
    return drawn_parameters(task.init)


def test_the_split_is_as_asked(task):
    assert [task.examples(split) for split in ("train", "validation", "test")] == [400, 100, 100]


def test_an_unknown_item_is_a_miss_and_no_part_of_the_loss(task, params):
    batch = {name: jnp.asarray(values[:3]) for name, values in task.data.splits["train"].items()}
    compiled = jax.jit(lambda batch: task.loss(params, None, batch, None)[0])
    values = compiled(batch)
    unknown = compiled({**batch, "next": batch["next"].at[1].set(-1)})
    np.testing.assert_array_equal(unknown["loss"].weight, [1, 0, 1])
    np.testing.assert_array_equal(unknown["loss"].value[::2], values["loss"].value[::2])
    for name in ("accuracy", "recall_20", "mrr_20"):
        assert unknown[name][1] == 0


def test_ranks_by_hand():
    logits = -jnp.arange(30.0)[None].repeat(5, 0)
    found = ranking(logits, jnp.array([0, 3, 19, 20, -1]))
    np.testing.assert_array_equal(found["accuracy"], [1, 0, 0, 0, 0])
    np.testing.assert_array_equal(found["recall_20"], [1, 1, 1, 0, 0])
    np.testing.assert_allclose(found["mrr_20"], [1, 1 / 4, 1 / 20, 0, 0])


def test_a_model_that_says_the_same_of_all_items_has_no_hits():
    for constant in (0.0, jnp.nan):
        found = ranking(jnp.full((1, 30), constant), jnp.array([0]))
        assert [float(value[0]) for value in found.values()] == [0, 0, 0]


def test_the_scores_are_those_of_the_baselines_on_the_split():
    train = Windows(np.array([[1, 2, 1, 2, 1], [3, 1, 2, 4, 5]]), np.array([0, 1]))
    test = Windows(np.array([[1, 2, 1, 2, 1], [1, 1, 1, 9, 5]]), np.array([0, 1]))
    scores = baseline_scores(click_data("toy", "here", {"train": train, "test": test}), "test")
    # By clicks the items are 1, 2, 3, 4, 5.
    assert scores["popularity_mrr_20"] == pytest.approx((1 + 1 / 5) / 2)
    assert scores["last_items_mrr_20"] == pytest.approx((1 / 2 + 1 / 5) / 2)
    assert scores["successors_mrr_20"] == pytest.approx((1 + 1 / 5) / 2)
    assert scores["popularity_recall_20"] == scores["last_items_recall_20"] == scores["successors_recall_20"] == 1


def test_items_are_recommended_with_their_probabilities(task, params):
    lines = list(task.generate(params, n_best=3, lines=["1 2 3 4", "7,8"]))
    assert len(lines) == 2
    best = [entry.split() for entry in lines[0].split("\t")]
    chances = [float(chance) for _, chance in best]
    assert len(best) == 3
    assert chances == sorted(chances, reverse=True)
    assert all(0 <= int(item) < 100 for item, _ in best)
    assert list(task.generate(params, n_best=3, prompt="7 8")) == lines[1:]


def test_a_line_is_read_as_the_last_four_items():
    items = np.array([50, 40, 30])
    np.testing.assert_array_equal(line_ids("50 30", items), [[-1, -1, 0, 2]])
    np.testing.assert_array_equal(line_ids("50,30,40,99,40", items), [[2, 1, -1, 1]])
    np.testing.assert_array_equal(line_ids("", items), [[-1] * 4])
    with pytest.raises(ConfigError, match=r"a line must be item numbers.*'three'"):
        line_ids("three", items)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data": DataConfig(name="mnist")}, "data.name must be"),
        ({"data": DataConfig(name="embedded", path="here")}, "leave data.path out"),
        ({"windows": 3}, "windows must be 0 for all, or at least 4, got 3"),
        ({"embedding": -1}, "embedding must not be negative"),
        ({"embedding": 8, "dropout": 1.0}, r"dropout must be in \[0, 1\)"),
        ({"dropout": 0.1}, "dropout needs an embedding"),
    ],
)
def test_a_config_that_cannot_be_meant_is_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        Config(**copy.deepcopy(changes)).check()
