import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from fixtures.thorough import once_more
from toytasks.runs import (
    assert_identical,
    assert_same_run,
    changed,
    counting_task,
    data_set,
    examples_in,
    last_checkpoint,
    leaves,
    line_config,
    made_task,
    numbered,
    run_training,
    sign_config,
    with_checkpoints,
)

from rnnjax.config import CellConfig, DataConfig, OptimizerConfig, ParallelConfig
from rnnjax.errors import ConfigError, TrainingError
from rnnjax.tasks import build_task
from rnnjax.tasks.task import Task
from rnnjax.training import loop
from rnnjax.training.directory.run_directory import RunDirectory

pytestmark = pytest.mark.usefixtures("programs_of_alike_runs")


def line_task(examples: int = 16, carry=None) -> Task:
    """Least squares: loss (x . w + b - y)^2."""
    rng = np.random.default_rng(1)
    x = rng.normal(size=(examples, 3)).astype(np.float32)
    y = (x @ np.array([1.0, -2.0, 0.5]) + 0.3).astype(np.float32)

    def loss(params, carry, batch, key):
        loss = (batch["x"] @ params["w"] + params["b"] - batch["y"]) ** 2
        return {"loss": loss}, carry

    def init(key):
        return {"w": jnp.array([0.1, 0.2, 0.3]), "b": jnp.zeros(())}

    data = data_set(train={"x": x, "y": y})
    return made_task(data, init, loss, best_metric="loss", higher_is_better=False, carry=carry)


@pytest.fixture(scope="module")
def three_epochs(tmp_path_factory):
    return run_training(tmp_path_factory.mktemp("three"), sign_config())


def test_a_learnable_task_is_learned(tmp_path):
    run = run_training(tmp_path, sign_config(epochs=24, evaluate_every=24))
    losses = run.of("train", "loss")
    assert losses[-1] < 0.5 * losses[0]
    assert run.summary["final"]["test"]["accuracy"] >= 0.8


@pytest.mark.parametrize(
    ("optimizer", "by_hand"),
    [
        (OptimizerConfig(name="adam", learning_rate=0.1), optax.adam(0.1)),
        (
            OptimizerConfig(name="sgd", learning_rate=0.1, momentum=0.9, clip_norm=0.5),
            optax.chain(optax.clip_by_global_norm(0.5), optax.sgd(0.1, momentum=0.9)),
        ),
    ],
    ids=["adam", "clipped momentum"],
)
def test_training_takes_the_steps_of_the_optimiser_on_the_mean_loss(optimizer, by_hand, tmp_path):
    # A batch is the whole training split, so that its order does not matter.
    task = line_task()
    run = run_training(tmp_path, line_config(epochs=4, evaluate_every=4, batch_size=16, optimizer=optimizer), task)
    x, y = (task.data.splits["train"][name].astype(np.float64) for name in "xy")
    params = task.init(jax.random.key(0))
    state, losses = by_hand.init(params), []
    for _ in range(4):
        wrong = x @ np.asarray(params["w"], np.float64) + float(params["b"]) - y
        losses.append((wrong**2).mean())
        gradients = {"w": 2 * x.T @ wrong / 16, "b": 2 * wrong.mean()}
        gradients = jax.tree.map(lambda g: jnp.asarray(g, jnp.float32), gradients)
        updates, state = by_hand.update(gradients, state, params)
        params = optax.apply_updates(params, updates)
    np.testing.assert_allclose(run.of("train", "loss"), losses, rtol=1e-5)
    for name in params:
        np.testing.assert_allclose(run.state.params[name], params[name], rtol=1e-5)
    assert int(run.state.step) == 4


@pytest.mark.thorough
def test_the_same_seed_gives_the_same_run_bit_by_bit(three_epochs, tmp_path):
    assert_same_run(run_training(tmp_path, sign_config()), three_epochs)


def test_another_seed_gives_other_parameters_and_another_order(three_epochs, tmp_path):
    other = run_training(tmp_path, sign_config(seed=1))
    assert other.metrics != three_epochs.metrics
    for a, b in zip(leaves(other.state.params), leaves(three_epochs.state.params)):
        assert not np.array_equal(a, b)


def test_data_fed_from_the_host_gives_the_same_run_bit_by_bit(three_epochs, tmp_path):
    assert_same_run(run_training(tmp_path, sign_config(data=DataConfig(feed="host"))), three_epochs)


