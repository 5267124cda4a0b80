"""Every public function of the kernels says of what shapes the arrays are that it takes and returns."""

import inspect
import types
import typing

import jax
import numpy as np
import pytest
from fixtures.annotations import defined_in, methods_of
from fixtures.kernel_modules import KERNEL_MODULES
from jaxtyping import AbstractArray, TypeCheckError

from rnnjax.unrolling.kernels import traced_gates


def functions():
    """Returns the public functions and methods of all kernels, by name."""
    named = {}
    for module in KERNEL_MODULES:
        for value in defined_in(module):
            place = f"{module.__name__.rpartition('.')[2]}.{value.__name__}"
            if isinstance(value, types.FunctionType):
                named[place] = value
            else:
                named |= {f"{place}.{name}": method for name, method in methods_of(value).items()}
    return named


def types_in(hint):
    """Yields a type and all types that it is made of, such as the members of a union."""
    yield hint
    arguments = typing.get_args(hint)
    if inspect.isclass(hint) and issubclass(hint, AbstractArray):
        return
    if hasattr(hint, "leaftype"):  # jaxtyping's PyTree
        arguments = (hint.leaftype,)
    for argument in arguments:
        for inner in argument if isinstance(argument, list) else [argument]:
            yield from types_in(inner)


FUNCTIONS = functions()

# Those whose arguments are numbers, cells, devices, or pytrees of a recurrence.
WITHOUT_ARRAYS = {
    "cudnn.CuDNN.why_not",
    "gpu_block.Block.load_matrix",
    "gpu_block.compiler_params",
    "gpu_block.interpreter",
    "instructions.in_instructions",
    "instructions.unknown_operation",
    "layout.layout",
    "layout.layouts_of",
    "layout.most_units",
    "layout.sizes_of",
    "linear.parts_of",
    "pallas.Pallas.why_not",
    "pallas.beside_others",
    "pallas.unsuited_device",
    "pallas.unsuited_recurrence",
    "pointwise.Pointwise.alike",
    "pointwise.Pointwise.operations",
    "pointwise.Pointwise.rewritten",
    "precision.exact_products",
    "traced_gates.Gates.rewritten",
    "traced_gates.gates_of",
    "traced_gates.with_gradients",
    "traced_gates.with_one_unit",
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_argument_and_result_of_a_public_function_is_annotated(name):
    function = FUNCTIONS[name]
    hints = typing.get_type_hints(function)
    parameters = [parameter for parameter in inspect.signature(function).parameters if parameter != "self"]
    assert hints.keys() >= {*parameters, "return"}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_no_array_is_annotated_without_its_shape(name):
    inner = [each for hint in typing.get_type_hints(FUNCTIONS[name]).values() for each in types_in(hint)]
    assert not {jax.Array, np.ndarray, jax.ShapeDtypeStruct}.intersection(
        each for each in inner if inspect.isclass(each)
    )


def test_all_functions_of_arrays_say_their_shapes():
    said = {
        name
        for name, function in FUNCTIONS.items()
        if any(
            inspect.isclass(each) and issubclass(each, AbstractArray)
            for hint in typing.get_type_hints(function).values()
            for each in types_in(hint)
        )
    }
    assert FUNCTIONS.keys() - said == WITHOUT_ARRAYS


def test_an_annotation_that_is_not_true_fails_a_test():
    with pytest.raises(TypeCheckError):
        traced_gates.by_unit(np.zeros((2, 3)), 3)
