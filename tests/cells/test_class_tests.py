"""Of what kind a cell is, is asked in two rooms alone; others ask a question of these rooms, by its name.

What writes a cell's parameters as those of another library is for one kind of cell by its nature.
"""

import ast
import inspect
import pkgutil
from collections.abc import Iterator
from pathlib import Path

import pytest

import rnnjax
from rnnjax import Cell

PACKAGE = Path(rnnjax.__file__).parent
ROOMS = {"cells/traits.py", "cells/tree.py"}


def kinds() -> set[str]:
    """The names of all classes of cells. Whether something is a cell at all, `Cell`, may be asked anywhere."""
    modules = [module.name for module in pkgutil.iter_modules([str(PACKAGE / "cells")], "rnnjax.cells.")]
    classes = [of for name in modules for of in vars(__import__(name, fromlist="_")).values() if inspect.isclass(of)]
    return {of.__name__ for of in classes if issubclass(of, Cell)} - {"Cell"}


def class_tests(text: str, names: set[str]) -> Iterator[int]:
    """Yields the lines that ask whether something is of such a class."""
    for node in ast.walk(ast.parse(text)):
        asked = []
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("isinstance", "issubclass"):
            asked = node.args[1:]
        elif isinstance(node, ast.Compare) and ast.unparse(node.left).lstrip("(").startswith("type("):
            asked = node.comparators
        elif isinstance(node, ast.MatchClass):
            asked = [node.cls]
        inside = [each for part in asked for each in ast.walk(part)]
        if names & {getattr(each, "id", getattr(each, "attr", None)) for each in inside}:
            yield node.lineno


def test_cells_are_told_apart_in_two_rooms_only():
    names = kinds()
    assert {"GatedCell", "LSTM", "Stack", "Wrapper", "Zoneout", "AttentionCell", "Projected"} <= names
    found = [
        f"{path.relative_to(PACKAGE).as_posix()}:{line}"
        for path in sorted(PACKAGE.rglob("*.py"))
        if path.relative_to(PACKAGE).as_posix() not in ROOMS and path.parent.name != "interop"
        for line in class_tests(path.read_text(), names)
    ]
    assert found == []


@pytest.mark.parametrize(
    "text",
    [
        "isinstance(cell, LSTM)",
        "isinstance(cell, (int, rnnjax.LSTM))",
        "isinstance(cell, int | LSTM)",
        "issubclass(of, LSTM)",
        "type(cell) is LSTM",
        "type(cell) in (GRU, LSTM)",
        "(type(cell).step, 1) == (LSTM.step, 1)",
        "match cell:\n    case LSTM():\n        pass",
    ],
)
def test_a_class_test_is_seen_however_it_is_written(text):
    assert list(class_tests(text, {"LSTM"}))
    assert not list(class_tests(text.replace("LSTM", "Cell"), {"LSTM"}))
