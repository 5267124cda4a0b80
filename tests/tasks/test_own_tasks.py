"""Tasks on data of one's own: what counts, what a run keeps, and that raw values reach the model as data does."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from fixtures.parameters import drawn_parameters

from configs.own import VARIANTS
from rnnjax.config import CellConfig, DataConfig
from rnnjax.config_file import get_config
from rnnjax.config_group import freeze
from rnnjax.errors import ConfigError, DataError
from rnnjax.tasks import build_task, classify, forecast, navigation, open_task, tag
from rnnjax.tasks.own_data import SequencesConfig
from rnnjax.tasks.task import Weighted

CELL = CellConfig(kind="GRU", hidden_size=4)
RNG = np.random.default_rng(0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("own")
    values = RNG.standard_normal((20, 5, 2))
    values[0, 1] = values[3, 2] = np.nan  # whole steps
    values[5, 0, 1] = np.nan
    lengths = RNG.integers(3, 6, 20)
    labels = np.arange(20) % 2
    np.savez(path / "sequences.npz", x=values, y=labels, lengths=lengths)
    tags = np.where(np.arange(5) == 4, -1, (np.nan_to_num(values[..., 0]) > 0))
    np.savez(path / "tags.npz", x=values, y=tags, lengths=lengths)
    rows = [f"{np.sin(t):.4f},{t}" for t in range(60)]
    rows[7] = ","
    (path / "series.csv").write_text("wave,line\n" + "\n".join(rows) + "\n")
    (path / "1000_index_x.txt").write_text("".join(f"{i} {i + 1} {i + 2} {i + 3}\n" for i in range(40)))
    (path / "1000_index_y.txt").write_text("".join(f"{i + 4}\n" for i in range(40)))
    return path


def config_of(name, folder):
    return freeze(
        {
            "classify": lambda: classify.Config(cell=CELL, data=SequencesConfig(path=f"{folder}/sequences.npz")),
            "tag": lambda: tag.Config(cell=CELL, data=SequencesConfig(path=f"{folder}/tags.npz")),
            "forecast": lambda: forecast.Config(
                cell=CELL, window=5, horizon=2, season=3, data=forecast.ForecastConfig(path=f"{folder}/series.csv")
            ),
        }[name]()
    )


@pytest.fixture(scope="module")
def tasks(folder):
    return {name: build_task(config_of(name, folder)) for name in ("classify", "tag", "forecast")}


def first(task, split, count=4):
    return {name: jnp.asarray(field[:count]) for name, field in task.data.splits[split].items()}


@pytest.mark.parametrize("name", ["classify", "tag", "forecast"])
def test_what_a_run_keeps_reads_raw_values_as_the_data_was_read(tasks, folder, name):
    task, config = tasks[name], config_of(name, folder)
    kept = json.loads(json.dumps(task.kept))
    opened, params = open_task(config, kept), drawn_parameters(task.init)
    assert build_task(config, kept).data.checksum == task.data.checksum
    batch = first(task, "train")
    if name == "forecast":
        raw = np.genfromtxt(folder / "series.csv", delimiter=",", skip_header=1)
        values = np.stack([raw[start : start + 5] for start in range(4)])
        expected = task.model.apply(params, batch["inputs"], batch["last"], mask=batch["mask"], deterministic=True)
        scale, mean = (np.array(kept["scaling"][part]) for part in ("scale", "mean"))
        expected = expected * scale + mean
    else:
        scaling = kept["scaling"]
        missing = ~np.asarray(batch["mask"])[..., None]
        plain = np.asarray(batch["inputs"])[..., :2] * scaling["scale"] + scaling["mean"]
        gap = np.asarray(batch["inputs"])[..., 2:] > 0
        assert scaling["gaps"] == [1]
        values = np.where(missing | np.concatenate([np.zeros_like(gap), gap], -1), np.nan, plain)
        expected = task.model.apply(params, batch["inputs"], mask=batch["mask"], deterministic=True)
    found = jax.jit(opened.predict)(params, {"values": values.astype(np.float32)})
    np.testing.assert_allclose(found, expected, rtol=2e-4, atol=2e-4)


def values_of(task, batch):
    params = drawn_parameters(task.init)
    return jax.jit(lambda batch: task.loss(params, None, batch, None)[0])(batch)


def test_an_unknown_class_is_an_error_and_no_part_of_the_loss(tasks):
    batch = first(tasks["classify"], "train")
    values = values_of(tasks["classify"], {**batch, "label": batch["label"].at[1].set(-1)})
    np.testing.assert_array_equal(values["loss"].weight, [1, 0, 1, 1])
    assert values["accuracy"][1] == 0


def test_steps_without_label_or_past_the_end_do_not_count(tasks):
    batch = first(tasks["tag"], "train")
    lengths, mask = np.asarray(batch["length"]), np.asarray(batch["mask"])
    labelled = mask & (np.arange(5) < np.minimum(lengths, 4)[:, None])
    np.testing.assert_array_equal(batch["counted"], labelled)
    values = jax.jit(lambda batch: tasks["tag"].loss(drawn_parameters(tasks["tag"].init), None, batch, None)[0])
    one, other = values(batch), values({**batch, "label": jnp.where(labelled, batch["label"], 1)})
    for name in ("loss", "accuracy"):
        np.testing.assert_array_equal(one[name].weight, labelled.sum(1))
        np.testing.assert_array_equal(one[name].value, other[name].value)


def test_the_mean_loss_counts_steps_not_sequences(tasks):
    batch = tasks["tag"].data.splits["train"]
    params = drawn_parameters(tasks["tag"].init)
    loss = tasks["tag"].loss(params, None, jax.tree.map(jnp.asarray, dict(batch)), None)[0]["loss"]
    assert len(set(loss.weight.tolist())) > 1
    expected = np.average(loss.value, weights=loss.weight)
    np.testing.assert_allclose(tasks["tag"].mean_loss(params, batch), expected, rtol=1e-6)


def test_errors_of_a_forecast_are_in_the_units_of_the_columns_and_of_values_that_are_there():
    errors = jnp.array([[[1.0, 2.0], [3.0, jnp.nan]]])
    counted = jnp.array([[[True, True], [True, False]]])
    values = forecast.judged(errors, counted, np.float32([10, 1]))
    assert values["loss"] == Weighted(*(pytest.approx(number) for number in ((1 + 4 + 9) / 3, 3)))
    assert float(values["mae"].value[0]) == pytest.approx((10 + 2 + 30) / 3)
    assert float(values["mse"].value[0]) == pytest.approx((100 + 4 + 900) / 3)


def test_baselines_are_of_the_same_windows(tasks, folder):
    task = tasks["forecast"]
    scores = task.scores(drawn_parameters(task.init), "test")
    wave = np.round(np.sin(np.arange(51, 60)), 4)
    line = np.arange(51.0, 60)
    errors = {"naive": [], "seasonal_naive": []}
    for column in (wave, line):
        for start in range(3):
            truth = column[start + 5 : start + 7]
            errors["naive"] += list(truth - column[start + 4])
            errors["seasonal_naive"] += list(truth - column[start + 2 : start + 4])
    for name, wrong in errors.items():
        assert scores[f"{name}_mae"] == pytest.approx(np.abs(wrong).mean(), rel=1e-4)
        assert scores[f"{name}_mse"] == pytest.approx(np.square(wrong).mean(), rel=1e-4)
    assert {"mae_wave", "mae_line"} < scores.keys()


def test_a_model_of_zeros_is_the_naive_forecast(tasks):
    task = tasks["forecast"]
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), jax.eval_shape(task.init, jax.random.key(0)))
    values = jax.jit(lambda batch: task.loss(zeros, None, batch, None)[0])(first(task, "test", 3))
    naive = task.scores(zeros, "test")
    assert float(values["mae"].value.mean()) == pytest.approx(naive["naive_mae"], rel=1e-5)


def test_labels_of_steps_are_answered_for_data_with_labels_or_without(tasks, folder, tmp_path):
    kept, params = tasks["tag"].kept, drawn_parameters(tasks["tag"].init)
    labelled = list(open_task(config_of("tag", folder), kept).generate(params))
    with np.load(folder / "tags.npz") as arrays:
        np.savez(tmp_path / "open.npz", x=arrays["x"], lengths=arrays["lengths"])
        assert len(labelled) == 1 + arrays["lengths"].sum()
    other = tag.Config(cell=CELL, data=SequencesConfig(path=f"{tmp_path}/open.npz"))
    assert list(open_task(freeze(other), kept).generate(params)) == labelled
    assert labelled[0] == "id,step,label,probability"


def test_values_far_from_zero_are_answered_as_they_are_evaluated(tmp_path):
    labels = np.arange(20) % 2
    values = 1.7e9 + 100.0 * labels[:, None, None] + RNG.integers(0, 100, (20, 3, 1))  # float32 knows multiples of 128
    np.savez(tmp_path / "data.npz", x=values, y=labels)
    config = freeze(classify.Config(cell=CELL, data=SequencesConfig(path=f"{tmp_path}/data.npz")))
    task = build_task(config)
    params, scaling = drawn_parameters(task.init), task.kept["scaling"]
    inputs = ((values - scaling["mean"]) / scaling["scale"]).astype(np.float32)
    logits: np.ndarray = task.model.apply(params, inputs, deterministic=True)
    lines = list(task.generate(params))[1:]
    expected = jax.nn.softmax(logits).max(-1)
    np.testing.assert_allclose([float(line.split(",")[2]) for line in lines], expected, atol=1e-3)


def test_what_follows_the_end_of_the_data_is_forecast_with_the_file_and_without(tasks, folder, tmp_path):
    config, kept = config_of("forecast", folder), tasks["forecast"].kept
    params = drawn_parameters(tasks["forecast"].init)
    lines = list(open_task(config, kept).generate(params, plots=tmp_path))
    assert [len(lines), lines[0]] == [3, "wave,line"]
    assert (tmp_path / "generated.png").stat().st_size > 1000
    nowhere = forecast.ForecastConfig(path="/nowhere.csv")
    gone = freeze(forecast.Config(cell=CELL, window=5, horizon=2, data=nowhere))
    assert list(open_task(gone, kept).generate(params, length=1)) == lines[:2]
    nowhere = forecast.ForecastConfig()
    nowhere.read_other("/nowhere.csv")  # as --data does
    asked_for = freeze(forecast.Config(cell=CELL, window=5, horizon=2, data=nowhere))
    with pytest.raises(DataError, match=r"nowhere\.csv does not exist: give the data with"):
        list(open_task(asked_for, kept).generate(params))


def test_rows_of_items_are_windows_of_sessions(folder):
    data = DataConfig(name="sessions", path=str(folder))
    task = build_task(freeze(navigation.Config(cell=CELL, data=data, windows=20)))
    train = task.data.splits["train"]
    assert train["items"].shape == (20, 4)
    assert len(task.kept["items"]) == 24
    np.testing.assert_array_equal(train["items"][1:, :-1], train["items"][:-1, 1:])


def test_rows_of_another_number_of_items_are_refused(tmp_path):
    (tmp_path / "3_x.txt").write_text("1 2 3\n" * 9)
    (tmp_path / "3_y.txt").write_text("4\n" * 9)
    with pytest.raises(DataError, match="has rows of 3 items, but 4 are read"):
        build_task(freeze(navigation.Config(cell=CELL, data=DataConfig(name="sessions", path=str(tmp_path)))))


@pytest.mark.parametrize("variant", VARIANTS)
def test_variants_ask_for_a_path_and_take_one(variant):
    with pytest.raises(ConfigError, match=r"needs? --config\.data\.path"):
        freeze(get_config(f"own:{variant}"))
    config = get_config(f"own:{variant}")
    config.data.path = "file"
    freeze(config)
    assert config.data.path == "file"
    assert get_config(f"own:{variant}").data.path is None


@pytest.mark.parametrize(
    ("group", "fields", "message"),
    [
        (SequencesConfig, {"validation_fraction": 0.0}, r"data\.validation_fraction must be between 0 and 1"),
        (SequencesConfig, {"test_fraction": 0.9}, r"must leave data, got 1\.05 together"),
        (SequencesConfig, {"split": "random"}, 'data.split must be "fraction" or "time"'),
        (SequencesConfig, {"name": "mnist"}, 'data.name must be "own"'),
        (forecast.ForecastConfig, {"stride": 0}, r"data\.stride must be at least 1"),
    ],
)
def test_configs_that_cannot_be_meant_are_refused(group, fields, message):
    with pytest.raises(ConfigError, match=message):
        group(path="file", **fields).check()
    with pytest.raises(ConfigError, match="season must be from 0 to window, 48, got 50"):
        forecast.Config(season=50, data=forecast.ForecastConfig(path="file")).check()
