"""Where calls end, and where a signal stops a run, changes no result."""

import contextlib
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from fixtures.thorough import once_more
from toytasks import slow
from toytasks.config import __file__ as slow_config
from toytasks.config import get_config
from toytasks.runs import assert_identical, assert_same_run, changed, run_training, sign_config, with_checkpoints

from rnnjax.config import CellConfig, DataConfig
from rnnjax.config_group import freeze
from rnnjax.optimizer import OptimizerConfig, build_optimizer
from rnnjax.tasks import build_task
from rnnjax.train import main
from rnnjax.training import engine, loop
from rnnjax.training.directory.run_directory import RunDirectory
from rnnjax.training.engine import TrainingSchedule
from rnnjax.training.interruption import Interrupted, StopRequest
from rnnjax.training.log_window import LogWindow
from rnnjax.training.record import Record
from rnnjax.training.state import as_items, initial_train_state

pytestmark = pytest.mark.usefixtures("programs_of_alike_runs")


def config_of(**fields):
    """8 steps an epoch, lines of 3, 3 and 2, for 2 epochs; all that could get lost on the way."""
    fields = {
        "epochs": 2,
        "log_every": 3,
        "call_seconds": 0,
        "cell": CellConfig(kind="GRU", hidden_size=4, dropout={"input_rate": 0.3}),
        "optimizer": OptimizerConfig(learning_rate=1e-2, schedule="cosine", warmup_steps=3),
        **fields,
    }
    return sign_config(**fields)


@pytest.fixture(scope="module")
def unbounded(tmp_path_factory):
    """The run in calls of a whole epoch."""
    return run_training(tmp_path_factory.mktemp("unbounded"), config_of())


def assert_same_checkpoints(one, other):
    """Asserts that two runs have checkpoints of the same steps, the same best one, and the same states in them."""
    (steps, best, states), expected = checkpoints_of(one), checkpoints_of(other)
    assert (steps, best) == expected[:2]
    assert_identical(states, expected[2])


def checkpoints_of(run):
    optimizer = build_optimizer(run.config.optimizer, 10**6)
    like = as_items(initial_train_state(run.task, optimizer)(run.config.seed))

    def read(checkpoints):
        steps = checkpoints.steps()
        return steps, checkpoints.restore_best(like)[0], [checkpoints._restore(step, like)[0] for step in steps]

    return with_checkpoints(run.directory.path, run.task, read)


STEPS_IN_CALLS = {
    "single steps": {"call_seconds": 1e-9},
    "1 and 7, then 8": {"call_seconds": 1e6},
    "calls of 3, 3 and 2": {"steps_per_call": 3},
    "calls of 5 and 3 that grow": {"steps_per_call": 5, "call_seconds": 1e6},
}

MAIN = [(STEPS_IN_CALLS["calls of 3, 3 and 2"], "host")]
IN_CALLS = [(fields, feed) for fields in STEPS_IN_CALLS.values() for feed in ("device", "host")]


@pytest.fixture
def counts(monkeypatch):
    """The steps of every call that is written down."""
    found, real = [], Record.write

    def write(self, finished):
        found.append(finished.count)
        return real(self, finished)

    monkeypatch.setattr(Record, "write", write)
    return found


@pytest.mark.parametrize(("fields", "feed"), [case if case in MAIN else once_more(*case) for case in IN_CALLS])
def test_metrics_and_checkpoints_do_not_depend_on_where_calls_end(fields, feed, unbounded, counts, tmp_path):
    run = run_training(tmp_path, config_of(data=DataConfig(feed=feed), **fields))
    assert len(counts) > 2
    assert sum(counts) == 16
    assert [row["step"] for row in run.metrics if row["split"] == "train"] == [3, 6, 8, 11, 14, 16]
    assert run.metrics == unbounded.metrics
    assert_same_checkpoints(run, unbounded)


def test_a_run_stopped_after_any_step_and_continued_with_another_bound_equals_it(unbounded, tmp_path, monkeypatch):
    real, stops = Record.write, []

    def write(self, finished):
        real(self, finished)
        if len(stops) == number:
            stops.append(finished.step)
            signal.raise_signal(signal.SIGTERM)

    for number, seconds in enumerate((1e-9, 1e6, 1e-9, 1e-9)):  # noqa: B007 (`write` reads it)
        with monkeypatch.context() as patch:
            patch.setattr(Record, "write", write)
            with pytest.raises(Interrupted, match=r"at step \d+ of 16, after a checkpoint"):
                run_training(tmp_path, config_of(call_seconds=seconds))
        rows = RunDirectory(tmp_path).metrics()
        assert rows == unbounded.metrics[: len(rows)]
    assert stops == [1, 3, 9, 11]
    assert_same_run(run_training(tmp_path, config_of()), unbounded)


