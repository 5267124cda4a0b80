"""Public functions with four or more parameters describe each of them."""

import ast
import re
from pathlib import Path

import pytest

import rnnjax

_ROOT = Path(rnnjax.__file__).parent
_FILES = sorted(
    file
    for pattern in ("*.py", "data/*.py", "parallel/*.py", "tasks/*.py", "training/*.py")
    for file in _ROOT.glob(pattern)
)
_MANY = 4


def undescribed(source):
    """Returns public functions and methods with many parameters, each with those that its docstring does not describe.

    A constructor's are described in the docstring of its class, those of an overriding method where it is declared.
    """
    missing = {}
    for name, function, docstring in _functions(ast.parse(source)):
        parameters = _parameters(function)
        if len(parameters) >= _MANY:
            described = _described(docstring or "")
            missing[name] = [parameter for parameter in parameters if parameter not in described]
    return {name: parameters for name, parameters in missing.items() if parameters}


def _functions(module):
    for node in module.body:
        if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
            yield node.name, node, ast.get_docstring(node)
        elif isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            for member in node.body:
                if isinstance(member, ast.FunctionDef) and member.name == "__init__":
                    yield node.name, member, ast.get_docstring(node)
                elif isinstance(member, ast.FunctionDef) and not member.name.startswith("_"):
                    yield f"{node.name}.{member.name}", member, ast.get_docstring(member)


def _parameters(function):
    arguments = [*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs]
    return [argument.arg for argument in arguments if argument.arg not in ("self", "cls")]


def _described(docstring):
    """Returns the names in the section `Args`; several may share a line."""
    _, _, section = docstring.partition("Args:\n")
    entries = re.findall(r"^  (\w+(?:, \w+)*): ", section, re.MULTILINE)
    return {name for entry in entries for name in entry.split(", ")}


@pytest.mark.parametrize("file", _FILES, ids=lambda file: f"{file.parent.name}/{file.name}")
def test_every_one_of_many_parameters_is_described(file):
    assert undescribed(file.read_text(encoding="utf-8")) == {}


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("def f(a, b, c, *, d): 'Does.'", {"f": ["a", "b", "c", "d"]}),
        ("def f(a, b, c, *, d):\n  '''Does.\n\n  Args:\n    a, b: of it.\n    d: it.\n  '''", {"f": ["c"]}),
        ("def f(a, b, c): 'Does.'", {}),
        ("class C:\n  'Is.'\n  def __init__(self, a, b, c, d): ...", {"C": ["a", "b", "c", "d"]}),
        ("def _f(a, b, c, d): ...", {}),
    ],
)
def test_a_parameter_that_is_not_described_is_found(source, found):
    assert undescribed(source) == found
