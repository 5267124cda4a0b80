"""Damage to a run directory, drawn at random: what disks, copies and half-done work leave behind."""

from __future__ import annotations

import hashlib
import random
import shutil
from pathlib import Path

WAYS = ("cut off", "emptied", "zeroed", "zeroed in part", "changed", "garbage", "not UTF-8", "deleted", "a directory")
LEFT_OVER = ("an empty checkpoint", "a half-made file", "a half-made directory", "a half-made checkpoint", "a copy")

_NEVER_UTF_8 = (0xC0, 0xC1, 0xF5, 0xFE, 0xFF)


def damage_one(run: Path, draw: random.Random) -> str:
    """Damages one thing in a run directory; says what was done to it."""
    kinds = files_by_kind(run)
    kind = draw.choice([*kinds, "left over"])
    if kind == "left over":
        return leave_over(run, draw.choice(LEFT_OVER), draw)
    path, way = draw.choice(kinds[kind]), draw.choice(WAYS)
    content = path.read_bytes()
    path.unlink()
    if way == "a directory":
        path.mkdir()
    elif way != "deleted":
        path.write_bytes(damaged(content, way, draw, text=path.suffix in (".json", ".jsonl")))
    return f"{path.relative_to(run)}: {way}"


def files_by_kind(run: Path) -> dict[str, list[Path]]:
    """Returns the files that a run is made of, by what they are for; pictures are left out."""
    named = {name: [run / name] for name in ("config.json", "metrics.jsonl", "summary.json", "devices.json")}
    below = {name: sorted(run.glob(f"{name}/**/*")) for name in ("checkpoints", "tensorboard")}
    found = {kind: [path for path in paths if path.is_file()] for kind, paths in (named | below).items()}
    return {kind: paths for kind, paths in found.items() if paths}


def contents(run: Path) -> dict[str, str]:
    """Returns what the files of a run hold, as digests, with the name of a file that holds it; TensorBoard's are not
    there, which are made from others."""
    paths = [path for kind, paths in files_by_kind(run).items() if kind != "tensorboard" for path in paths]
    paths += [path for path in run.glob("*.set-aside*") if path.is_file()]
    return {hashlib.sha256(path.read_bytes()).hexdigest(): str(path.relative_to(run)) for path in paths}


def damaged(content: bytes, way: str, draw: random.Random, *, text: bool) -> bytes:
    """Returns what is left of a file.

    A text is changed only to bytes that no text has: a number in it that became another would be believed, as there is
    nothing to tell them apart by.
    """
    if way == "emptied" or not content:
        return b""
    if way == "cut off":
        return content[: draw.randrange(len(content))]
    if way == "zeroed":
        return bytes(len(content))
    if way == "garbage":
        return draw.randbytes(draw.randint(1, 2 * len(content)))
    if way == "not UTF-8":
        return bytes([draw.choice(_NEVER_UTF_8)]) + content
    start = draw.randrange(len(content))
    if way == "zeroed in part":
        end = min(start + draw.randint(1, 512), len(content))
        return content[:start] + bytes(end - start) + content[end:]
    changed = draw.choice(_NEVER_UTF_8) if text else content[start] ^ draw.randint(1, 255)
    return content[:start] + bytes([changed]) + content[start + 1 :]


def leave_over(run: Path, what: str, draw: random.Random) -> str:
    """Adds one of `LEFT_OVER` to a run directory; says where."""
    steps = sorted(path for path in (run / "checkpoints").iterdir() if path.name.isdigit())
    source, later = draw.choice(steps), draw.choice([999_999, int(steps[-1].name) + 1, 1])
    if what == "an empty checkpoint":
        path = run / "checkpoints" / str(later)
        path.mkdir()
    elif what in ("a half-made file", "a half-made directory"):
        path = run / f"{draw.choice(['config.json', 'metrics.jsonl', 'summary.json', 'devices.json'])}.part"
        if what == "a half-made file":
            path.write_bytes(draw.randbytes(draw.randrange(200)))
        else:
            path.mkdir()
    else:
        half_made = what == "a half-made checkpoint"
        ending = ".orbax-checkpoint-tmp" if draw.random() < 0.7 else ""
        path = run / "checkpoints" / f"{later}{ending if half_made else ''}"
        shutil.copytree(source, path)
        files = sorted(each for each in path.rglob("*") if each.is_file())
        for each in draw.sample(files, len(files) // 2) if half_made else []:
            each.unlink()
    return f"{path.relative_to(run)}: {what}"