@contextlib.contextmanager
def signal_in_evaluation(monkeypatch, number):
    """Has a signal come in the evaluation of that number, after its first call."""
    real, begun = engine.Evaluator, []

    def evaluator(*arguments, **options):
        evaluate = real(*arguments, **options)

        def means(params, stopped):
            begun.append(1)
            asked = []

            def stopped_here():
                if len(begun) == number and not asked:
                    signal.raise_signal(signal.SIGTERM)
                asked.append(1)
                return stopped()

            return evaluate(params, stopped_here)

        return means

    with monkeypatch.context() as patch:
        patch.setattr(engine, "Evaluator", evaluator)
        yield


@pytest.mark.parametrize(("number", "step"), [(1, 8), once_more(2, 16)])
def test_a_run_stopped_in_a_validation_evaluates_it_when_it_goes_on(number, step, unbounded, tmp_path, monkeypatch):
    config = config_of(call_seconds=1e-9)
    stopped = pytest.raises(Interrupted, match=f"stopped by SIGTERM at step {step} of 16, after a checkpoint")
    with signal_in_evaluation(monkeypatch, number), stopped:
        run_training(tmp_path, config)
    assert RunDirectory(tmp_path).metrics()[-1] == unbounded.metrics[4 * number - 2]
    with signal_in_evaluation(monkeypatch, 1), stopped:  # and again in the same one
        run_training(tmp_path, config)
    run = run_training(tmp_path, config)
    assert_same_run(run, unbounded)
    assert_same_checkpoints(run, unbounded)  # the best, too


def test_a_run_stopped_in_the_test_evaluation_does_it_when_it_goes_on(unbounded, tmp_path, monkeypatch):
    config = config_of(call_seconds=1e-9)
    with signal_in_evaluation(monkeypatch, 3), pytest.raises(Interrupted, match="after the last step, 16"):
        run_training(tmp_path, config)
    assert RunDirectory(tmp_path).metrics() == unbounded.metrics[:-1]
    assert_same_run(run_training(tmp_path, config), unbounded)


def test_a_signal_ends_test_scores_wherever_they_are(tmp_path):
    def score(params, split):
        with contextlib.suppress(Exception):  # what a library of the task's takes for an error of its own
            signal.raise_signal(signal.SIGTERM)
            pytest.fail("the scores went on")
        return {}

    config, task = config_of(), build_task(config_of())
    with pytest.raises(Interrupted, match="stopped by SIGTERM after the last step, 16"):
        run_training(tmp_path, config, changed(task, scores=score))
    run = run_training(tmp_path, config, changed(task, scores=lambda params, split: {"score": 2.0}))
    assert run.summary["final"]["test"]["score"] == 2.0


def test_a_signal_before_the_first_step_says_that_there_is_no_checkpoint(tmp_path, monkeypatch):
    real = loop.initial_or_restored

    def restored(*arguments):
        signal.raise_signal(signal.SIGTERM)
        return real(*arguments)

    monkeypatch.setattr(loop, "initial_or_restored", restored)
    with pytest.raises(Interrupted, match="stopped by SIGTERM before the first step"):
        run_training(tmp_path, config_of())


def test_lines_are_of_the_same_steps_wherever_their_metrics_come_from():
    losses = np.arange(16, dtype=np.float32)[None]
    for cuts in ([8, 16], [1, 2, 5, 8, 9, 16], list(range(1, 17))):
        window, found, begin = LogWindow(8, 3), [], 0
        for end in cuts:
            window = LogWindow(8, 3, window.as_json())
            lines, step = window.take_complete({"loss": losses[:, begin:end]}, end)
            found += list(zip(range(step - lines["loss"].shape[1], step), lines["loss"][0]))
            begin = end
        assert found == list(zip(range(16), losses[0]))
        assert window.as_json() == {}


