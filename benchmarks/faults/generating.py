"""A run's directory that is damaged, and asked to generate: it answers what it answered whole, or says why not."""

from __future__ import annotations

import itertools
import json
import shutil
import sys
from pathlib import Path

from benchmarks.faults.case import Case, require
from benchmarks.faults.damage import contents, damage_one

_TRAIN = (
    *(sys.executable, "-m", "rnnjax.train", "--config", "configs/hihello.py:basic"),
    *("--config.epochs=4", "--config.evaluate_every=1", "--config.parallel.batch=1"),
)
COMMANDS = {name: (sys.executable, "-m", f"rnnjax.{name}") for name in ("generate", "evaluate")}
_WHICH = ("best", "last")


def damage_generation(case: Case) -> None:
    """One or two things damaged in a complete run; then evaluated, and asked to generate."""
    whole = case.undisturbed("generating", lambda folder: answer(case, folder))
    shutil.copytree(whole / "run", case.run)
    for _ in range(case.draw.choice([1, 1, 2])):
        case.did(f"damaged: {damage_one(case.run, case.draw)}")
    before, answers = contents(case.run), json.loads((whole / "answers.json").read_text())
    for name, command in COMMANDS.items():
        which = case.draw.choice(_WHICH)
        ended = case.ended([*command, case.run, "--checkpoint", which], 0, 1, 2)
        if ended.code == 0 and "damaged" not in ended.err:  # otherwise it has taken an earlier checkpoint, and said so
            expected = answers[f"{name} {which}"]
            require(ended.out == expected, f"{name} answered {ended.out!r} for {expected!r}")
    require(contents(case.run) == before, "the directory was changed")


def answer(case: Case, folder: Path) -> None:
    """Writes a run, and what it answers, by command and checkpoint."""
    case.ended([*_TRAIN, "--workdir", folder / "run"], 0)
    said = {}
    for name, which in itertools.product(COMMANDS, _WHICH):
        said[f"{name} {which}"] = case.ended([*COMMANDS[name], folder / "run", "--checkpoint", which], 0).out
    (folder / "answers.json").write_text(json.dumps(said))
