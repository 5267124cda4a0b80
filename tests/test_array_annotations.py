"""Annotations of arrays in the public functions of training and parallel have dtypes and shapes."""

import ast
from pathlib import Path

import jaxtyping
import numpy as np
import pytest

import rnnjax
from rnnjax.training.batches import Order
from rnnjax.training.split_evaluation import pieces

_ROOT = Path(rnnjax.__file__).parent
_FILES = sorted([*_ROOT.glob("training/**/*.py"), *_ROOT.glob("parallel/*.py")])
_ARRAYS = {"Array", "ndarray"}


def bare_arrays(source):
    """Returns the places in public annotations, as ``NAME, line N``, of array types without dtype and shape."""
    return [
        f"{name}, line {node.lineno}"
        for name, annotation in _annotations(ast.parse(source))
        for node in _bare(annotation)
    ]


def _annotations(module):
    """Yields the annotations of public functions, methods and fields, and public aliases, each with a name."""
    for node in module.body:
        if isinstance(node, ast.Assign) and all(isinstance(target, ast.Name) for target in node.targets):
            name = node.targets[0].id
            if not name.startswith("_") and not isinstance(node.value, ast.Call):
                yield name, node.value
        elif isinstance(node, ast.FunctionDef) and _is_public(node.name):
            yield from _of_function(node.name, node)
        elif isinstance(node, ast.ClassDef) and _is_public(node.name):
            yield from _of_class(node)


def _of_class(node):
    for member in node.body:
        if isinstance(member, ast.AnnAssign) and _is_public(member.target.id):
            yield f"{node.name}.{member.target.id}", member.annotation
        elif isinstance(member, ast.FunctionDef) and (
            _is_public(member.name) or member.name in ("__init__", "__call__")
        ):
            yield from _of_function(f"{node.name}.{member.name}", member)


def _of_function(name, node):
    arguments = node.args
    for argument in [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs, arguments.vararg, arguments.kwarg]:
        if argument is not None and argument.annotation is not None:
            yield name, argument.annotation
    if node.returns is not None:
        yield name, node.returns


def _is_public(name):
    return not name.startswith("_")


def _bare(annotation):
    """Yields the array types in an annotation that are not the first argument of one of jaxtyping's types."""
    if isinstance(annotation, ast.Subscript) and hasattr(jaxtyping, getattr(annotation.value, "id", "")):
        return
    name = getattr(annotation, "id", getattr(annotation, "attr", ""))
    if name in _ARRAYS:
        yield annotation
    for child in ast.iter_child_nodes(annotation):
        yield from _bare(child)


@pytest.mark.parametrize("file", _FILES, ids=lambda file: f"{file.parent.name}/{file.name}")
def test_every_array_in_a_public_annotation_has_a_dtype_and_a_shape(file):
    assert bare_arrays(file.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    ("source", "bare"),
    [
        ("def f(x: Array) -> int: ...", ["f, line 1"]),
        ("def f(x: int) -> dict[str, np.ndarray]: ...", ["f, line 1"]),
        ("def f(*x: jax.Array | None): ...", ["f, line 1"]),
        ("class C:\n    x: Array\n    def f(self, x: Array): ...", ["C.x, line 2", "C.f, line 3"]),
        ("Metrics = Mapping[str, np.ndarray]", ["Metrics, line 1"]),
        ('def f(x: Float[Array, "B T"], y: Int[Array | np.ndarray, " B"] | None): ...', []),
        ("def _f(x: Array): ...\nclass _C:\n    x: Array", []),
    ],
)
def test_an_array_without_a_shape_is_found(source, bare):
    assert bare_arrays(source) == bare


def test_annotations_are_held_where_a_test_calls_a_function():
    pytest.importorskip("beartype")
    order = Order(np.zeros((2, 3), np.int32), None)
    assert len(pieces(order, np.ones((2, 3), np.float32), 1)) == 2
    with pytest.raises(jaxtyping.TypeCheckError):
        pieces(order, np.ones(2, np.float32), 1)
