"""A sweep that is killed or stopped, and goes on to the results of one that was not."""

from __future__ import annotations

import json
import signal
import sys
import time
from pathlib import Path

from benchmarks.faults import compare
from benchmarks.faults.case import Case, require_answer, require_none

_SWEEP = (
    *(sys.executable, "-m", "rnnjax.sweep", "--config", "configs/mnist.py:embedded"),
    *("--config.cell.hidden_size=8", "--config.epochs=3", "--config.parallel.batch=1", "--config.steps_per_call=12"),
    *("--config.cell.kind=BasicRNN,GRU", "--config.optimizer.learning_rate=1e-3,1e-2"),
)
_ANSWER = 60  # seconds in which a signal must be answered: two programs are compiled
ALLOWED = {
    signal.SIGKILL: (0, -signal.SIGKILL),
    signal.SIGTERM: (0, 75, -signal.SIGTERM),
    signal.SIGINT: (0, 75, 130, -signal.SIGINT),
}
_RESULTS = ("metric", "runs", "kept", "best", "points", "data")  # of `sweep.json`, which has times beside them


def strike_sweep(case: Case) -> None:
    """SIGKILL, SIGTERM or SIGINT at any moment of a sweep of two programs, up to three times; then to the end."""
    whole = case.undisturbed("sweep", lambda folder: train(case, folder))
    seconds = float((whole / "seconds").read_text())
    sweep = [*_SWEEP, "--workdir", case.run]
    for _ in range(case.draw.randint(1, 3)):
        number = case.draw.choice(list(ALLOWED))
        with case.start(sweep) as started:
            started.go_on(case.draw.uniform(0, seconds))
            ended = case.struck(started, number, _ANSWER)
        require_answer(ended, number, *ALLOWED[number])
        if ended.code == 0:
            break
    case.ended(sweep, 0)
    require_none(differences(case.run, whole / "run"))


def train(case: Case, folder: Path) -> None:
    """Writes a sweep, and the seconds that it took."""
    started = time.monotonic()
    case.ended([*_SWEEP, "--workdir", folder / "run"], 0)
    (folder / "seconds").write_text(str(time.monotonic() - started))


def differences(sweep: Path, reference: Path) -> list[str]:
    """Returns what is not in a complete sweep as in the reference, times apart."""
    found, expected = (json.loads((path / "sweep.json").read_text()) for path in (sweep, reference))
    different = [name for name in _RESULTS if found.get(name) != expected[name]]
    wrong = [f"sweep.json: {name} is {found.get(name)} for {expected[name]}" for name in different]
    wrong += compare.row_differences(compare.rows(sweep), compare.rows(reference))
    for number, directory in expected["kept"].items():
        steps = {int(path.name) for path in (reference / directory / "checkpoints").iterdir()}
        kept = compare.checkpoint_differences(sweep / directory, reference / directory, steps)
        wrong += [f"run {number}: {each}" for each in kept]
    return wrong