def test_steps_that_a_run_by_itself_kept_without_an_axis_of_runs_are_taken_over():
    lines, step = LogWindow(8, 3, {"loss": [1.0, 2.0]}).take_complete({"loss": np.float32([[3.0]])}, 3)
    assert (lines["loss"].tolist(), step) == ([[1.0, 2.0, 3.0]], 3)


def test_a_call_ends_with_an_epoch_at_the_latest():
    schedule = TrainingSchedule(8, 3, 3, 2)
    assert [schedule.most_steps_after(step) for step in (0, 1, 5, 6, 7, 8, 14)] == [3, 3, 3, 2, 1, 3, 2]
    assert [step for step in range(25) if schedule.evaluates_at(step)] == [16, 24]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    return run_training(tmp_path_factory.mktemp("slow"), freeze(get_config("slow")), build_task(get_config("slow")))


@pytest.mark.parametrize("place", ["training", "evaluation", "scores"])
@pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")
def test_a_command_stopped_anywhere_ends_with_75_and_goes_on_to_the_same_end(
    place, undisturbed, call, tmp_path, monkeypatch, capfd, caplog
):
    real, begun = slow.take_time, []

    def take_time(here):
        if here == place and not begun:
            begun.append(here)
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(60 if place == "scores" else 0.2)  # scores are ended, calls are waited for
        return real(here)

    monkeypatch.setattr(slow, "take_time", take_time)
    with caplog.at_level("INFO"), pytest.raises(SystemExit) as ended:
        call(main, "--config", f"{slow_config}:slow", "--workdir", tmp_path / "run")
    out, err = capfd.readouterr()
    assert (ended.value.code, begun) == (75, [place])
    assert out == ""
    assert "Traceback" not in err
    assert "stopped by SIGTERM" in caplog.messages[-1]
    assert f"run again with --workdir {tmp_path / 'run'} to resume" in caplog.messages[-1]
    config = freeze(get_config("slow"))
    assert_same_run(run_training(tmp_path / "run", config, build_task(config)), undisturbed)


COMMAND = ["-m", "rnnjax.train", "--config", f"{slow_config}:slow"]
COMPILED = """
from jax import ShapeDtypeStruct, jit, pure_callback
from rnnjax.training.interruption import StopRequest
from toytasks.slow import take_time

with StopRequest():
    jit(lambda: pure_callback(lambda: take_time("training"), ShapeDtypeStruct((), "float32")))().block_until_ready()
"""


@pytest.mark.parametrize(
    ("number", "arguments"), [once_more(signal.SIGINT, COMMAND), (signal.SIGTERM, ["-c", COMPILED])]
)
def test_a_second_signal_ends_a_command_at_once_even_in_compiled_code(number, arguments, process_environment, tmp_path):
    environment = process_environment | {"TOY_PLACE": "training", "TOY_SECONDS": "600"}
    workdir = ["--workdir", str(tmp_path / "run")]
    with subprocess.Popen(
        [sys.executable, *arguments, *workdir],
        env=environment,
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert any(line == "training\n" for line in process.stderr), "it ended before"
            process.send_signal(number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(1)
            assert process.poll() is None
            process.send_signal(number)
            _, err = process.communicate(timeout=120)
        finally:
            process.kill()
    assert process.returncode == -number
    assert "Traceback" not in err


def test_handlers_are_given_back():
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    descriptor = signal.set_wakeup_fd(-1)
    signal.set_wakeup_fd(descriptor)
    with StopRequest():
        signal.raise_signal(signal.SIGTERM)
    assert {number: signal.getsignal(number) for number in before} == before
    assert signal.set_wakeup_fd(descriptor) == descriptor


def test_work_that_was_not_stopped_gives_what_it_gives():
    with StopRequest() as stop:
        assert stop.unless_stopped(lambda: 3) == 3
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.signal == "SIGTERM"
        assert stop.unless_stopped(lambda: 3) is None


def test_a_signal_within_a_callback_that_can_raise_nothing_ends_the_work_as_soon_as_it_is_over(capsys):
    class Dying:
        def __del__(self):
            signal.raise_signal(signal.SIGTERM)

    def work():
        alive = Dying()
        del alive
        for _ in range(500):
            time.sleep(0.01)
        return "done"

    with StopRequest() as stop:
        assert stop.unless_stopped(work) != "done"
    assert stop.signal == "SIGTERM"
    assert capsys.readouterr().err == ""
