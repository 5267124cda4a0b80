import json
import time
import warnings

import jax
import jax.monitoring
import numpy as np
import pytest
from jax.experimental.compilation_cache import compilation_cache
from toytasks.runs import run_training, sign_config

from rnnjax import cache
from rnnjax.cache import cache_directory, delete_damaged_programs, keep_compilations
from rnnjax.config import ParallelConfig
from rnnjax.training import devices
from rnnjax.training.run_directory import RunDirectory


# Tests run with two devices. 64 examples or more are shared by both unless one is measured to be faster.
def large(**fields):
    return sign_config(**{"examples": 128, "batch_size": 64, "epochs": 1, "parallel": ParallelConfig(), **fields})


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("RNNJAX_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def measured(monkeypatch):
    """Says that a step is faster on one device, without measuring; counts how often that is asked."""
    asked = []

    def seconds(task, config, optimizer, counts):
        asked.append(counts)
        return {count: 0.001 * count for count in counts}

    monkeypatch.setattr(devices, "step_seconds", seconds)
    monkeypatch.setattr(devices, "_WORTH_MEASURING", 1)
    return asked


def test_the_faster_number_of_devices_is_taken_and_measured_once(measured, tmp_path):
    first = run_training(tmp_path / "first", large())
    second = run_training(tmp_path / "second", large(seed=1))
    assert first.summary["device"]["count"] == second.summary["device"]["count"] == 1
    assert measured == [(2, 1)]
    assert [*json.loads((cache_directory() / "devices.json").read_text()).values()] == [{"1": 0.001, "2": 0.002}]


def test_another_step_is_measured_anew(measured, tmp_path):
    run_training(tmp_path / "first", large())
    run_training(tmp_path / "second", large(batch_size=128))
    assert measured == [(2, 1)] * 2


def test_a_run_that_resumes_keeps_its_number_of_devices(measured, tmp_path):
    run = RunDirectory(tmp_path / "run")
    run.path.mkdir()
    run.write_devices(2)
    config = large()
    assert devices.choose_devices(None, config, None, 10_000, run) == 2  # type: ignore[arg-type]
    assert measured == []


@pytest.mark.parametrize("choice", ["1", "2", "all"])
def test_a_number_in_the_config_stands(choice, measured, tmp_path):
    ran = run_training(tmp_path / "run", large(parallel=ParallelConfig(batch=choice)))
    assert ran.summary["device"]["count"] == (1 if choice == "1" else 2)
    assert measured == []


def test_a_short_run_is_not_worth_measuring(measured, monkeypatch, tmp_path):
    monkeypatch.setattr(devices, "_WORTH_MEASURING", 1000)
    assert run_training(tmp_path / "run", large()).summary["device"]["count"] == 2
    assert measured == []


def test_a_damaged_table_is_measured_anew(measured, tmp_path):
    cache_directory().mkdir()
    (cache_directory() / "devices.json").write_text('{"cut off')
    run_training(tmp_path / "run", large())
    assert measured == [(2, 1)]


def test_what_is_measured_is_the_step_on_each_number_of_devices(monkeypatch, tmp_path):
    monkeypatch.setattr(devices, "_WORTH_MEASURING", 1)
    monkeypatch.setattr(devices, "_SECONDS", 1e-6)
    plain = run_training(tmp_path / "plain", large(parallel=ParallelConfig(batch="2")))
    chosen = run_training(tmp_path / "chosen", large())
    [seconds] = json.loads((cache_directory() / "devices.json").read_text()).values()
    assert seconds.keys() == {"1", "2"}
    assert min(seconds.values()) > 0
    assert chosen.summary["device"]["count"] == int(min(seconds, key=seconds.get))
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


def test_nothing_is_compiled_again_in_later_epochs(compilations, tmp_path):
    def compiled(epochs):
        jax.clear_caches()
        before = len(compilations)
        # 83 examples in batches of 10: 8 steps in calls of 3, 3 and 2, and odd batches in the evaluation.
        config = sign_config(examples=83, batch_size=10, epochs=epochs, steps_per_call=3)
        run_training(tmp_path / str(epochs), config)
        return len(compilations) - before

    assert compiled(2) == compiled(5)


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


@pytest.mark.parametrize("entry", [None, [], 3, {}, {"1": 0.1}, {"1": "0.1", "2": 0.2}, {"1": None, "2": 0.2}])
def test_a_damaged_entry_of_the_table_is_measured_anew(entry, measured, tmp_path, monkeypatch):
    monkeypatch.setattr(devices, "step_key", lambda task, config: "key")
    devices.write_table({"key": entry})
    assert devices.choose_devices(None, large(), None, 10_000, RunDirectory(tmp_path)) == 1  # type: ignore[arg-type]
    assert measured == [(2, 1)]
    assert devices.read_table() == {"key": {"1": 0.001, "2": 0.002}}


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


@pytest.mark.parametrize("damage", [lambda whole: b"", lambda whole: whole[: len(whole) // 2], lambda whole: 99 * b"x"])
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
