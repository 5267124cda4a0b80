"""Public functions with many parameters say in their docstring what each of them is."""

import dataclasses
import importlib
import inspect
import pkgutil
import re
import types

import pytest

import rnnjax

MANY = 4
PACKAGES = ("cells", "data", "interop", "models", "parallel", "tasks", "training", "unrolling", "unrolling.kernels")


def modules():
    """Returns the modules of the packages, and those beside them."""
    packages = [rnnjax, *(importlib.import_module(f"{rnnjax.__name__}.{name}") for name in PACKAGES)]
    return [
        importlib.import_module(f"{package.__name__}.{module.name}")
        for package in packages
        for module in pkgutil.iter_modules(package.__path__)
        if not module.ispkg
    ]


def says_something_new(each, name):
    """Returns whether a class does more than to override a method, which its base documents."""
    return not any(name in vars(base) for base in each.__mro__[1:])


def functions():
    """Yields the name of each public function, method and constructor, the function, and the docstring about it."""
    for module in modules():
        for name, value in vars(module).items():
            if name.startswith("_") or getattr(value, "__module__", None) != module.__name__:
                continue
            if isinstance(value, types.FunctionType):
                yield f"{module.__name__}.{name}", inspect.unwrap(value), value.__doc__
            elif inspect.isclass(value):
                if "__init__" in vars(value) and not dataclasses.is_dataclass(value):
                    yield f"{module.__name__}.{name}", value.__init__, value.__doc__
                for method, function in vars(value).items():
                    is_public = method == "__call__" or not method.startswith("_")
                    if is_public and inspect.isfunction(function) and says_something_new(value, method):
                        yield f"{module.__name__}.{name}.{method}", inspect.unwrap(function), function.__doc__


def parameters(function):
    """Returns the names of a function's parameters, as a docstring has them."""
    stars = {inspect.Parameter.VAR_POSITIONAL: "*", inspect.Parameter.VAR_KEYWORD: "**"}
    found = inspect.signature(function).parameters
    return [stars.get(each.kind, "") + name for name, each in found.items() if name != "self"]


def documented(docstring):
    """Returns the names that the section of arguments of a docstring explains."""
    section = re.search(r"^ *Args:\n(.*?)(?:\n\n|\Z)", inspect.cleandoc(docstring or ""), re.DOTALL | re.MULTILINE)
    lines = section[1].splitlines() if section else []
    return {name for line in lines if (match := re.match(r"  (\S.*?):", line)) for name in match[1].split(", ")}


FUNCTIONS = {
    name: (function, docstring) for name, function, docstring in functions() if len(parameters(function)) >= MANY
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_function_of_many_parameters_explains_each_of_them(name):
    function, docstring = FUNCTIONS[name]
    assert documented(docstring) >= set(parameters(function))


def test_the_functions_are_found():
    assert {"rnnjax.unrolling.sequences.unroll", "rnnjax.cells.cell.Cell.over_time"} <= FUNCTIONS.keys()
