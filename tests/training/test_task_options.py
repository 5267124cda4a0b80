"""What a task may ask of the training loop besides shuffled batches and plain means."""

import math

import jax.numpy as jnp
import numpy as np
import pytest
from fixtures.thorough import once_more
from toytasks.runs import counting_task, data_set, examples_in, line_config, made_task, numbered, run_training

from rnnjax.config import DataConfig, ParallelConfig
from rnnjax.errors import ConfigError
from rnnjax.tasks.task import Buckets, Weighted

pytestmark = pytest.mark.usefixtures("programs_of_alike_runs")

WIDTHS = ({"x": 2}, {"x": 5})
BUCKET = np.array([0, 1, 1, 0, 1, 0, 1, 1, 1])  # 3 examples of the first bucket, 6 of the second


def bucketed_task(**options):
    """Examples with a field of 5 columns, those of the first bucket 0 past 2; metrics say what a batch is made of."""
    x = np.where((np.arange(5) < 2) | (BUCKET == 1)[:, None], 1 + np.arange(9)[:, None], 0).astype(np.float32)

    def loss(params, carry, batch, key):
        zero = 0 * batch["id"]
        width = zero + batch["x"].shape[1]
        return {"loss": zero + params["w"], "id": batch["id"], "width": width, "sum": batch["x"].sum(1)}, carry

    train = numbered(9, x=x)
    return made_task(
        data_set(train=train),
        lambda key: {"w": jnp.zeros(())},
        loss,
        best_metric="loss",
        buckets=Buckets(dict.fromkeys(("train", "validation", "test"), BUCKET), WIDTHS),
        **options,
    )


@pytest.mark.parametrize("devices", ["1", "2"])
def test_examples_of_unequal_weight_count_by_their_weight_in_gradient_and_metrics(devices, tmp_path):
    value, weight = np.array([1.0, 2.0, 3.0, 4.0], np.float32), np.array([1.0, 0.0, 2.0, 5.0], np.float32)

    def loss(params, carry, batch, key):
        return {"loss": Weighted(params["w"] * batch["x"], batch["weight"]), "plain": batch["x"]}, carry

    data = data_set(train={"x": value, "weight": weight})
    task = made_task(data, lambda key: {"w": jnp.ones(())}, loss, best_metric="loss", higher_is_better=False)
    run = run_training(tmp_path, line_config(parallel=ParallelConfig(batch=devices)), task)
    mean = (value * weight).sum() / weight.sum()
    assert run.of("train", "loss") == pytest.approx([mean])
    assert run.of("train", "plain") == pytest.approx([2.5])
    assert float(run.state.params["w"]) == pytest.approx(1 - 0.1 * mean)
    assert run.of("test", "loss") == pytest.approx([(1 - 0.1 * mean) * mean])


def test_a_batch_in_which_nothing_counts_changes_nothing(tmp_path):
    def loss(params, carry, batch, key):
        return {"loss": Weighted(params["w"] * batch["id"], 0 * batch["id"])}, carry

    task = made_task(data_set(train=numbered(4)), lambda key: {"w": jnp.ones(())}, loss, best_metric="loss")
    run = run_training(tmp_path, line_config(), task)
    assert run.of("train", "loss") == [0]
    assert float(run.state.params["w"]) == 1


@pytest.mark.parametrize("feed", ["device", "host"])
def test_ordered_examples_are_taken_as_they_stand_in_every_epoch(feed, tmp_path):
    run = run_training(tmp_path, line_config(epochs=2, data=DataConfig(feed=feed)), counting_task(10, ordered=True))
    taken = [examples_in(4 * mean) for mean in run.of("train", "id")]
    assert taken == [{0, 1, 2, 3}, {4, 5, 6, 7}] * 2


@pytest.mark.parametrize("feed", ["device", once_more("host")])
def test_a_batch_holds_examples_of_one_bucket_cut_to_its_width(feed, tmp_path):
    config = line_config(epochs=6, evaluate_every=6, batch_size=2, data=DataConfig(feed=feed))
    run = run_training(tmp_path, config, bucketed_task())
    taken = [examples_in(2 * mean) for mean in run.of("train", "id")]
    assert len(taken) == 6 * (1 + 3)
    for batch, width, total in zip(taken, run.of("train", "width"), run.of("train", "sum")):
        bucket = {int(BUCKET[i]) for i in batch}
        assert bucket == ({0} if width == 2 else {1})
        assert 2 * total == sum((i + 1) * width for i in batch)
    for epoch in range(6):
        batches = taken[4 * epoch : 4 * epoch + 4]
        assert len(set().union(*batches)) == 8  # none twice
    assert len({tuple(run.of("train", "width")[4 * epoch : 4 * epoch + 4]) for epoch in range(6)}) > 1


@pytest.mark.parametrize(
    ("devices", "feed"), [("1", "host"), ("2", "device"), once_more("1", "device"), once_more("2", "host")]
)
def test_evaluation_in_buckets_counts_every_example_once(devices, feed, tmp_path):
    config = line_config(batch_size=2, parallel=ParallelConfig(batch=devices), data=DataConfig(feed=feed))
    run = run_training(tmp_path, config, bucketed_task())
    assert examples_in(9 * run.of("test", "id")[0]) == set(range(9))
    assert run.of("test", "width") == pytest.approx([(3 * 2 + 6 * 5) / 9])


def test_a_bucket_smaller_than_a_batch_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="batch_size is 4, but there are 3 training examples in a bucket"):
        run_training(tmp_path, line_config(batch_size=4), bucketed_task())


def test_derived_metrics_are_in_every_line(tmp_path):
    task = counting_task(8, metrics=lambda means: means | {"perplexity": math.exp(means["loss"])})
    run = run_training(tmp_path, line_config(), task)
    assert {row["split"] for row in run.metrics} == {"train", "validation", "test"}
    assert [row["perplexity"] for row in run.metrics] == [pytest.approx(math.e)] * len(run.metrics)


def test_scores_of_the_test_split_are_written_at_the_end(tmp_path):
    task = counting_task(8, scores=lambda params, split: {f"{split}_score": float(params["w"]) + 7})
    run = run_training(tmp_path, line_config(), task)
    assert run.summary["final"]["test"]["test_score"] == 7
    assert task.scores(run.state.params, "validation") == {"validation_score": 7}


def test_evaluation_comes_every_so_many_epochs_and_after_the_last(tmp_path):
    run = run_training(tmp_path, line_config(epochs=5, evaluate_every=2), counting_task(8))
    assert [row["epoch"] for row in run.metrics if row["split"] == "validation"] == [2, 4, 5]
    assert [row["epoch"] for row in run.metrics if row["split"] == "train"] == [1, 1, 2, 2, 3, 3, 4, 4, 5, 5]
