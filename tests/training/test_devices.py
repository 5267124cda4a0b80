import json
import os
import shutil
import signal
import time
import warnings

import jax
import jax.monitoring
import numpy as np
import optax
import pytest
from fixtures.thorough import once_more
from jax.experimental.compilation_cache import compilation_cache
from toytasks.runs import run_training, sign_config

from rnnjax import Fused, Scan, cache
from rnnjax.cache import cache_directory, delete_damaged_programs, keep_compilations
from rnnjax.config import ParallelConfig
from rnnjax.tasks import build_task
from rnnjax.training import devices, step_seconds
from rnnjax.training.directory.choice import Choice
from rnnjax.training.directory.run_directory import RunDirectory
from rnnjax.training.interruption import Interrupted, StopRequest
from rnnjax.training.record import Record
from rnnjax.unrolling.known import keep_choices, recurrence_key
from rnnjax.unrolling.sequences import choose_again
from rnnjax.unrolling.tune_report import Tuned
from rnnjax.unrolling.tuning import distinct


# Tests run with two devices. 64 examples or more are shared by both unless one is measured to be faster.
def large(**fields):
    return sign_config(**{"examples": 128, "batch_size": 64, "epochs": 1, "parallel": ParallelConfig(), **fields})


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("RNNJAX_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def measured(monkeypatch):
    """Says that a step is faster on one device, and faster still by `Scan`, without measuring; notes what is asked."""
    asked = []

    def seconds(task, config, optimizer, choices):
        asked.append([choice.devices for choice in choices])
        return {choice: (0.0005 if choice.methods else 0.001) * choice.devices for choice in choices}

    monkeypatch.setattr(devices, "step_seconds", seconds)
    monkeypatch.setattr(devices, "_STEPS_FOR_DEVICES", 1)
    return asked


@pytest.fixture
def tuned(measured, monkeypatch):
    """Has methods be measured as well: that of the loop is the fastest in the recurrences of any step."""
    asked = []

    def methods(task, config, count):
        asked.append(count)
        recurrences = step_seconds.recurrences_in_step(task, config, count)
        return tuple((recurrence_key(recurrence), Scan()) for recurrence in distinct(recurrences))

    monkeypatch.setattr(devices, "tuned_methods", methods)
    monkeypatch.setattr(devices, "_SECONDS_FOR_METHODS", 0.0)
    return asked


def chosen(task, config, steps, run):
    with StopRequest() as stop:
        return devices.choose(task, config, steps, run.choice(), stop)


def kept():
    return [*json.loads((cache_directory() / "devices.json").read_text()).values()]


@pytest.mark.usefixtures("programs_shared")
def test_the_faster_number_of_devices_is_taken_and_measured_once(measured, tmp_path):
    first = run_training(tmp_path / "first", large())
    second = run_training(tmp_path / "second", large(seed=1))
    assert first.summary["device"]["count"] == second.summary["device"]["count"] == 1
    assert measured == [[2, 1]]
    choices = [{"batch": 2, "methods": {}, "seconds": 0.002}, {"batch": 1, "methods": {}, "seconds": 0.001}]
    assert kept() == [{"tuned": False, "choices": choices}]


@pytest.mark.usefixtures("programs_shared")
def test_another_step_is_measured_anew(measured, tmp_path):
    run_training(tmp_path / "first", large())
    run_training(tmp_path / "second", large(batch_size=128))
    assert measured == [[2, 1]] * 2


def test_a_run_that_resumes_keeps_its_number_of_devices_and_its_methods(measured, tmp_path):
    run = RunDirectory(tmp_path / "run")
    run.path.mkdir()
    begun = Choice(2, (("key", Scan(unroll=4)), ("another", Fused())))
    run.write_choice(begun)
    assert chosen(None, large(), 10_000, run) == begun
    assert measured == []


def test_a_run_that_was_begun_before_methods_were_measured_goes_on_by_the_rule(tmp_path):
    (tmp_path / "devices.json").write_text('{"batch": 2}')
    assert RunDirectory(tmp_path).choice() == Choice(2)


@pytest.mark.usefixtures("programs_shared")
@pytest.mark.parametrize("choice", [once_more("1"), "2", "all"])
def test_a_number_in_the_config_stands(choice, measured, tmp_path):
    ran = run_training(tmp_path / "run", large(parallel=ParallelConfig(batch=choice)))
    assert ran.summary["device"]["count"] == (1 if choice == "1" else 2)
    assert measured == []


@pytest.mark.usefixtures("programs_shared")
def test_a_short_run_is_not_worth_measuring(measured, monkeypatch, tmp_path):
    monkeypatch.setattr(devices, "_STEPS_FOR_DEVICES", 1000)
    assert run_training(tmp_path / "run", large()).summary["device"]["count"] == 2
    assert measured == []


def test_a_run_that_asks_for_it_is_not_measured_however_long(tuned, measured, tmp_path):
    choice = chosen(None, large(parallel=ParallelConfig(tune=False)), 10**6, RunDirectory(tmp_path))
    assert (choice, tuned, measured) == (Choice(2), [], [])


def test_a_signal_ends_what_is_measured_and_the_run_before_its_first_step(measured, monkeypatch, tmp_path):
    monkeypatch.setattr(devices, "step_seconds", lambda *_: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(Interrupted, match="stopped by SIGTERM before the first step"):
        run_training(tmp_path / "run", large())


@pytest.mark.usefixtures("programs_shared")
def test_a_damaged_table_is_measured_anew(measured, tmp_path):
    cache_directory().mkdir()
    (cache_directory() / "devices.json").write_text('{"cut off')
    run_training(tmp_path / "run", large())
    assert measured == [[2, 1]]


@pytest.mark.usefixtures("programs_shared")
def test_methods_and_devices_are_one_choice_measured_once(tuned, measured, tmp_path):
    first = run_training(tmp_path / "first", large())
    second = run_training(tmp_path / "second", large(seed=1))
    assert (tuned, measured) == ([2, 1], [[2, 1], [2, 1, 2, 1]])
    choice = first.directory.choice()
    assert choice == second.directory.choice()
    assert (choice.devices, [method for _, method in choice.methods]) == (1, [Scan()])
    [entry] = kept()
    assert entry["tuned"]
    assert len(entry["choices"]) == 4


def test_methods_are_measured_for_a_run_that_is_long_enough(tuned, measured, monkeypatch, tmp_path):
    monkeypatch.setattr(devices, "_SECONDS_FOR_METHODS", 1800.0)
    task, run = build_task(large()), RunDirectory(tmp_path)
    short, long = (chosen(task, large(), steps, run) for steps in (1_799_999, 1_800_001))
    assert (short, tuned) == (Choice(1), [2, 1])
    assert long.methods


@pytest.mark.usefixtures("programs_shared")
def test_the_number_of_devices_given_methods_are_measured_for_it(tuned, measured, monkeypatch, tmp_path):
    monkeypatch.setattr(devices, "_STEPS_FOR_METHODS", 1)
    run_training(tmp_path / "run", large(parallel=ParallelConfig(batch="2")))
    assert (tuned, measured) == ([2], [[2], [2, 2]])


def test_a_run_is_computed_by_its_methods_and_resumes_to_the_same_bits(tuned, tmp_path, monkeypatch):
    served, run = [], Scan.run
    monkeypatch.setattr(Scan, "run", lambda self, recurrence: served.append(recurrence.length) or run(self, recurrence))
    whole = run_training(tmp_path / "whole", large(epochs=2))
    assert served
    path = tmp_path / "whole"
    (path / "summary.json").unlink()
    [last] = [each for each in (path / "checkpoints").iterdir() if each.name == "4"]
    shutil.rmtree(last)
    (cache_directory() / "devices.json").unlink()
    monkeypatch.setattr(devices, "step_seconds", lambda *_: pytest.fail("it is known"))
    served.clear()
    choose_again()
    again = run_training(path, large(epochs=2))
    assert served
    assert jax.tree.all(jax.tree.map(lambda a, b: (a == b).all(), again.state.params, whole.state.params))


def test_a_run_reads_nothing_from_the_users_cache_but_what_it_keeps(tmp_path, monkeypatch):
    monkeypatch.delenv("RNNJAX_TUNE", raising=False)
    for recurrence in step_seconds.recurrences_in_step(build_task(large()), large(), 2):
        keep_choices({(recurrence_key(recurrence), True): Scan(unroll=2)}, {})
    monkeypatch.setattr(Scan, "run", lambda self, recurrence: pytest.fail("that is the cache's"))
    assert run_training(tmp_path / "run", large()).directory.choice() == Choice(2)


def test_methods_of_a_step_are_those_faster_than_the_rules_and_kept_for_later(tmp_path, monkeypatch):
    monkeypatch.delenv("RNNJAX_TUNE", raising=False)
    task, asked = build_task(large()), []

    def found(recurrence, measures):
        asked.append(recurrence.xs.shape)
        return Tuned(recurrence, (), None, Scan(unroll=2))

    monkeypatch.setattr(step_seconds, "tune_recurrence", found)
    methods = step_seconds.tuned_methods(task, large(), 2)
    assert [method for _, method in methods] == [Scan(unroll=2)]
    assert step_seconds.tuned_methods(task, large(), 2) == methods
    assert step_seconds.tuned_methods(task, large(), 1) != methods
    assert [shape[1] for shape in asked] == [32, 64]


def test_a_batch_that_does_not_divide_over_the_devices_is_measured_as_it_is_trained(monkeypatch):
    monkeypatch.setattr(step_seconds, "_SECONDS", 1e-6)
    config = large(batch_size=63)
    task = build_task(config)
    seconds = step_seconds.step_seconds(task, config, optax.sgd(0.1), [Choice(1), Choice(2)])
    assert min(seconds.values()) > 0


def test_what_is_measured_is_the_step_by_each_choice(monkeypatch, tmp_path):
    monkeypatch.setattr(devices, "_STEPS_FOR_DEVICES", 1)
    monkeypatch.setattr(step_seconds, "_SECONDS", 1e-6)
    plain = run_training(tmp_path / "plain", large(parallel=ParallelConfig(batch="2")))
    chosen = run_training(tmp_path / "chosen", large())
    [entry] = kept()
    seconds = {each["batch"]: each["seconds"] for each in entry["choices"]}
    assert seconds.keys() == {1, 2}
    assert min(seconds.values()) > 0
    assert chosen.summary["device"]["count"] == min(seconds, key=seconds.get)
    # Measuring leaves no trace in the run.
    assert chosen.of("train", "loss") == pytest.approx(plain.of("train", "loss"), rel=1e-4)


@pytest.fixture
def compilations():
    """Counts the programs that are compiled."""
    counted = []

    def listen(name, seconds, **_):
        if name == "/jax/core/compile/backend_compile_duration":
            counted.append(seconds)

    jax.monitoring.register_event_duration_secs_listener(listen)
    yield counted
    jax.monitoring.clear_event_listeners()


def test_nothing_is_compiled_again_in_later_epochs(compilations, tmp_path, monkeypatch):
    write, compiled = Record.write, {}

    def noting(self, results):
        write(self, results)
        compiled[results.epoch] = len(compilations)

    monkeypatch.setattr(Record, "write", noting)
    # 83 examples in batches of 10: 8 steps in calls of 3, 3 and 2, and odd batches in the evaluation.
    run_training(tmp_path, sign_config(examples=83, batch_size=10, epochs=5, steps_per_call=3))
    assert compiled.keys() == {1, 2, 3, 4, 5}
    assert compiled[2] == compiled[3] == compiled[5] > 0


def test_compiled_programs_are_kept_where_rnnjax_cache_says(tmp_path):
    before = jax.config.jax_compilation_cache_dir
    try:
        jax.config.update("jax_compilation_cache_dir", None)
        keep_compilations()
        assert jax.config.jax_compilation_cache_dir == str(tmp_path / "cache" / "compiled")
        jax.config.update("jax_compilation_cache_dir", "the user's own")
        keep_compilations()
        assert jax.config.jax_compilation_cache_dir == "the user's own"
    finally:
        jax.config.update("jax_compilation_cache_dir", before)


TABLES = [b"", b'{"cut off', b"\xff\xfe", b"[]", b"5", b"null", 9999 * b"["]


@pytest.mark.parametrize("content", TABLES, ids=range(len(TABLES)))
def test_a_damaged_table_is_named(content, caplog):
    cache_directory().mkdir()
    (cache_directory() / "devices.json").write_bytes(content)
    assert devices.read_table() == {}
    assert f"{cache_directory() / 'devices.json'}" in caplog.text
    assert "it is measured anew" in caplog.text


ONE, TWO = {"batch": 1, "seconds": 0.1}, {"batch": 2, "seconds": 0.2}
ENTRIES = [None, [], 3, {}, {"1": 0.1, "2": 0.2}, {"choices": [ONE]}, {"choices": [ONE, TWO | {"seconds": "0.2"}]}]
ENTRIES += [{"choices": [ONE, TWO, {"batch": 2}]}, {"choices": [ONE, TWO | {"methods": {"key": 3}}]}]


@pytest.mark.parametrize("entry", ENTRIES)
def test_a_damaged_entry_of_the_table_is_measured_anew(entry, measured, tmp_path, monkeypatch):
    monkeypatch.setattr(devices, "step_key", lambda task, config: "key")
    devices.write_table({"key": entry})
    assert chosen(build_task(large()), large(), 10_000, RunDirectory(tmp_path)) == Choice(1)
    assert measured == [[2, 1]]
    assert devices.read_measured(devices.read_table()["key"], [1, 2]) == devices.Measured(
        {Choice(2): 0.002, Choice(1): 0.001}
    )


def test_an_entry_that_is_whole_is_taken(measured, tmp_path, monkeypatch):
    monkeypatch.setattr(devices, "step_key", lambda task, config: "key")
    devices.write_table({"key": {"choices": [ONE, TWO | {"seconds": 0.01}]}})
    assert chosen(None, large(), 10_000, RunDirectory(tmp_path)) == Choice(2)
    assert measured == []


@pytest.fixture
def compiled_here(tmp_path, monkeypatch):
    """Has programs kept in a directory of the test's own."""
    before = jax.config.jax_compilation_cache_dir
    jax.config.update("jax_compilation_cache_dir", None)
    with warnings.catch_warnings():
        keep_compilations()
        compilation_cache.reset_cache()
        yield cache_directory() / "compiled"
    jax.config.update("jax_compilation_cache_dir", before)
    compilation_cache.reset_cache()


def doubled(value):
    """Compiles a program and runs it."""
    return int(jax.jit(lambda x: 2 * x + 40)(np.int32(value)))


@pytest.mark.parametrize(
    "damage",
    [lambda whole: whole[: len(whole) // 2], once_more(lambda whole: b""), once_more(lambda whole: 99 * b"x")],
    ids=["half", "nothing", "other bytes"],
)
def test_damaged_programs_are_deleted_and_compiled_again(damage, compiled_here, caplog):
    assert doubled(1) == 42
    whole = {path: path.read_bytes() for path in compiled_here.glob("*-cache")}
    assert whole
    delete_damaged_programs(compiled_here)
    assert {path: path.read_bytes() for path in compiled_here.glob("*-cache")} == whole
    for path, content in whole.items():
        path.write_bytes(damage(content))
    jax.clear_caches()
    assert doubled(1) == 42  # without a word of JAX's, which would be an error here
    delete_damaged_programs(compiled_here)
    assert f"{compiled_here}: damaged programs, {len(whole)}, are deleted and compiled again" in caplog.text
    assert not list(compiled_here.glob("*-cache"))
    jax.clear_caches()
    assert doubled(1) == 42
    assert {path.name for path in compiled_here.glob("*-cache")} == {path.name for path in whole}


def test_only_programs_written_since_are_looked_at(tmp_path, monkeypatch):
    read = []
    monkeypatch.setattr(cache, "_is_undamaged", lambda content: not read.append(content))
    for content in (b"first", b"second"):
        (tmp_path / f"{content.decode()}-cache").write_bytes(content)
        time.sleep(0.05)
        delete_damaged_programs(tmp_path)
    assert read == [b"first", b"second"]
