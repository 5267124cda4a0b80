"""docs/api.md names every module and package of rnnjax, as public or as internal, and shows the public ones."""

import importlib
import pkgutil
import re
from pathlib import Path

import rnnjax

PAGE = (Path(__file__).parents[2] / "docs" / "api.md").read_text()
SHOWN = re.findall(r"^::: (\S+)$", PAGE, re.MULTILINE)
# What `rnnjax` itself exports.
ITS_OWN = {"rnnjax.cells", "rnnjax.unrolling", "rnnjax.streams"}


def test_every_module_is_on_the_page():
    modules = {f"rnnjax.{module.name}" for module in pkgutil.iter_modules(rnnjax.__path__)}
    named = set(re.findall(r"(?:^::: |`)(rnnjax\.\w+)", PAGE, re.MULTILINE))
    assert modules == named


def test_packages_that_export_names_are_shown():
    exporting = {
        f"rnnjax.{path.parent.name}"
        for path in Path(rnnjax.__path__[0]).glob("*/__init__.py")
        if "__all__" in path.read_text()
    }
    assert exporting - ITS_OWN <= set(SHOWN)
    assert set(rnnjax.__all__) >= {name for package in ITS_OWN for name in importlib.import_module(package).__all__}


def test_what_is_shown_is_there():
    assert len(set(SHOWN)) == len(SHOWN) > 20
    for name in SHOWN:
        assert pkgutil.resolve_name(name) is not None, name
