import json
import struct
import zlib

import pytest
from toytasks.runs import made_task, run_training, scalars, sign_config

from rnnjax import plots
from rnnjax.config_group import to_dict
from rnnjax.data.dataset import NO_DATA
from rnnjax.errors import ConfigError
from rnnjax.tasks import build_task
from rnnjax.training.directory.model_file import ModelFile
from rnnjax.training.directory.run_directory import RunDirectory
from rnnjax.training.directory.summary import best_metrics, final_metrics, is_summary

pytestmark = pytest.mark.usefixtures("programs_of_alike_runs")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return run_training(tmp_path_factory.mktemp("runs") / "run", sign_config(epochs=2))


def test_config_json_is_the_config(run):
    assert json.loads((run.directory.path / "config.json").read_text()) == to_dict(sign_config(epochs=2))


def test_every_line_of_metrics_says_step_epoch_split_and_the_metrics(run):
    rows = [json.loads(line) for line in (run.directory.path / "metrics.jsonl").read_text().splitlines()]
    assert [(row["step"], row["epoch"], row["split"]) for row in rows] == [
        (4, 1, "train"),
        (8, 1, "train"),
        (8, 1, "validation"),
        (12, 2, "train"),
        (16, 2, "train"),
        (16, 2, "validation"),
        (16, 2, "test"),
    ]
    of_optimizer = {"learning_rate", "gradient_norm", "update_norm"}
    for row in rows:
        expected = {"step", "epoch", "split", "loss", "accuracy"}
        assert row.keys() == (expected | of_optimizer if row["split"] == "train" else expected)
    assert all(isinstance(row[name], float) for row in rows for name in ("loss", "accuracy"))


def test_the_summary_says_what_came_out_and_on_what(run):
    summary = json.loads((run.directory.path / "summary.json").read_text())
    assert summary == run.summary
    assert summary.keys() >= {"final", "best", "seconds", "steps_per_second", "compile_seconds"}
    assert summary.keys() >= {"device", "versions", "git_commit", "data"}
    rows = run.metrics
    assert summary["final"] == {"train": rows[4], "validation": rows[5], "test": rows[6]}
    validation = [rows[2], rows[5]]
    assert summary["best"] == max(validation, key=lambda row: row["accuracy"])
    assert summary["seconds"] > summary["compile_seconds"] >= 0
    assert summary["steps_per_second"] > 0
    assert summary["device"].keys() >= {"kind", "count"}
    assert summary["device"]["count"] == 1
    assert summary["versions"].keys() >= {"python", "rnnjax", "jax", "jaxlib", "flax", "optax", "numpy"}
    data = build_task(sign_config()).data
    assert summary["data"] == {"name": "sign", "source": "made in the test", "checksum": data.checksum}


def test_the_rate_in_the_summary_is_that_of_the_steps_alone(tmp_path, monkeypatch):
    import time

    from rnnjax.training.directory.checkpoint import Checkpoints

    real = Checkpoints.restore_last

    def slow(self, like):
        time.sleep(2)
        return real(self, like)

    monkeypatch.setattr(Checkpoints, "restore_last", slow)
    summary = run_training(tmp_path, sign_config(epochs=1)).summary
    assert 8 / summary["steps_per_second"] < 2


def test_the_pictures_are_png_files(run, pictures, tmp_path):
    plots.plot_curves(run.metrics, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"loss.png", "accuracy.png"}
    for path in tmp_path.iterdir():
        width, height = png_size(path.read_bytes())
        assert width >= 300
        assert height >= 200


def test_a_run_draws_its_pictures(pictures, tmp_path):
    run_training(tmp_path, sign_config(epochs=1))
    assert {path.name for path in (tmp_path / "plots").iterdir()} == {"loss.png", "accuracy.png"}


def png_size(content: bytes) -> tuple[int, int]:
    """Width and height of a PNG file all of whose chunks are whole."""
    assert content[:8] == b"\x89PNG\r\n\x1a\n"
    names, at = [], 8
    while at < len(content):
        (length,) = struct.unpack(">I", content[at : at + 4])
        body = content[at + 4 : at + 8 + length]
        (checksum,) = struct.unpack(">I", content[at + 8 + length : at + 12 + length])
        assert zlib.crc32(body) == checksum
        names.append(body[:4])
        at += 12 + length
    assert names[0] == b"IHDR"
    assert names[-1] == b"IEND"
    return struct.unpack(">II", content[16:24])


def test_the_event_files_hold_the_metrics(run):
    expected = [
        (f"{row['split']}/{name}", row["step"], pytest.approx(row[name], rel=1e-6))
        for row in run.metrics
        for name in row.keys() - {"step", "epoch", "split"}
        if row["split"] in ("train", "validation")
    ]
    found = [point for point in scalars(run.directory.tensorboard) if not point[0].startswith("test/")]
    assert sorted(found, key=lambda point: point[:2]) == sorted(expected, key=lambda point: point[:2])


