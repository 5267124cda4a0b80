"""The campaign of faults: its comparison finds what was lost, and it reports a command that loses something."""

import json
import os
import random
import re
import shutil
import signal
import sys
from pathlib import Path

import numpy as np
import orbax.checkpoint as ocp
import pytest

from benchmarks.faults import __main__ as faults
from benchmarks.faults.case import Bench, Case, Ended, Fault, require_clean
from benchmarks.faults.compare import differences
from benchmarks.faults.damage import LEFT_OVER, WAYS, contents, damage_one, damaged, files_by_kind, leave_over
from benchmarks.faults.kinds import as_if_stopped, check_evaluation, check_stopped
from benchmarks.report import table_lines
from rnnjax.training.directory.metrics_file import read_rows
from rnnjax.training.sinks.tensorboard import TensorBoard

ROOT = Path(__file__).parents[2]


def rows_of_a_run():
    metrics = [(2, "train", 0.5), (2, "validation", 0.4), (4, "train", 0.3), (4, "validation", 0.35), (4, "test", 0.31)]
    return [{"step": step, "epoch": step // 2, "split": split, "loss": loss} for step, split, loss in metrics]


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    """What a run of four steps would have written, whose second checkpoint is its best."""
    path, rows = tmp_path_factory.mktemp("faults") / "reference", rows_of_a_run()
    path.mkdir()
    write_rows(path, rows)
    final = {row["split"]: row for row in rows}
    (path / "summary.json").write_text(json.dumps({"final": final, "best": rows[3], "data": {}, "seconds": 1.5}))
    for name in ("config", "devices"):
        (path / f"{name}.json").write_text("{}")
    for step in (2, 4):
        about = path / "checkpoints" / str(step) / "about"
        about.mkdir(parents=True)
        (about / "metadata").write_text(json.dumps({"step": step}))
        with ocp.StandardCheckpointer() as checkpointer:
            checkpointer.save(about.parent / "state", {"w": np.arange(3.0) + step, "step": np.int32(step)})
    write_events(path, rows)
    (path / "plots").mkdir()
    return path


def write_rows(run, rows):
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture
def run(reference, tmp_path):
    """A copy of the reference, to be changed."""
    return shutil.copytree(reference, tmp_path / "run")


def test_a_run_equals_itself_and_one_that_took_another_time(reference, run):
    summary = json.loads((run / "summary.json").read_text())
    (run / "summary.json").write_text(json.dumps({**summary, "seconds": 9.0}))
    assert differences(run, reference) == []


def changed_bit(run):
    state = run / "checkpoints" / "4" / "state"
    shutil.rmtree(state)
    value = np.nextafter(np.arange(3.0) + 4, 9)
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(state, {"w": value, "step": np.int32(4)})


def changed_row(run):
    rows = rows_of_a_run()
    rows[1]["loss"] = np.nextafter(rows[1]["loss"], 1)
    write_rows(run, rows)


def changed_summary(run):
    summary = json.loads((run / "summary.json").read_text())
    summary["final"]["test"]["loss"] = 0.2
    (run / "summary.json").write_text(json.dumps(summary))


def write_events(run, rows):
    events = TensorBoard()
    events.open({}, run)
    events.write(rows)
    events.close()


def other_events(*rows):
    def change(run):
        shutil.rmtree(run / "tensorboard")
        write_events(run, rows)

    return change


CHANGES = {
    "one bit of an array": (changed_bit, r"checkpoint of step 4: state\['w'\] is not the same"),
    "one bit of a metric": (changed_row, "has a line that the reference has not"),
    "a lost line": (lambda run: write_rows(run, rows_of_a_run()[1:]), "has 4 lines for 5"),
    "a line twice": (
        lambda run: write_rows(run, [*rows_of_a_run()[:4], rows_of_a_run()[0]]),
        "another order, or twice",
    ),
    "the summary": (changed_summary, "final test is"),
    "a lost checkpoint": (lambda run: shutil.rmtree(run / "checkpoints" / "4"), "checkpoint of step 4 is not there"),
    "a lost point": (other_events(*rows_of_a_run()[1:]), "TensorBoard has 4 points"),
    "a point twice": (other_events(*rows_of_a_run(), rows_of_a_run()[0]), "TensorBoard has 6 points"),
}


@pytest.mark.parametrize(("change", "message"), CHANGES.values(), ids=CHANGES)
def test_a_change_is_found(change, message, reference, run):
    change(run)
    assert re.search(message, "; ".join(differences(run, reference)))


def test_lines_of_a_damaged_file_may_be_missing_but_not_false(reference, run):
    other_events(*rows_of_a_run()[1:])(run)
    write_rows(run, rows_of_a_run()[1:])
    assert differences(run, reference, some_rows=True) == []
    changed_row(run)
    assert any("has a line that the reference has not" in each for each in differences(run, reference, some_rows=True))


@pytest.mark.parametrize("way", [way for way in WAYS if way not in ("deleted", "a directory")])
def test_damage_is_the_same_for_the_same_draws_and_leaves_a_text_no_other_values(way, tmp_path):
    content = b"".join(json.dumps(row).encode() + b"\n" for row in rows_of_a_run())
    for seed in range(50):
        left = damaged(content, way, random.Random(seed), text=True)
        assert left == damaged(content, way, random.Random(seed), text=True)
        assert left != content
        (tmp_path / "metrics.jsonl").write_bytes(left)
        assert all(row in rows_of_a_run() for row in read_rows(tmp_path / "metrics.jsonl"))


KINDS_OF_FILE = ("config.json", "metrics.jsonl", "summary.json", "devices.json", "checkpoints", "tensorboard")


def test_the_files_of_a_run_are_known_by_what_they_are_for(reference):
    assert tuple(files_by_kind(reference)) == KINDS_OF_FILE


def test_every_kind_of_file_is_damaged_and_everything_is_left_over(tmp_path):
    done = []
    for seed in range(200):
        run = tmp_path / str(seed)
        for name in ("checkpoints/2/state", *KINDS_OF_FILE):
            path = run / name if "." in name or "/" in name else run / name / "file"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"12345")
        done.append(damage_one(run, random.Random(seed)))
    for kind in KINDS_OF_FILE:
        assert any(each.startswith(kind) for each in done), kind
    for what in (*WAYS, *LEFT_OVER):
        assert any(f": {what}" in each for each in done), what


def test_what_is_left_over_deletes_nothing(reference, tmp_path):
    for what in LEFT_OVER:
        run = shutil.copytree(reference, tmp_path / what)
        leave_over(run, what, random.Random(0))
        assert contents(reference).keys() <= contents(run).keys()


# A command that takes a tenth of a second to write what a true one would, or what one would that has a fault.
FAKE = """
import json, pathlib, shutil, sys, time
reference, fault, run = sys.argv[1], sys.argv[2], pathlib.Path(sys.argv[4])
time.sleep(0.1)
shutil.copytree(reference, run, dirs_exist_ok=True)
lines = (run / "metrics.jsonl").read_text().splitlines(keepends=True)
if fault == "loses a step":
    (run / "metrics.jsonl").write_text("".join(lines[1:]))
if fault == "has a traceback":
    raise RuntimeError
if fault == "says nothing":
    sys.exit(1)
"""


@pytest.fixture
def bench(reference, tmp_path):
    """Returns a campaign's bench whose training is the fake command, with a fault."""
    (tmp_path / "fake.py").write_text(FAKE)

    def make(fault):
        folder = tmp_path / "bench"
        shutil.copytree(reference, folder / "reference")
        train = (sys.executable, "-S", str(tmp_path / "fake.py"), str(reference), fault)
        return Bench(folder, train, (), dict(os.environ), 0.2)

    return make


def play(bench, kind, *arguments):
    (played,) = faults.campaign(bench, [kind], faults.parse(["--case", "0", *arguments]))
    return played


def test_a_command_that_survives_is_counted_and_leaves_no_folder(bench):
    played = play(bench("none"), "kill")
    assert played.seen is None
    assert faults.row("kill", [played], False).survived == 1


@pytest.mark.parametrize(
    ("fault", "seen"),
    [
        ("loses a step", "metrics.jsonl has 4 lines for 5"),
        ("has a traceback", "a traceback (code 1)"),
        ("says nothing", "code 1 with 0 sentences for one"),
    ],
)
def test_a_command_with_a_fault_is_reported_with_what_repeats_it(fault, seen, bench, tmp_path):
    # Without kills in the way it runs to its end at once.
    played = play(bench(fault)._replace(seconds=60), "kill", "--keep", str(tmp_path / "kept"))
    assert seen in played.seen
    assert faults.row("kill", [played], False).survived == 0
    told = faults.failure(played, 0)
    assert "python -m benchmarks.faults --only kill --case 0 --seed 0" in told
    assert f"{tmp_path / 'fake.py'}" in told
    assert (tmp_path / "kept" / "kill-0" / "run" / "metrics.jsonl").exists()


def case(bench, kind="signal"):
    return Case(bench, kind, 0, 0)


def test_a_step_that_is_told_to_be_checkpointed_must_be_on_the_disk(bench, run):
    one = case(bench("none"))
    shutil.copytree(run, one.run)
    (one.run / "summary.json").unlink()

    def stopped(step, code=75):
        check_stopped(one, Ended(code, "", f"stopped by SIGTERM at step {step} of 9\n"), signal.SIGTERM, began=True)

    stopped(4)
    with pytest.raises(Fault, match="a checkpoint of step 6, and there is none"):
        stopped(6)
    with pytest.raises(Fault, match="it ended with -15 for 75"):
        stopped(4, -15)


def test_before_training_a_signal_may_end_the_process_itself(bench):
    check_stopped(case(bench("none")), Ended(-15, "", ""), signal.SIGTERM, began=False)


def test_many_lines_are_no_clean_end_and_those_of_progress_are():
    require_clean(Ended(0, "", "epoch 1  step 2\n" * 100))
    require_clean(Ended(1, "", "    @     0x7f0f0b4f0321  tsl::RPCState<>::OnCompleted()\n" * 30 + "rnnjax: gone\n"))
    with pytest.raises(Fault, match="30 lines on stderr"):
        require_clean(Ended(0, "", "warning\n" * 30))


def test_an_evaluation_of_other_numbers_is_found(bench, run):
    def answering(loss):
        words = ["-c", f"print('{json.dumps({'step': 4, 'loss': loss})}')"]
        return one._replace(evaluate=(sys.executable, "-S", *words))

    one = bench("none")
    right, wrong = Case(answering(0.35), "a", 0, 0), Case(answering(0.36), "b", 0, 0)
    check_evaluation(right)
    with pytest.raises(Fault, match="evaluating answered"):
        check_evaluation(wrong)


def test_the_table_counts_and_says_what_is_not_allowed():
    played = [
        faults.Played("signal", 0, 3.0, [0.5, 2.0], None, []),
        faults.Played("signal", 1, 4.0, [1.0], "a line was lost", ["python -m x"]),
    ]
    rows = [faults.row("signal", played, False), faults.row("disk", [], True)]
    lines = [line.split() for line in table_lines(faults._COLUMNS, rows)]
    assert lines[1] == ["signal", "2", "1", "7", *["slowest", "answer", "2.0", "s"]]
    assert lines[2] == ["disk", "0", "0", "0", *["not", "allowed", "here"]]


def test_time_is_shared_evenly(bench, monkeypatch):
    now, cases = [0.0], []

    def play(bench, kind, options, number):
        cases.append((kind, number))
        seconds = {"kill": 30.0, "damage": 10.0}[kind]
        now[0] += seconds
        return faults.Played(kind, number, seconds, [], None, [])

    monkeypatch.setattr(faults, "play", play)
    monkeypatch.setattr(faults.time, "monotonic", lambda: now[0])
    list(faults.campaign(bench("none"), ["kill", "damage"], faults.parse(["--minutes", "2"])))
    assert [cases.count(("kill", number)) for number in range(3)] == [1, 1, 0]
    assert len(cases) == 8


@pytest.mark.thorough
def test_the_real_commands_survive_a_damaged_last_checkpoint(tmp_path, monkeypatch):
    toys = ROOT / "tests" / "training"
    environment = {
        **faults.environment(tmp_path),
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
        "RNNJAX_TRUST": "1",
        "PYTHONPATH": os.pathsep.join([str(toys), str(ROOT)]),
    }
    train = (*faults._TRAIN[:4], f"{toys}/toytasks/config.py:long", "--config.epochs=3")
    bench = Bench(tmp_path, train, faults._EVALUATE, environment, 1.0)
    Case(bench, "undisturbed", 0, 0).ended([*bench.train, "--workdir", bench.reference], 0)

    def damage_the_last(run, draw):
        (file,) = run.glob("checkpoints/4/state/manifest.ocdbt")
        file.write_bytes(file.read_bytes()[:9])
        return "checkpoints/4/state/manifest.ocdbt: cut off"

    monkeypatch.setattr("benchmarks.faults.kinds.damage_one", damage_the_last)
    monkeypatch.setattr("benchmarks.faults.kinds.as_if_stopped", lambda run: (run / "summary.json").unlink())
    played = play(bench, "damage")
    assert played.seen is None, faults.failure(played, 0)


def test_a_run_that_looks_stopped_has_no_later_line_and_no_later_checkpoint(run):
    as_if_stopped(run)
    assert [path.name for path in (run / "checkpoints").iterdir()] == ["2"]
    assert [row["step"] for row in map(json.loads, (run / "metrics.jsonl").read_text().splitlines())] == [2, 2]
    assert not (run / "summary.json").exists()