def test_more_steps_a_call_than_an_epoch_has_is_an_epoch(three_epochs, tmp_path):
    assert_same_run(run_training(tmp_path, sign_config(steps_per_call=1000)), three_epochs)


@pytest.mark.parametrize("feed", ["device", once_more("host")])
def test_two_devices_agree_with_one(feed, three_epochs, tmp_path):
    run = run_training(tmp_path, sign_config(parallel=ParallelConfig(batch="2"), data=DataConfig(feed=feed)))
    assert run.summary["device"]["count"] == 2
    assert len(run.metrics) == len(three_epochs.metrics)
    for row, expected in zip(run.metrics, three_epochs.metrics):
        assert row.pop("split") == expected.pop("split")
        assert row == pytest.approx(expected, rel=1e-4)
    for a, b in zip(leaves(run.state.params), leaves(three_epochs.state.params)):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5)


def test_devices_draw_their_own_dropout_masks(tmp_path):
    # The same example at every place: with one mask for all devices, each half of the batch would be the other.
    example = {"x": np.ones((4, 6), np.float32)}

    def loss(params, carry, batch, key):
        kept = jnp.zeros(batch["x"].shape) if key is None else jax.random.bernoulli(key, 0.5, batch["x"].shape)
        return {"loss": 0 * params["w"] + kept.sum(1), "bits": kept @ 2.0 ** jnp.arange(6)}, carry

    task = made_task(data_set(train=example), lambda key: {"w": jnp.zeros(())}, loss, best_metric="loss")
    config = line_config(epochs=8, evaluate_every=8, parallel=ParallelConfig(batch="2"))
    key_of_one = run_training(tmp_path / "two", config, task).of("train", "bits")
    assert len(set(key_of_one)) > 1
    one = run_training(tmp_path / "one", line_config(epochs=8, evaluate_every=8), task).of("train", "bits")
    assert one != key_of_one


def test_an_epoch_takes_every_example_once(tmp_path):
    run = run_training(tmp_path, line_config(epochs=2, batch_size=1), counting_task(16))
    ids = [int(np.log2(value)) for value in run.of("train", "id")]
    first, second = ids[:16], ids[16:]
    assert sorted(first) == sorted(second) == list(range(16))
    assert first != second
    assert first != list(range(16))


def test_the_order_depends_on_the_seed(tmp_path):
    task = counting_task(16)
    orders = [
        run_training(tmp_path / str(seed), line_config(batch_size=1, seed=seed), task).of("train", "id")
        for seed in (0, 1)
    ]
    assert orders[0] != orders[1]


@pytest.mark.parametrize("feed", ["device", once_more("host")])
def test_examples_that_fill_no_batch_are_left_out_and_none_is_taken_twice(feed, tmp_path):
    config = line_config(epochs=2, batch_size=3, data=DataConfig(feed=feed))
    run = run_training(tmp_path, config, counting_task(16))
    batches = [examples_in(3 * mean) for mean in run.of("train", "id")]
    assert [len(batch) for batch in batches] == [3] * 10
    for epoch in (batches[:5], batches[5:]):
        assert len(set().union(*epoch)) == 15


@pytest.mark.parametrize(("examples", "feed", "devices"), [(7, "device", "1"), (1, "host", "2"), (8, "device", "2")])
def test_every_example_of_a_split_is_evaluated_exactly_once(examples, feed, devices, tmp_path):
    task = counting_task(8, splits={"validation": numbered(examples), "test": numbered(examples + 1)})
    config = line_config(data=DataConfig(feed=feed), parallel=ParallelConfig(batch=devices))
    run = run_training(tmp_path, config, task)
    assert run.of("validation", "id") == [pytest.approx((2**examples - 1) / examples, rel=1e-6)]
    assert run.of("test", "id") == [pytest.approx((2 ** (examples + 1) - 1) / (examples + 1), rel=1e-6)]


def test_a_split_of_many_batches_sent_from_the_host_is_evaluated_whole(tmp_path):
    # More batches than are sent at a time, the last with one example.
    values = np.arange(2 * 131 - 1, dtype=np.float32)
    task = counting_task(8, splits={"validation": {"id": values}})
    run = run_training(tmp_path, line_config(batch_size=2, data=DataConfig(feed="host")), task)
    assert run.of("validation", "id") == [pytest.approx(values.mean(), rel=1e-6)]


