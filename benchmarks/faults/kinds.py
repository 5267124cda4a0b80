"""The kinds of fault: each a function that plays one case and raises `Fault` where a run did not survive it."""

from __future__ import annotations

import json
import math
import re
import shutil
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.faults import compare, disk, generating, processes, sweeps
from benchmarks.faults.case import Case, Ended, Started, require, require_answer, require_none, require_same
from benchmarks.faults.damage import contents, damage_one

_ANSWER = 30  # seconds in which a signal must be answered


def kill(case: Case) -> None:
    """SIGKILL, several times in one run, at any moment or inside of a checkpoint's save; then to the end."""
    for _ in range(case.draw.randint(1, 4)):
        with case.start(case.training()) as started:
            await_moment(case, started)
            ended = case.struck(started, signal.SIGKILL)
        require_answer(ended, signal.SIGKILL, 0, -signal.SIGKILL)
        if ended.code == 0:
            break
    case.finish()


def await_moment(case: Case, started: Started) -> None:
    """Returns at a random moment of a run, or shortly after it has begun to write one of its first checkpoints."""
    if case.draw.random() < 0.5:
        started.go_on(case.draw.uniform(0, case.bench.seconds))
        return
    begun, before, after = set(), unfinished(case.run), case.draw.uniform(0, 0.05)
    number = case.draw.randint(1, 4)

    def has_begun() -> bool:
        begun.update(unfinished(case.run) - before)
        return len(begun) >= number

    started.go_on(2 * case.bench.seconds, has_begun)
    started.go_on(after)


def unfinished(run: Path) -> set[str]:
    """Returns the names of checkpoints that are being written, or were when their process was killed."""
    return {path.name for path in (run / "checkpoints").glob("*") if not path.name.isdigit()}


def stop(case: Case) -> None:
    """SIGTERM or SIGINT at any moment, with compiling or without; then to the end."""
    for turn in range(case.draw.randint(1, 2)):
        number = case.draw.choice([signal.SIGTERM, signal.SIGINT])
        cold, moment = case.draw.random() < 0.2, case.draw.uniform(0, 1)
        own_cache = {"RNNJAX_CACHE": str(case.folder / f"cache-{turn}")} if cold else {}
        before = written(case.run)
        with case.start(case.training(), **own_cache) as started:
            started.go_on(moment * case.bench.seconds * (3 if cold else 1))
            began = written(case.run) > before  # the training of this process, after what others left
            ended = case.struck(started, number, _ANSWER)
        check_stopped(case, ended, number, began=began)
        if ended.code == 0:
            break
    case.finish()


def written(run: Path) -> int:
    """Returns how many bytes of metrics a run has."""
    path = run / "metrics.jsonl"
    return path.stat().st_size if path.exists() else 0


def check_stopped(case: Case, ended: Ended, number: signal.Signals, *, began: bool) -> None:
    """Raises `Fault` unless a command answered a signal as is promised."""
    complete = (case.run / "summary.json").exists()
    at_once = {signal.SIGTERM: (-signal.SIGTERM,), signal.SIGINT: (-signal.SIGINT, 130)}[number]
    require_answer(ended, number, 75, *((0,) if complete else ()), *(at_once if complete or not began else ()))
    told = re.search(r"at step (\d+) of", ended.err)
    if ended.code == 75 and told:
        kept = case.run / "checkpoints" / told[1]
        require(any(kept.glob("*")), f"it said that there is a checkpoint of step {told[1]}, and there is none")


def damage(case: Case) -> None:
    """One or two things damaged in a run that is complete or was stopped; then evaluated, trained and evaluated."""
    shutil.copytree(case.bench.reference, case.run)
    if case.draw.random() < 0.5:
        as_if_stopped(case.run)
        case.did("the directory of a run that was stopped")
    done = [damage_one(case.run, case.draw) for _ in range(case.draw.choice([1, 1, 2]))]
    for each in done:
        case.did(f"damaged: {each}")
    if case.draw.random() < 0.5:
        before = contents(case.run)
        check_evaluation(case)
        require(contents(case.run) == before, "evaluating changed the directory")
    before = contents(case.run)
    ended = case.ended(case.training(), 0, 1, 2)
    if ended.code:
        lost = before.keys() - contents(case.run).keys()
        require(not lost, f"it failed, and deleted {', '.join(sorted(before[each] for each in lost))}")
    else:
        check_result(case, ended, some_rows=any(each.startswith("metrics.jsonl:") for each in done))
    check_evaluation(case)


def as_if_stopped(run: Path) -> None:
    """Takes from a complete run what one that was killed before its last checkpoint has not."""
    (run / "summary.json").unlink()
    shutil.rmtree(run / "plots")
    *_, before, last = sorted(int(path.name) for path in (run / "checkpoints").iterdir() if path.name.isdigit())
    shutil.rmtree(run / "checkpoints" / str(last))
    kept = [line for line in (run / "metrics.jsonl").read_text().splitlines() if json.loads(line)["step"] <= before]
    (run / "metrics.jsonl").write_text("".join(f"{line}\n" for line in kept))


def check_result(case: Case, ended: Ended, *, some_rows: bool) -> None:
    """Raises `Fault` unless what a run that ended well has as its result is right."""
    if "nothing is left to do" in ended.err:
        require_none(compare.summary_differences(*map(compare.summary, (case.run, case.bench.reference))))
        return
    require_same(case.run, case.bench.reference, some_rows=some_rows)
    missing = len(compare.rows(case.bench.reference)) - len(compare.rows(case.run))
    require(
        not missing or "metrics.jsonl" in ended.err, f"{missing} lines of metrics.jsonl are missing, without a word"
    )


def check_evaluation(case: Case) -> None:
    """Raises `Fault` unless evaluating gives the metrics that its checkpoint had, or says why it cannot."""
    which = case.draw.choice(["best", "last"])
    command = [*case.bench.evaluate, case.run, "--split", "validation", "--checkpoint", which]
    steps = {int(path.name) for path in (case.run / "checkpoints").glob("*") if path.name.isdigit()}
    ended = case.ended(command, 0, 1, 2)
    if ended.code:
        return
    found = json.loads(ended.out)
    rows = compare.rows(case.bench.reference)
    expected = [row for row in rows if row["split"] == "validation" and row["step"] == found["step"]]
    require(bool(expected), f"evaluating answered with step {found['step']}, of which there is no checkpoint")
    require(agree(found, expected[0]), f"evaluating answered {found} for {expected[0]}")
    skipped = which == "last" and found["step"] != max(steps)
    require(not skipped or "damaged" in ended.err, f"evaluating took step {found['step']} of {steps} without a word")


def agree(found: dict[str, Any], row: dict[str, Any]) -> bool:
    """Says whether metrics are those of a row, within the rounding of another number of devices."""
    names = row.keys() - {"step", "epoch", "split"}
    return all(math.isclose(found[name], row[name], rel_tol=1e-4, abs_tol=1e-6) for name in names)


KINDS: dict[str, Callable[[Case], None]] = {
    "kill": kill,
    "signal": stop,
    "damage": damage,
    "disk": disk.full_disk,
    "processes": processes.lose_one,
    "sweep": sweeps.strike_sweep,
    "generate": generating.damage_generation,
}


def not_allowed(kind: str) -> bool:
    """Says whether a kind of fault cannot be made here: a small disk needs a mount, in a namespace of its own."""
    if kind != "disk":
        return False
    try:
        tried = subprocess.run([*disk.ALONE, "mount", "-t", "tmpfs", "tmpfs", "/mnt"], capture_output=True)
    except OSError:
        return True
    return tried.returncode != 0
