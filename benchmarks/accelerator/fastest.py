"""The fastest method of each case that kernels were measured in, as rows of the table of known devices."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.accelerator.records import Record, read_record
from benchmarks.subjects import CELLS, METHODS
from rnnjax.files import write_json
from rnnjax.unrolling.candidates import method_as_json
from rnnjax.unrolling.known_devices import Row, row_as_json
from rnnjax.unrolling.recurrence import Method

# Earlier ones hold where a size is in several: what is trained, at its own length.
KERNELS = ("kernels_trained", "kernels_grid", "kernels_base")


def kernel_records(folder: Path) -> list[Record]:
    """Returns what is kept of the kernels' steps."""
    records = (read_record(folder, name) for name in KERNELS)
    return [record for record in records if record is not None]


def fastest_rows(records: Iterable[Record]) -> list[Row]:
    """Returns a row for each cell, type and size, by the time with the gradient, of those that gave the right values.

    The narrowest come first, as the table is read in order.
    """
    found: dict[tuple[str, str, int, int], Row] = {}
    for record in records:
        for case, rows in cases(record).items():
            cell, dtype, H, B = case
            best = min(rows, key=lambda row: row["both_seconds"]["median"])
            row = Row(record.device, cell, dtype, H, B, METHODS[best["contender"]], *provenance(record))
            found.setdefault((record.device, cell, dtype, H, B), row)  # pyright: ignore[reportArgumentType]
    return sorted(found.values(), key=lambda row: (row.device, row.cell, row.dtype, row.hidden, row.batch))


def cases(record: Record) -> dict[tuple[str, str, int, int], list[dict[str, Any]]]:
    """Returns the rows that were timed of this library's methods, by cell, type, width and batch, inputs projected."""
    found: dict[tuple[str, str, int, int], list[dict[str, Any]]] = {}
    for row in (record.results or {}).get("rows", []):
        ours = row["contender"] in METHODS and row["cell"] in CELLS and row["projected"] and row["heads"] == 1
        if ours and row["both_seconds"] is not None:
            found.setdefault((row["cell"], row["dtype"], row["H"], row["B"]), []).append(row)
    return found


def provenance(record: Record) -> tuple[str, str, str]:
    """Returns the command, the versions and the commit of a record."""
    versions = ", ".join(f"{name} {record.versions[name]}" for name in ("jax", "jaxlib") if name in record.versions)
    return record.command, versions, record.commit or f"sources {record.sources}"


def write_known_devices(folder: Path) -> None:
    """Writes what the kernels' steps have shown so far, for the steps after them to go by."""
    rows = fastest_rows(kernel_records(folder))
    if rows:
        write_json(folder / "known_devices.json", [row_as_json(row) for row in rows])


def as_python(rows: Sequence[Row], head: str) -> str:
    """Returns the file of the table: its head, up to the imports, stays as it is.

    Args:
      rows: all of it.
      head: the docstring.
    """
    methods = {type(row.method): None for row in rows}
    lines = [f'"""{head}"""', "", "from __future__ import annotations", ""]
    imports = [f"from {method.__module__} import {method.__name__}" for method in methods]
    lines += sorted([*imports, "from rnnjax.unrolling.known_devices import Row"], key=_by_module)
    sources = list(dict.fromkeys((row.command, row.versions, row.commit) for row in rows))
    lines += [""] if sources else []
    for number, (command, versions, commit) in enumerate(sources, 1):
        texts = "".join(f"    {_quoted(text)},\n" for text in (command, versions, commit))
        lines += [f"_SOURCE_{number} = (", texts.rstrip("\n"), ")"]
    lines += ["", "ROWS: tuple[Row, ...] = (" + ("" if rows else ")")]
    for row in rows:
        source = sources.index((row.command, row.versions, row.commit)) + 1
        what = f"{_quoted(row.device)}, {_quoted(row.cell)}, {_quoted(row.dtype)}, {row.hidden}, {row.batch}"
        lines.append(f"    Row({what}, {_call(row.method)}, *_SOURCE_{source}),")
    return "\n".join([*lines, *([")"] if rows else [])]) + "\n"


def _by_module(line: str) -> str:
    return line.split()[1]


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _call(method: Method) -> str:
    options = method_as_json(method)
    name = options.pop("name")
    return f"{name}({', '.join(f'{option}={value!r}' for option, value in options.items())})"