def test_evaluation_draws_no_dropout(tmp_path):
    def loss(params, carry, batch, key):
        return {"loss": 0 * params["w"] + jnp.full(batch["x"].shape, float(key is None))}, carry

    task = made_task(
        data_set(train={"x": np.zeros(8, np.float32)}), lambda key: {"w": jnp.ones(())}, loss, best_metric="loss"
    )
    run = run_training(tmp_path, line_config(), task)
    assert run.of("train", "loss") == [0, 0]
    assert run.of("validation", "loss") == run.of("test", "loss") == [1]


def stateful_task(carry) -> Task:
    """A task whose state adds up `w` once a step, and whose loss is the state."""

    def loss(params, carry, batch, key):
        carry = carry + params["w"]
        return {"loss": carry + 0 * batch["x"]}, carry

    data = data_set(train={"x": np.zeros(12, np.float32)})
    return made_task(data, lambda key: {"w": jnp.ones(())}, loss, best_metric="loss", carry=carry)


@pytest.mark.parametrize("devices", ["1", "2"])
def test_a_state_is_handed_on_and_the_gradient_stops_there(devices, tmp_path):
    config = line_config(epochs=2, parallel=ParallelConfig(batch=devices))
    run = run_training(tmp_path, config, stateful_task(np.zeros(4, np.float32)))
    # d loss / d w is 1 at every step, not the number of steps so far: w falls by the rate, 0.1, each time.
    weights = 1 - 0.1 * np.arange(6)
    np.testing.assert_allclose(run.of("train", "loss"), np.cumsum(weights), rtol=1e-6)
    np.testing.assert_allclose(run.state.params["w"], 0.4, rtol=1e-6)
    np.testing.assert_allclose(run.state.carry, np.full(4, weights.sum()), rtol=1e-6)


def test_the_state_that_a_task_starts_from_may_be_a_jax_array_and_stays_usable(tmp_path):
    task = stateful_task(jnp.zeros(4))
    first = run_training(tmp_path / "first", line_config(), task)
    assert not task.carry.is_deleted()
    again = run_training(tmp_path / "again", line_config(), task)
    assert first.metrics == again.metrics


def test_the_state_before_a_call_is_donated_to_it(tmp_path, monkeypatch):
    initial = []
    real = loop.initial_or_restored

    def spy(*arguments, **options):
        found = real(*arguments, **options)
        initial.append(found[0])
        return found

    monkeypatch.setattr(loop, "initial_or_restored", spy)
    run_training(tmp_path, sign_config(epochs=1))
    arrays = jax.tree.leaves((initial[0].params, initial[0].opt_state))
    assert arrays
    assert all(array.is_deleted() for array in arrays)


def test_steps_are_logged_as_means_over_log_every_of_them(tmp_path):
    task = counting_task(16)
    single = run_training(tmp_path / "one", line_config(batch_size=1), task)
    grouped = run_training(tmp_path / "five", line_config(batch_size=1, log_every=5), task)
    ids = np.array(single.of("train", "id"))
    expected = [ids[:5].mean(), ids[5:10].mean(), ids[10:15].mean(), ids[15]]
    assert grouped.of("train", "id") == pytest.approx(expected, rel=1e-6)
    assert [row["step"] for row in grouped.metrics if row["split"] == "train"] == [5, 10, 15, 16]


def test_training_in_bfloat16_keeps_float32_parameters(tmp_path):
    run = run_training(tmp_path, sign_config(dtype="bfloat16"))
    assert {leaf.dtype for leaf in jax.tree.leaves(run.state.params)} == {np.dtype("float32")}
    assert run.of("train", "loss")[-1] < run.of("train", "loss")[0]


def test_a_learning_rate_schedule_spans_the_whole_run(tmp_path):
    # 4 steps from 1 to 0: the rates are 1, 3/4, 1/2, 1/4, and the gradient of the mean of w * 1 is 1.
    def loss(params, carry, batch, key):
        return {"loss": params["w"] * batch["x"]}, carry

    data = data_set(train={"x": np.ones(8, np.float32)})
    task = made_task(data, lambda key: {"w": jnp.zeros(())}, loss, best_metric="loss", higher_is_better=False)
    optimizer = OptimizerConfig(name="sgd", learning_rate=1.0, schedule="linear")
    run = run_training(tmp_path, line_config(epochs=2, optimizer=optimizer), task)
    np.testing.assert_allclose(run.of("train", "loss"), [0, -1, -1.75, -2.25], rtol=1e-6)
    np.testing.assert_allclose(run.state.params["w"], -2.5, rtol=1e-6)


