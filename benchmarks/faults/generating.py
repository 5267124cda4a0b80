"""A run's directory that is damaged, and asked to generate: it answers what it answered whole, or says why not."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

from benchmarks.faults.case import Case, require, require_code
from benchmarks.faults.damage import contents, damage_one

_TRAIN = (
    *(sys.executable, "-m", "rnnjax.train", "--config", "configs/hihello.py:basic"),
    *("--config.epochs=4", "--config.evaluate_every=1", "--config.parallel.batch=1"),
)
_GENERATE = (sys.executable, "-m", "rnnjax.generate")
_EVALUATE = (sys.executable, "-m", "rnnjax.evaluate")
_WHICH = ("best", "last")


def damage_generation(case: Case) -> None:
    """One or two things damaged in a complete run; then evaluated, and asked to generate."""
    whole = undisturbed(case)
    shutil.copytree(whole / "run", case.run)
    for _ in range(case.draw.choice([1, 1, 2])):
        case.did(f"damaged: {damage_one(case.run, case.draw)}")
    before = contents(case.run)
    for name, command in (("generate", _GENERATE), ("evaluate", _EVALUATE)):
        which = case.draw.choice(_WHICH)
        ended = case.ended([*command, case.run, "--checkpoint", which])
        require_code(ended, 0, 1, 2)
        if ended.code == 0 and "damaged" not in ended.err:  # otherwise it has taken an earlier checkpoint, and said so
            expected = answers(whole)[f"{name} {which}"]
            require(ended.out == expected, f"{name} answered {ended.out!r} for {expected!r}")
    require(contents(case.run) == before, "the directory was changed")


def undisturbed(case: Case) -> Path:
    """Returns a folder with a run and what it answers; the first case makes it for all."""
    folder = case.bench.folder / "generating"
    if not (folder / "answers.json").exists():
        require_code(case.ended([*_TRAIN, "--workdir", folder / "run"]), 0)
        said = {}
        for name, command in (("generate", _GENERATE), ("evaluate", _EVALUATE)):
            for which in _WHICH:
                ended = case.ended([*command, folder / "run", "--checkpoint", which])
                require_code(ended, 0)
                said[f"{name} {which}"] = ended.out
        (folder / "answers.json").write_text(json.dumps(said))
    return folder


def answers(folder: Path) -> dict[str, str]:
    """Returns what each command printed for each checkpoint of the undamaged run."""
    return json.loads((folder / "answers.json").read_text())