# Claiming a directory


def claim(path, **fields):
    RunDirectory(path).claim(to_dict(sign_config(**fields)))


def files(path):
    return {file: file.read_bytes() for file in path.rglob("*") if file.is_file()}


def test_a_new_directory_is_made_with_those_above_it(tmp_path):
    claim(tmp_path / "a" / "b")
    assert [file.name for file in (tmp_path / "a" / "b").iterdir()] == ["config.json"]


def test_an_empty_directory_is_taken(tmp_path):
    claim(tmp_path)
    assert RunDirectory(tmp_path).config() == to_dict(sign_config())


def test_the_run_of_the_same_config_is_gone_on_with(run):
    before = files(run.directory.path)
    claim(run.directory.path, epochs=2)
    assert files(run.directory.path) == before


def test_the_run_of_another_config_is_refused_by_the_fields_that_differ(run):
    before = files(run.directory.path)
    with pytest.raises(
        ConfigError, match=r"different: epochs, log_every\); choose another --workdir, where --init_from"
    ):
        claim(run.directory.path, epochs=3, log_every=1)
    assert files(run.directory.path) == before


def test_a_directory_that_holds_something_else_is_refused(tmp_path):
    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(ConfigError, match="is not empty and holds no run; choose another --workdir"):
        claim(tmp_path)
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [("thesis.tex", "mine")]


def test_a_file_is_refused(tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ConfigError, match="choose another --workdir"):
        claim(tmp_path / "file")
    with pytest.raises(ConfigError, match="choose another --workdir"):
        claim(tmp_path / "file" / "below")
    assert (tmp_path / "file").read_text() == "mine"


def test_a_place_where_nothing_can_be_written_is_refused():
    with pytest.raises(ConfigError, match=r"/proc/run cannot be used .*; choose another --workdir"):
        claim("/proc/run")


@pytest.mark.parametrize(
    "left", [{"config.json.part": '{"ta'}, {"config.json": ""}, {"config.json": "", "config.json.part": ""}]
)
def test_what_a_process_leaves_that_was_killed_before_it_claimed_the_directory_does_not_block(left, tmp_path):
    for name, content in left.items():
        (tmp_path / name).write_text(content)
    claim(tmp_path)
    assert RunDirectory(tmp_path).config() == to_dict(sign_config())
    assert [file.name for file in tmp_path.iterdir()] == ["config.json"]


def test_the_model_is_that_of_the_data_which_the_first_checkpoint_is_trained_on(tmp_path):
    directory, first, second = RunDirectory(tmp_path), *(ModelFile({"words": [w]}, {}, {}) for w in "ab")
    directory.keep_model(first)
    directory.keep_model(second)
    assert directory.model() == second
    (directory.checkpoints / "8").mkdir(parents=True)
    (directory.checkpoints / "8" / "about").write_text("{}")
    directory.keep_model(first)
    assert directory.model() == second


def test_directories_where_files_belong_are_set_aside(tmp_path, caplog):
    (tmp_path / "config.json.part").mkdir()
    claim(tmp_path)
    assert {file.name for file in tmp_path.iterdir()} == {"config.json", "config.json.part.set-aside"}
    assert "config.json.part.set-aside" in caplog.text


@pytest.mark.parametrize("content", ["{", "[]", '"run"', "null", "\x00\x00", 9999 * "["])
def test_a_damaged_config_is_refused_and_left_as_it_is(content, tmp_path):
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(ConfigError, match=r"config\.json"):
        claim(tmp_path)
    assert (tmp_path / "config.json").read_text() == content


def test_reading_a_config_where_there_is_no_run_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="holds no run"):
        RunDirectory(tmp_path / "none").config()


def test_a_run_is_complete_when_it_has_a_summary(tmp_path):
    directory = RunDirectory(tmp_path)
    assert directory.summary() is None
    directory.write_summary({"final": {}})
    assert directory.summary() == {"final": {}}
    assert [path.name for path in tmp_path.iterdir()] == ["summary.json"]


GARBAGE = [b"", b'{"final": ', b"\xff\xfe\x00", b"[]", b"5", b"null", b'"text"', 9999 * b"["]
SUMMARIES = [*GARBAGE, b"{}", b'{"final": []}', b'{"final": {"test": 3}, "device": {"kind": 1, "count": "2"}}']


def test_a_summary_that_was_written_is_one(run):
    assert is_summary(run.summary)
    assert is_summary(
        {name: value for name, value in run.summary.items() if name != "parameters"}
    )  # earlier runs' have none
    assert run.directory.summary(is_summary) == run.summary


@pytest.mark.parametrize("content", SUMMARIES, ids=range(len(SUMMARIES)))
def test_a_damaged_summary_is_named_and_none_so_that_the_run_is_finished_again(content, tmp_path, caplog):
    (tmp_path / "summary.json").write_bytes(content)
    assert RunDirectory(tmp_path).summary(is_summary) is None
    assert len(caplog.messages) == 1
    assert str(tmp_path / "summary.json") in caplog.text
    assert "it is made again" in caplog.text


