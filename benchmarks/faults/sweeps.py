"""A sweep that is killed or stopped, and goes on to the results of one that was not."""

from __future__ import annotations

import json
import signal
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.faults import compare
from benchmarks.faults.case import Case, Ended, in_python_alone, require, require_clean, require_code

_SWEEP = (
    *(sys.executable, "-m", "rnnjax.sweep", "--config", "configs/mnist.py:embedded"),
    *("--config.cell.hidden_size=8", "--config.epochs=3", "--config.parallel.batch=1", "--config.steps_per_call=12"),
    *("--config.cell.kind=BasicRNN,GRU", "--config.optimizer.learning_rate=1e-3,1e-2"),
)
_ANSWER = 60  # seconds in which a signal must be answered: two programs are compiled
_ALLOWED = {
    signal.SIGKILL: (0, -signal.SIGKILL),
    signal.SIGTERM: (0, 75, -signal.SIGTERM),
    signal.SIGINT: (0, 75, 130, -signal.SIGINT),
}
_RESULTS = ("metric", "runs", "kept", "best", "points", "data")  # of `sweep.json`, which has times beside them


def strike_sweep(case: Case) -> None:
    """SIGKILL, SIGTERM or SIGINT at any moment of a sweep of two programs, up to three times; then to the end."""
    reference, seconds = undisturbed(case)
    sweep = [*_SWEEP, "--workdir", case.run]
    for _ in range(case.draw.randint(1, 3)):
        number = case.draw.choice(list(_ALLOWED))
        with case.start(sweep) as started:
            started.await_or_end(lambda: False, case.draw.uniform(0, seconds))
            sent = time.monotonic()
            started.send(number)
            ended = started.end(_ANSWER)
        if number != signal.SIGKILL:
            case.answers.append(time.monotonic() - sent)
        case.did(f"{number.name}, code {ended.code}")
        check_struck(ended, number)
        if ended.code == 0:
            break
    require_code(case.ended(sweep), 0)
    wrong = differences(case.run, reference)
    require(not wrong, "; ".join(wrong))


def undisturbed(case: Case) -> tuple[Path, float]:
    """Returns the directory of a sweep that was not disturbed, and its seconds; the first case makes it for all."""
    path = case.bench.folder / "sweep"
    took = path.with_name("sweep.seconds")
    if not took.exists():
        started = time.monotonic()
        require_code(case.ended([*_SWEEP, "--workdir", path]), 0)
        took.write_text(str(time.monotonic() - started))
    return path, float(took.read_text())


def check_struck(ended: Ended, number: signal.Signals) -> None:
    """Raises `Fault` unless a sweep ended as is promised for a signal."""
    if not in_python_alone(ended, number):
        require_clean(ended)
        require_code(ended, *_ALLOWED[number])


def differences(sweep: Path, reference: Path) -> list[str]:
    """Returns what is not in a complete sweep as in the reference, times apart."""
    found, expected = results(sweep), results(reference)
    different = [name for name in _RESULTS if found.get(name) != expected[name]]
    wrong = [f"sweep.json: {name} is {found.get(name)} for {expected[name]}" for name in different]
    wrong += compare.row_differences(compare.rows(sweep), compare.rows(reference))
    for number, directory in expected["kept"].items():
        steps = {int(path.name) for path in (reference / directory / "checkpoints").iterdir()}
        kept = compare.checkpoint_differences(sweep / directory, reference / directory, steps)
        wrong += [f"run {number}: {each}" for each in kept]
    return wrong


def results(sweep: Path) -> dict[str, Any]:
    """Returns `sweep.json`.

    Raises:
      OSError, ValueError: if it cannot be read.
    """
    return json.loads((sweep / "sweep.json").read_text())
