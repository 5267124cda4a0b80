"""What a task of one's own does wrong is said in a sentence, before it gives other numbers or a traceback."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnnjax.data.dataset import DataSet
from rnnjax.errors import ConfigError
from rnnjax.tasks.checks import (
    check_best_metric,
    check_examples,
    check_inputs,
    check_kept,
    check_splits,
    checked_loss,
    metrics_of,
    scores_of,
)
from rnnjax.tasks.task import Field, Task, Weighted

PART = {"xs": np.zeros((6, 6)), "ys": np.zeros(6)}
DATA = DataSet("made", {"train": PART, "validation": PART, "test": PART}, "", "")
ONES = jnp.ones(6)


def _judged(returned):
    class Own(Task):
        def loss(self, params, carry, batch, key):
            return returned

    return checked_loss(Own(None, DATA), None, None, {name: jnp.asarray(part) for name, part in PART.items()}, None)


@pytest.mark.parametrize("metrics", [{"loss": ONES}, {"loss": Weighted(ONES, ONES), "error": ONES}])
def test_a_value_of_each_example_is_taken(metrics):
    assert _judged((metrics, "carry")) == (metrics, "carry")


# A mean over the batch would count examples that only fill it.
@pytest.mark.parametrize("value", [jnp.ones(()), jnp.ones((6, 6)), jnp.ones(5), Weighted(ONES, jnp.ones(()))])
def test_a_metric_without_a_value_of_each_example_is_refused(value):
    sentence = r"the metric 'error' of the task test_task_checks must have a value for each .*, \[B\] = \[6\], got \["
    with pytest.raises(ConfigError, match=sentence):
        _judged(({"loss": ONES, "error": value}, None))


@pytest.mark.parametrize("returned", [{"loss": ONES}, (ONES, None), ONES, None])
def test_a_loss_that_returns_something_else_is_refused(returned):
    with pytest.raises(
        ConfigError, match=r"must return a dict of metrics, and the carry, got (dict|tuple|.*Array.*|NoneType)$"
    ):
        _judged(returned)


def test_metrics_without_a_loss_are_refused():
    with pytest.raises(ConfigError, match=r"must return a metric 'loss', got mse$"):
        _judged(({"mse": ONES}, None))


def test_fields_of_unequal_numbers_of_examples_are_refused():
    data = dataclasses.replace(DATA, splits={**DATA.splits, "test": {**PART, "ys": np.zeros(5)}})
    with pytest.raises(ConfigError, match=r"all fields of the test split must be of as many examples, got xs 6, ys 5$"):
        check_examples(Task(None, data))
    check_examples(Task(None, DATA))


def test_a_split_that_is_missing_is_named():
    with pytest.raises(ConfigError, match="has no split validation, test; have read return it"):
        check_splits(Task(None, dataclasses.replace(DATA, splits={"train": PART})))
    check_splits(Task(None, DATA))


def test_a_best_metric_that_is_none_of_the_task_is_refused():
    with pytest.raises(ConfigError, match=r"has no metric 'accuracy'; choose best_metric from loss, mae$"):
        check_best_metric(Task(None, DATA), {"mae": 1.0, "loss": 1.0})


def test_metrics_and_scores_that_are_arrays_become_numbers():
    class Own(Task):
        def metrics(self, means):
            return {**means, "perplexity": jnp.exp(means["loss"])}

        def scores(self, params, split):
            return {"bleu": np.float32(0.5)}

    own = Own(None, DATA)
    assert json.dumps(metrics_of(own, {"loss": 0.0})) == '{"loss": 0.0, "perplexity": 1.0}'
    assert json.dumps(scores_of(own, None, "test")) == '{"bleu": 0.5}'


@pytest.mark.parametrize(
    ("returned", "sentence"),
    [
        (
            {"perplexity": 1.0},
            r"metrics of the task .* must return the means that it is given, the loss at least: {\*\*means, \.\.\.}$",
        ),
        ({"loss": 1.0, "each": np.ones(3)}, r"the metric 'each' of the task .* must be a number, got shape \[3\]$"),
    ],
)
def test_metrics_that_lose_the_means_or_are_no_numbers_are_refused(returned, sentence):
    class Own(Task):
        def metrics(self, means):
            return returned

    with pytest.raises(ConfigError, match=sentence):
        metrics_of(Own(None, DATA), {"loss": 1.0})


def test_a_task_without_a_model_says_so_where_parameters_are_made():
    with pytest.raises(ConfigError, match=r"has no model; set self\.model in __init__, or write init and predict$"):
        Task(None, DATA).init(jax.random.key(0))


def test_inputs_of_other_sizes_than_the_data_are_refused():
    task = Task(None, DATA)
    task.inputs = {"xs": Field(("B", 5), "float32"), "elsewhere": Field(("B", 7), "float32")}
    with pytest.raises(ConfigError, match=r"says that xs is \[B, 5\], but the data has \[6, 6\]$"):
        check_inputs(task)
    task.inputs = {"xs": Field(("B", "T"), "float32"), "ys": Field(("B",), "float32")}
    check_inputs(task)


def test_what_json_cannot_hold_is_not_kept():
    check_kept(Task(None, dataclasses.replace(DATA, kept={"names": ["a", "b"]})))
    with pytest.raises(ConfigError, match=r"keeps 'names', which JSON cannot hold \(.*ndarray.*\); .* \.tolist\(\)$"):
        check_kept(Task(None, dataclasses.replace(DATA, kept={"names": np.arange(3)})))
