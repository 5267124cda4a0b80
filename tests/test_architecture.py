"""No room of the house imports one of a floor above it, and no files import each other in a circle.

The floors are a table in docs/architecture.md.
"""

import ast
import itertools
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "architecture.md"
BY_NAME = re.compile(r"(import_module|__import__|modules\.get|find_spec|named_module)$")


def name_of(path: Path, top: Path) -> str:
    parts = path.relative_to(top.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def names_in(node: ast.AST, package: str) -> Iterator[str]:
    """Yields the dotted names that a statement or an expression imports, also by a string."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
        module = ".".join([*above, *filter(None, [node.module])])
        yield module
        yield from (f"{module}.{alias.name}" for alias in node.names)
    elif isinstance(node, ast.Call) and node.args and BY_NAME.search(ast.unparse(node.func)):
        yield from strings_in(node.args[0])
    elif isinstance(node, ast.Constant) and isinstance(node.value, str) and re.search(r"\.\w+$", node.value):
        yield node.value  # which counts where it is the whole name of a file


def strings_in(node: ast.AST) -> Iterator[str]:
    """Yields a text, or of one with values in it what stands before the first."""
    if isinstance(node, ast.JoinedStr) and node.values:
        node = node.values[0]
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node.value


def imports(top: Path) -> dict[str, set[str]]:
    """The files of a package that each of them imports; by a name that is not all known, all that it may be."""
    files = {name_of(path, top): path for path in top.rglob("*.py")}
    found = {}
    for name, path in files.items():
        package = name if path.name == "__init__.py" else name.rpartition(".")[0]
        nodes = ast.walk(ast.parse(path.read_text()))
        named = {each for node in nodes for each in names_in(node, package)}
        open_ended = tuple(each for each in named if each.endswith("."))
        found[name] = {each for each in files if each in named or (open_ended and each.startswith(open_ended))} - {name}
    return found


def room(name: str) -> str:
    return name.split(".")[1] if "." in name else "__init__"


def table(heading: str, column: int) -> list[list[str]]:
    """The names in a column of a table of the page, found by its first heading."""
    lines = PAGE.read_text().split(f"| {heading} |")[1].splitlines()[2:]
    rows = [line for line in lines[: lines.index("")] if line.startswith("|")]
    return [re.findall(r"`([\w.]+)`", row.split("|")[column]) for row in rows]


def floors() -> list[list[str]]:
    return table("floor", 2)


def above(edges: dict[str, set[str]], rows: list[list[str]]) -> list[str]:
    """The imports that lead to a floor above."""
    level = {each: number for number, rooms in enumerate(rows) for each in rooms}
    return [f"{a} -> {b}" for a in edges for b in sorted(edges[a]) if level[room(a)] < level[room(b)]]


def circles(edges: dict[str, set[str]]) -> list[list[str]]:
    """The groups of files of which each leads to every other."""
    reach = {name: reached(edges, name) for name in edges}
    groups = {tuple(sorted(b for b in reach[a] if a in reach[b])) for a in edges if a in reach[a]}
    return [list(group) for group in sorted(groups)]


def reached(edges: dict[str, set[str]], start: str) -> set[str]:
    found, left = set(), [start]
    while left:
        new = edges[left.pop()] - found
        found |= new
        left += new
    return found


@pytest.fixture(scope="module")
def edges():
    return imports(ROOT / "rnnjax")


def test_every_room_has_one_floor_and_a_line_that_says_what_it_does(edges):
    rooms = sorted({room(name) for name in edges})
    assert sorted(itertools.chain(*floors())) == rooms
    assert sorted(itertools.chain(*table("room", 1))) == rooms


def test_no_room_imports_one_of_a_floor_above(edges):
    assert above(edges, floors()) == []


def test_no_files_import_each_other_in_a_circle(edges):
    assert circles(edges) == []


def test_files_that_the_page_names_are_there():
    named = re.findall(r"`((?:\w+/)+\w+\.py)`", PAGE.read_text())
    assert len(named) > 10
    for name in named:
        assert (ROOT / name).is_file() or (ROOT / "rnnjax" / name).is_file(), name


def test_only_one_room_asks_whether_the_machine_is_a_cpu():
    asking = re.compile(r"""default_backend\(\)\s*[!=]=\s*["']cpu|platform\s*[!=]=\s*["']cpu""")
    files = [path.name for path in (ROOT / "rnnjax").rglob("*.py") if asking.search(path.read_text())]
    assert files == []


# That the test sees what it is to see


HIDDEN = {
    "at the top": "from house.up import thing",
    "as a name": "from house import up",
    "relative": "from . import up",
    "in a function": "def f():\n    import house.up",
    "by a string": "import importlib\nimportlib.import_module('house.up')",
    "by a string with a value in it": "import importlib\nimportlib.import_module(f'house.{x}')",
    "among the loaded modules": "import sys\nsys.modules.get('house.up')",
    "out of the loaded modules": "import sys\nsys.modules['house.up']",
    "in a table of names": "import importlib\nNAMES = {'up': 'house.up'}\nimportlib.import_module(NAMES['up'])",
}


@pytest.mark.parametrize("text", HIDDEN.values(), ids=HIDDEN)
def test_an_import_is_seen_wherever_it_hides(text, tmp_path):
    house = tmp_path / "house"
    house.mkdir()
    for name, content in (("__init__", ""), ("down", text), ("up", "from house import down")):
        (house / f"{name}.py").write_text(content)
    found = imports(house)
    assert "house.up" in found["house.down"]
    assert "house.down -> house.up" in above(found, [["__init__", "down"], ["up"]])
    assert ["house.down", "house.up"] in circles(found)