def test_dropout_changes_training_and_is_drawn_afresh_at_every_step(tmp_path):
    # One batch for all steps, in one order, and a rate so small that the parameters stay: only masks change the loss.
    fields = {"batch_size": 16, "examples": 16, "log_every": 1, "epochs": 3}
    still = OptimizerConfig(name="sgd", learning_rate=1e-12)

    def trained(name, config):
        return run_training(tmp_path / name, config, changed(build_task(config), ordered=True))

    plain = trained("plain", sign_config(**fields, optimizer=still))
    cell = CellConfig(hidden_size=4, dropout={"input_rate": 0.5})
    dropped = trained("dropped", sign_config(**fields, optimizer=still, cell=cell))
    assert len(set(np.round(plain.of("train", "loss"), 5))) == 1
    assert len(set(np.round(dropped.of("train", "loss"), 5))) == 3
    assert dropped.of("validation", "loss") == pytest.approx(plain.of("validation", "loss"), rel=1e-5)


def nan_task(step: int) -> Task:
    """A task whose loss is not a number at one step of training."""

    def loss(params, carry, batch, key):
        carry = carry + 1
        wrong = jnp.logical_and(key is not None, carry == step)
        return {"loss": params["w"] + 0 * batch["x"] + jnp.where(wrong, jnp.nan, 0.0)}, carry

    data = data_set(train={"x": np.zeros(12, np.float32)})
    return made_task(data, lambda key: {"w": jnp.ones(())}, loss, best_metric="loss", carry=np.zeros(4, np.int32))


@pytest.mark.parametrize(("step", "epochs"), [once_more(2, 1), (8, 3)])
def test_a_loss_that_is_not_finite_ends_the_run_and_its_step_is_named(step, epochs, tmp_path):
    task = nan_task(step)
    with pytest.raises(TrainingError, match=rf"step {step} is nan.*learning_rate"):
        run_training(tmp_path, line_config(epochs=epochs), task)
    rows = RunDirectory(tmp_path).metrics()
    assert [row["step"] for row in rows if row["split"] == "train"] == list(range(1, step))
    assert not (tmp_path / "summary.json").exists()


def test_the_checkpoints_before_a_loss_that_is_not_finite_are_whole(tmp_path):
    task, config = nan_task(8), line_config(epochs=3)
    with pytest.raises(TrainingError, match="step 8"):
        run_training(tmp_path, config, task)
    step, state = last_checkpoint(tmp_path, config, task)
    assert step == 6
    np.testing.assert_allclose(state.params["w"], 1 - 0.6, rtol=1e-6)


def test_parameters_that_are_no_longer_finite_are_not_kept(tmp_path):
    # One step an epoch: the loss of step 1 is finite, what the step makes of the parameters is not.
    def loss(params, carry, batch, key):
        return {"loss": params["w"] ** 2 + 0 * batch["x"]}, carry

    data = data_set(train={"x": np.zeros(4, np.float32)})
    task = made_task(data, lambda key: {"w": jnp.ones(())}, loss, best_metric="loss", higher_is_better=False)
    config = line_config(epochs=2, optimizer=OptimizerConfig(name="sgd", learning_rate=3e38))
    with pytest.raises(TrainingError, match="learning_rate"):
        run_training(tmp_path, config, task)
    assert with_checkpoints(tmp_path, task, lambda checkpoints: checkpoints.steps()) == []


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"batch_size": 68}, "batch_size is 68, but there are 67 training examples"),
        ({"parallel": ParallelConfig(batch="3")}, "asks for 3 devices, but there are 2"),
        ({"optimizer": OptimizerConfig(warmup_steps=24, schedule="linear")}, "warmup_steps must be .* 23, got 24"),
    ],
)
def test_a_config_that_the_data_or_the_devices_cannot_do_is_refused(fields, message, tmp_path):
    config = sign_config(**fields)
    with pytest.raises(ConfigError, match=message):
        run_training(tmp_path / "run", config)


def test_the_final_state_says_how_many_steps_it_took(three_epochs):
    assert int(three_epochs.state.step) == 24
    assert three_epochs.summary["final"]["test"]["step"] == 24


def test_a_task_may_have_plots_of_its_own(tmp_path):
    drawn = []
    config = sign_config(epochs=1)
    task = changed(build_task(config), plots=lambda params, directory: drawn.append((params, directory)))
    run = run_training(tmp_path, config, task)
    ((params, directory),) = drawn
    assert_identical(params, run.state.params)
    assert directory == tmp_path / "plots"
