"""The plan for an accelerator: what is run, passed over, stopped and kept, with steps that are small programs."""

import sys
import time

import pytest

from benchmarks import processes
from benchmarks.accelerator import __main__ as command
from benchmarks.accelerator import running
from benchmarks.accelerator.records import Machine, Record, read_record, sources_digest, write_record
from benchmarks.accelerator.running import run_all
from benchmarks.accelerator.steps import PARTS, Step, picked, plan
from rnnjax.errors import ConfigError
from rnnjax.experiments import EXPERIMENTS

MACHINE = Machine("Some GPU", {"jax": "1.2"}, "abc", "digest", rehearsal=False)
WRITES = "import pathlib; pathlib.Path('{json}').write_text('[1]'); print('well'); print('done')"


def step(name, program, seconds=1.0, limit=20.0, needs=()):
    return Step(name, "a", ("-c", program), seconds, limit, needs)


@pytest.fixture
def run(tmp_path):
    """Runs steps in a folder; returns the record or the sentence of each by its name."""

    def run_steps(*steps, machine=MACHINE, budget=60.0):
        found = run_all(steps, tmp_path, machine, budget=budget)
        return {each.name: result for each, result in found}

    return run_steps


def test_a_step_s_file_has_what_it_wrote_and_said_and_of_what_it_is(run, tmp_path):
    run(step("one", WRITES))
    record = read_record(tmp_path, "one")
    assert (record.state, record.results, record.last_lines) == ("done", [1], ["well", "done"])
    assert record.command.startswith("python -c ")
    assert record.machine == MACHINE


def test_a_step_that_fails_is_kept_with_what_it_had_and_its_last_lines_and_the_next_runs(run):
    found = run(step("bad", f"{WRITES}; raise SystemExit('no such thing')"), step("next", WRITES))
    assert (found["bad"].state, found["bad"].results) == ("failed", [1])
    assert found["bad"].last_lines[-1] == "no such thing"
    assert found["next"].state == "done"


def test_a_step_that_takes_too_long_is_ended_with_all_that_it_started(run, tmp_path, monkeypatch):
    monkeypatch.setattr(running, "_GRACE", 0.2)
    late = tmp_path / "late"
    child = f"import time, pathlib; time.sleep(1.5); pathlib.Path({str(late)!r}).touch()"
    program = f"import signal, subprocess, sys, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); {WRITES}; "
    program += f"subprocess.Popen([sys.executable, '-c', {child!r}]); time.sleep(60)"
    found = run(step("slow", program, limit=1.2), step("next", WRITES))
    assert (found["slow"].state, found["slow"].results, found["next"].state) == ("timed out", [1], "done")
    assert found["slow"].seconds < 30
    time.sleep(1.0)
    assert not late.exists()


def test_what_came_to_its_end_is_not_run_again_unless_the_sources_or_the_device_differ(run):
    assert run(step("one", WRITES))["one"].state == "done"
    assert run(step("one", "raise SystemExit(1)"))["one"] == "is there: done, 0 s"
    for other in (MACHINE._replace(sources="new"), MACHINE._replace(device="Another")):
        assert run(step("one", "raise SystemExit(1)"), machine=other)["one"].state == "failed"
        assert run(step("one", WRITES), machine=other)["one"].startswith("is there: failed")


def test_the_budget_stops_a_step_which_runs_again_the_next_time(run, monkeypatch):
    monkeypatch.setattr(running, "_GRACE", 0.1)
    steps = step("long", "import time; time.sleep(60)", seconds=0.1), step("next", WRITES)
    found = run(*steps, budget=0.8)
    assert found["long"].state == "stopped"
    assert found["next"].startswith("passed over: needs about 1 s, and ")
    assert run(step("long", WRITES))["long"].state == "done"


def test_a_plan_that_is_told_to_end_ends_its_step_and_keeps_what_it_had(run, tmp_path, monkeypatch):
    def told(self, timeout=None):
        written = tmp_path / "one" / "results.json"
        while not (written.exists() and written.read_text()):
            time.sleep(0.01)
        monkeypatch.undo()
        raise SystemExit(143)

    monkeypatch.setattr(running.subprocess.Popen, "wait", told)
    with pytest.raises(SystemExit):
        run(step("one", f"import time; {WRITES}; time.sleep(60)"))
    record = read_record(tmp_path, "one")
    assert (record.state, record.results) == ("stopped", [1])
    assert record.seconds < 30