NO_METHODS = [b'{"batch": 2, "methods": 3}', b'{"batch": 2, "methods": {"key": {"name": "Bisection"}}}']
DEVICES = [*GARBAGE, b"{}", b'{"batch": "2"}', b'{"batch": 0}', b'{"batch": true}', *NO_METHODS]


@pytest.mark.parametrize("content", DEVICES, ids=range(len(DEVICES)))
def test_a_damaged_number_of_devices_is_named_and_not_known(content, tmp_path, caplog):
    (tmp_path / "devices.json").write_bytes(content)
    assert RunDirectory(tmp_path).choice() is None
    assert str(tmp_path / "devices.json") in caplog.text


def test_files_that_are_not_there_are_nothing_to_name(tmp_path, caplog):
    directory = RunDirectory(tmp_path)
    assert (directory.summary(), directory.choice(), directory.metrics()) == (None, None, [])
    assert caplog.messages == []


def row(step, split="train", **metrics):
    return {"step": step, "epoch": 1, "split": split, **metrics}


def test_lines_after_a_step_and_those_of_the_test_split_are_dropped(tmp_path):
    directory = RunDirectory(tmp_path)
    rows = [row(2, loss=1.0), row(4, loss=0.5), row(4, "validation", loss=0.6), row(6, loss=0.4), row(4, "test")]
    directory.append_metrics(rows)
    assert directory.metrics() == rows
    directory.keep_metrics_until(4)
    assert directory.metrics() == rows[:3]


LINES = [
    b"",
    b"\x00\x00\x00",
    b"\xff\xfe",
    b"[]",
    b"{}",
    9999 * b"[",
    b'{"step": "4", "epoch": 1, "split": "train", "loss": 1.0}',
    b'{"step": 4, "epoch": 1, "split": 3, "loss": 1.0}',
    b'{"step": 4, "epoch": 1, "split": "train", "loss": "low"}',
    b'{"step": 4, "epoch": 1, "split": "train", "loss": null}',
    b'{"step": 4, "epoch": true, "split": "train"}',
]


@pytest.mark.parametrize("line", LINES, ids=range(len(LINES)))
def test_a_damaged_line_of_metrics_is_named_and_left_out_and_the_file_kept_aside(line, tmp_path, caplog):
    directory = RunDirectory(tmp_path)
    rows = [row(2, loss=1.0), row(4, loss=float("inf"))]
    content = b"%s\n%s\n%s\n" % (json.dumps(rows[0]).encode(), line, json.dumps(rows[1]).encode())
    (tmp_path / "metrics.jsonl").write_bytes(content)
    assert directory.metrics() == rows
    directory.keep_metrics_until(4)
    assert f"{tmp_path / 'metrics.jsonl'}: damaged lines, 1 (2), are left out" in caplog.text
    assert (tmp_path / "metrics.jsonl.set-aside").read_bytes() == content
    caplog.clear()
    assert directory.metrics() == rows
    assert caplog.messages == []


def test_metrics_that_are_missing_where_a_run_goes_on_are_named(tmp_path, caplog):
    directory = RunDirectory(tmp_path)
    directory.keep_metrics_until(0)
    assert caplog.messages == []
    directory.append_metrics([row(2, loss=1.0)])
    directory.keep_metrics_until(4)
    assert "metrics.jsonl has no line of step 4" in caplog.text


def test_a_validation_without_the_metric_of_the_task_is_never_the_best():
    task = made_task(NO_DATA, None, None, best_metric="loss", higher_is_better=False)
    rows = [row(1, "validation"), row(2, "validation", loss=2.0)]
    assert best_metrics(rows, task)["step"] == 2


def test_the_best_is_by_the_metric_of_the_task_and_the_first_of_equals():
    def task(metric, higher):
        return made_task(NO_DATA, None, None, best_metric=metric, higher_is_better=higher)

    rows = [
        row(1, "validation", accuracy=0.5, loss=3.0),
        row(2, "validation", accuracy=0.9, loss=2.0),
        row(3, "validation", accuracy=0.9, loss=1.0),
        row(4, "test", accuracy=1.0, loss=0.0),
    ]
    assert best_metrics(rows, task("accuracy", True))["step"] == 2
    assert best_metrics(rows, task("loss", False))["step"] == 3
    assert best_metrics([], task("loss", False)) == {}
    assert final_metrics(rows)["validation"]["step"] == 3


@pytest.mark.parametrize("first", [True, False])
def test_a_value_that_is_not_a_number_is_never_the_best(first):
    rows = [row(1, "validation", loss=float("nan")), row(2, "validation", loss=2.0)]
    task = made_task(NO_DATA, None, None, best_metric="loss", higher_is_better=False)
    assert best_metrics(rows if first else rows[::-1], task)["step"] == 2
