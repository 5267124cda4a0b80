"""Two run directories side by side: what a run that was disturbed lost, or has otherwise than one that was not."""

from __future__ import annotations

import json
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from tensorboardX.proto.event_pb2 import Event  # pyright: ignore[reportAttributeAccessIssue]

from rnnjax.training.directory.checkpoint import ITEMS

_PLACE = ("step", "epoch", "split")


def differences(run: Path, reference: Path, *, some_rows: bool = False) -> list[str]:
    """Returns what is not in a complete run as in the reference, bit for bit, times apart: nothing where all is.

    Args:
      run: directory of the run that was disturbed.
      reference: directory of one that was not.
      some_rows: whether lines of `metrics.jsonl` may be missing, because that file was damaged.
    """
    expected = summary(reference)
    return [
        *row_differences(rows(run), rows(reference), some_rows=some_rows),
        *summary_differences(summary(run), expected, some_rows=some_rows),
        *checkpoint_differences(run, reference, {expected["final"]["test"]["step"], expected["best"]["step"]}),
        *event_differences(run),
    ]


def rows(run: Path) -> list[dict[str, Any]]:
    """Returns the lines of `metrics.jsonl`."""
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def summary(run: Path) -> dict[str, Any]:
    """Returns `summary.json`."""
    return json.loads((run / "summary.json").read_text())


def row_differences(found: Sequence[Any], expected: Sequence[Any], *, some_rows: bool = False) -> list[str]:
    """Returns the lines of metrics that are missing, doubled, or other ones."""
    if not some_rows and len(found) != len(expected):
        return [f"metrics.jsonl has {len(found)} lines for {len(expected)}"]
    false = [row for row in found if row not in expected]
    if false:
        return [f"metrics.jsonl has a line that the reference has not: {json.dumps(false[0])}"]
    kept = [row for row in expected if row in found]
    return [] if list(found) == kept else ["metrics.jsonl has its lines in another order, or twice"]


def summary_differences(found: dict[str, Any], expected: dict[str, Any], *, some_rows: bool = False) -> list[str]:
    """Returns the results that the summary says otherwise; with `some_rows` those of missing lines may be missing."""
    wrong = []
    for split, row in expected["final"].items():
        other = found["final"].get(split)
        may_be_missing = some_rows and split != "test"
        if other != row and not (may_be_missing and (other is None or other["step"] < row["step"])):
            wrong.append(f"summary.json: final {split} is {other} for {row}")
    for name in ("best", "data"):
        if found[name] != expected[name] and not (some_rows and name == "best"):
            wrong.append(f"summary.json: {name} is {found[name]} for {expected[name]}")
    return wrong


def checkpoint_differences(run: Path, reference: Path, steps: set[int]) -> list[str]:
    """Returns the checkpoints, of some steps, whose states or metrics are not the reference's."""
    wrong = []
    for step in sorted(steps):
        ours, theirs = (path / "checkpoints" / str(step) for path in (run, reference))
        if not ours.is_dir():
            wrong.append(f"the checkpoint of step {step} is not there")
            continue
        if (ours / "about" / "metadata").read_bytes() != (theirs / "about" / "metadata").read_bytes():
            wrong.append(f"the checkpoint of step {step} says something else of itself")
        found, expected = arrays(ours), arrays(theirs)
        different = [name for name in sorted(found | expected) if found.get(name) != expected.get(name)]
        wrong += [f"the checkpoint of step {step}: {name} is not the same" for name in different]
    return wrong


def arrays(checkpoint: Path) -> dict[str, tuple[str, tuple[int, ...], bytes]]:
    """Returns dtype, shape and bits of a checkpoint's arrays, by their names behind that of their item."""
    found = {}
    for item in (checkpoint / name for name in ITEMS if (checkpoint / name).is_dir()):
        with ocp.PyTreeCheckpointer() as checkpointer:
            path = item.absolute()
            like = checkpointer.metadata(path).item_metadata.tree  # pyright: ignore[reportOptionalMemberAccess]
            as_arrays = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), like)
            tree = checkpointer.restore(path, restore_args=as_arrays)
        for name, leaf in jax.tree.leaves_with_path(tree):
            array = np.asarray(leaf)
            found[f"{item.name}{jax.tree_util.keystr(name)}"] = str(array.dtype), array.shape, array.tobytes()
    return found


def event_differences(run: Path) -> list[str]:
    """Returns whether TensorBoard's points are others than those in the run's own `metrics.jsonl`."""
    expected = [
        (f"{row['split']}/{name}", row["step"], np.float32(value))
        for row in rows(run)
        for name, value in row.items()
        if name not in _PLACE
    ]
    found = points(run / "tensorboard")
    if sorted(found) == sorted(expected):
        return []
    return [f"TensorBoard has {len(found)} points, and not those of metrics.jsonl, which are {len(expected)}"]


def points(directory: Path) -> list[tuple[str, int, float]]:
    """Returns tag, step and value of all scalars in event files: records of a length, 4 bytes, an event, 4 bytes."""
    found = []
    for path in sorted(directory.glob("events.out.tfevents.*")):
        content, at = path.read_bytes(), 0
        while at < len(content):
            (length,) = struct.unpack("<Q", content[at : at + 8])
            event = Event.FromString(content[at + 12 : at + 12 + length])
            values = [value for value in event.summary.value if value.WhichOneof("value") == "simple_value"]
            found += [(value.tag, event.step, value.simple_value) for value in values]
            at += 16 + length
    return found