def test_a_step_that_does_not_fit_is_passed_over_for_those_that_do(run):
    found = run(step("large", WRITES, seconds=100), step("small", WRITES), budget=50.0)
    assert found["large"].startswith("passed over: needs about 100 s")
    assert found["small"].state == "done"


def test_a_step_whose_package_is_missing_is_left_out(run):
    assert run(step("one", WRITES, needs=("no_such_package",)))["one"] == "left out: no_such_package is not installed"


def test_a_file_that_is_damaged_is_measured_again(run, tmp_path):
    (tmp_path / "one.json").write_text("{")
    assert run(step("one", WRITES))["one"].state == "done"
    assert read_record(tmp_path, "one") is not None


def test_tests_that_are_all_skipped_tell_nothing_of_a_gpu(run, tmp_path):
    cases = "<testsuite><testcase name='a'><skipped/></testcase></testsuite>"
    program = f'import pathlib; pathlib.Path("{{folder}}/tests.xml").write_text("{cases}")'
    assert run(step("tests", program))["tests"].state == "failed"
    found = run(step("tests", program), machine=MACHINE._replace(rehearsal=True))["tests"]
    assert (found.state, found.results) == ("done", {"tests": 1, "failed": [], "skipped": 1})


def test_the_digest_is_of_code_and_not_of_the_table_that_results_go_into(tmp_path):
    (tmp_path / "rnnjax" / "unrolling").mkdir(parents=True)
    before = sources_digest(tmp_path)
    (tmp_path / "rnnjax" / "unrolling" / "device_table.json").write_text("[]")
    assert sources_digest(tmp_path) == before
    (tmp_path / "rnnjax" / "train.py").write_text("x = 1")
    assert sources_digest(tmp_path) != before


# The plan itself


def test_the_plan_has_every_part_in_order_and_every_step_fits_its_limit():
    steps = plan()
    assert list(dict.fromkeys(each.part for each in steps)) == list(PARTS)
    assert all(each.seconds < each.limit for each in steps)
    assert len({each.name for each in steps}) == len(steps)
    wanted = [name for name in EXPERIMENTS if name.startswith(("mnist", "series", "hihello"))]
    wanted += ["char_lm_lstm", "char_lm_gru", "ptb_medium", "translate_multi30k", "ptb_large"]
    wanted += ["s5", "mqar", "selective_copy"]
    assert set(wanted) <= {each.name for each in steps}
    assert [each.name for each in plan(rehearse=True)] == [each.name for each in steps]


def test_steps_are_picked_by_name_or_part_in_the_order_of_the_plan():
    assert [each.name for each in picked(plan(), ["memory", "a"])] == ["tests", "two_kernels", "methods", "memory"]
    with pytest.raises(ConfigError, match=r"there is no step 'memry'; .*did you mean 'memory'"):
        picked(plan(), ["memry"])


def test_the_plan_is_listed_with_what_is_there(capsys, tmp_path):
    write_record(tmp_path, Record("tests", "done", 12.0, "", [], None, MACHINE))
    command.main(["--plan", "--steps", "a", "--out", str(tmp_path)])
    said = capsys.readouterr().out.splitlines()
    assert said[0].split()[:4] == ["a", "tests", "60", "s,"]
    assert said[0].endswith("done, 12 s, of other sources")
    assert said[-1] == "130 s are expected in all, 900 s are given"


def test_without_an_accelerator_it_says_so(tmp_path, call, monkeypatch):
    monkeypatch.setattr(processes, "_PROBE", 'print(\'{"platform": "cpu"}\')')
    code, _, (sentence,), _ = call(command.main, "--out", tmp_path)
    assert (code, sentence) == (2, "rnnjax: JAX runs on a CPU here; add --rehearse for sizes that fit")


@pytest.mark.thorough
def test_cheap_steps_run_at_toy_size_here(call, tmp_path, process_environment, monkeypatch):
    """All of them are `--rehearse` without `--steps`, which takes minutes on a CPU."""
    for name, value in process_environment.items():
        monkeypatch.setenv(name, value)
    code, out, _, err = call(command.main, "--rehearse", "--out", tmp_path, "--steps", "tests,hihello_basic")
    assert code == 0, out + err
    records = [read_record(tmp_path, name) for name in ("tests", "hihello_basic")]
    assert all(record is not None and record.state == "done" and record.results for record in records)
    result = records[1].results["hihello_basic"]
    assert result["command"].endswith("configs/hihello.py:basic --config.epochs=2")
    assert list(tmp_path.glob("runs/*/hihello_basic/seed0/summary.json"))
    assert sys.executable not in records[0].command
