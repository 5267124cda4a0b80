"""A `lax.switch` for use inside a loop, whose gradient stores no residuals that are the same in every iteration."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero
from jax.extend.core import ClosedJaxpr, jaxpr_as_fun
from jaxtyping import Array, Int

from rnnjax.parallel.packed_buffers import PackedBuffers
from rnnjax.parallel.replicated import differentiable
from rnnjax.unrolling.varying import vary, varying_axes

Branch = Callable[[Any, Any], Any]


def switch(branches: tuple[Branch, ...], index: Int[Array, ""], constants: Any, variables: Any) -> Any:
    """Returns ``branches[index](constants, variables)``, with values and gradients as those of `lax.switch`.

    `lax.switch` saves all residuals of its backward pass in the forward pass, weights included, so a loop around it
    stores a copy of the weights per iteration. Here only the residuals that depend on `variables` are saved. Those that
    depend on `constants` alone (usually the weights, transposed or in another dtype) are recomputed in the backward
    pass. The branches share the buffers in which residuals are saved.

    Args:
      branches: functions of two pytrees of arrays that return pytrees of equal structure, shapes and dtypes. They
        must close over no array.
      index: which branch is taken.
      constants: what is the same in every iteration of the loop around.
      variables: what changes from one iteration to the next.
    """
    leaves, structure = jax.tree.flatten((constants, variables))
    flat_branches = tuple(_FlatBranch(branch, structure) for branch in branches)
    outputs = jax.eval_shape(branches[0], constants, variables)
    values: Any = _switch(flat_branches, len(jax.tree.leaves(constants)), index, leaves)
    return jax.tree.unflatten(jax.tree.structure(outputs), values)


@dataclasses.dataclass(frozen=True)
class _FlatBranch:
    """A branch as a function of the leaves of both trees."""

    branch: Branch
    structure: Any

    def __call__(self, *leaves: Array) -> list[Array]:
        outputs = jax.tree.leaves(self.branch(*jax.tree.unflatten(self.structure, leaves)))
        # All branches must return one type, and one may return a constant where another's output varies.
        return vary(outputs, varying_axes(leaves))


@dataclasses.dataclass(frozen=True)
class _ForwardProgram:
    """A branch's forward pass as one program ``leaves -> (outputs, residuals)``.

    Attributes:
      program: the program.
      vjp_structure: pytree structure of the branch's VJP function, whose leaves are the residuals.
      saved: for each residual, whether it depends on more than the constants.
    """

    program: ClosedJaxpr
    vjp_structure: Any
    saved: tuple[bool, ...]

    @property
    def residual_types(self) -> list[Any]:
        """Abstract values of the residuals."""
        return self.program.out_avals[len(self.program.out_avals) - len(self.saved) :]

    def run(self, *leaves: Array) -> tuple[list[Array], list[Array]]:
        """Returns the outputs and all residuals."""
        values = jaxpr_as_fun(self.program)(*leaves)
        outputs = len(values) - len(self.saved)
        return values[:outputs], values[outputs:]


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True, eq=False)
class _Differentiation:
    """All that the backward pass must know besides arrays.

    Attributes:
      programs: the forward pass of every branch.
      buffers: where residuals are saved.
      wanted: for each leaf, whether its gradient is needed.
      variables: shapes and dtypes of the variables.
    """

    programs: tuple[_ForwardProgram, ...]
    buffers: PackedBuffers
    wanted: tuple[bool, ...]
    variables: tuple[jax.ShapeDtypeStruct, ...]


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _switch(branches: tuple[_FlatBranch, ...], num_constants: int, index: Array, leaves: list[Array]) -> list[Array]:
    return jax.lax.switch(index, branches, *leaves)


def _forward(
    branches: tuple[_FlatBranch, ...], num_constants: int, index: Any, leaves: list[Any]
) -> tuple[list[Array], Any]:
    # With symbolic zeros, a leaf comes with whether anything is differentiated with respect to it.
    wanted = tuple(leaf.perturbed and differentiable(leaf.value) for leaf in leaves)
    values = [leaf.value for leaf in leaves]
    axes = varying_axes(values)
    programs = [_forward_program(branch, wanted, num_constants, values) for branch in branches]
    buffers = PackedBuffers.for_trees([_where(program.residual_types, program.saved) for program in programs])
    variables = tuple(map(_shape_and_dtype, values[num_constants:]))

    def run(number: int, *leaves: Array) -> tuple[list[Array], list[Array]]:
        outputs, residuals = programs[number].run(*leaves)
        saved = _where(residuals, programs[number].saved)
        return vary((outputs, buffers.pack(number, saved)), axes)

    forward_branches = [functools.partial(run, number) for number in range(len(branches))]
    outputs, saved = jax.lax.switch(index.value, forward_branches, *values)
    differentiation = _Differentiation(tuple(programs), buffers, wanted, variables)
    return outputs, (index.value, values[:num_constants], saved, differentiation)


def _backward(
    branches: tuple[_FlatBranch, ...], num_constants: int, saved: Any, cotangents: list[Any]
) -> tuple[None, list[Any]]:
    index, constants, buffers, differentiation = saved
    axes = varying_axes((constants, buffers))
    # Outputs of whole numbers have no cotangent, as `of_wanted` returns none of them for the VJP.
    with_gradient = [each for each in cotangents if _shape_and_dtype(each).dtype != jax.dtypes.float0]
    cotangents = [_instantiate(each, axes) for each in with_gradient]

    def pull_back(number: int, constants: list[Array], buffers: list[Array], cotangents: list[Array]) -> list[Array]:
        program = differentiation.programs[number]
        # Any values do: what depends on them was saved, and the compiler removes its computation here.
        placeholders = vary([jnp.zeros(like.shape, like.dtype) for like in differentiation.variables], axes)
        _, recomputed = program.run(*constants, *placeholders)
        saved = iter(differentiation.buffers.unpack(number, buffers))
        residuals = [next(saved) if is_saved else value for value, is_saved in zip(recomputed, program.saved)]
        vjp = jax.tree.unflatten(program.vjp_structure, residuals)
        return vary(list(vjp(cotangents)), axes)

    backward_branches = [functools.partial(pull_back, number) for number in range(len(branches))]
    gradients = iter(jax.lax.switch(index, backward_branches, constants, buffers, cotangents))
    return None, [next(gradients) if is_wanted else None for is_wanted in differentiation.wanted]


_switch.defvjp(_forward, _backward, symbolic_zeros=True)


def _forward_program(
    branch: _FlatBranch, wanted: tuple[bool, ...], num_constants: int, leaves: list[Array]
) -> _ForwardProgram:
    vjp_structure = None

    def forward(*leaves: Array) -> tuple[list[Array], list[Array]]:
        nonlocal vjp_structure

        def of_wanted(*chosen: Array) -> tuple[list[Array], list[Array]]:
            remaining = iter(chosen)
            arguments = [next(remaining) if is_wanted else leaf for leaf, is_wanted in zip(leaves, wanted)]
            outputs = branch(*arguments)
            return [output for output in outputs if differentiable(output)], outputs

        _, vjp, outputs = jax.vjp(of_wanted, *_where(leaves, wanted), has_aux=True)
        # A VJP function is a pytree: its leaves leave the trace as results, its structure by this variable.
        residuals, vjp_structure = jax.tree.flatten(vjp)
        return outputs, residuals

    program, (outputs, _) = jax.make_jaxpr(forward, return_shape=True)(*leaves)
    saved = _depends_on_variables(program, num_constants)[len(outputs) :]
    return _ForwardProgram(program, vjp_structure, tuple(saved))


def _depends_on_variables(program: ClosedJaxpr, num_constants: int) -> list[bool]:
    """Returns, for each output of a program, whether it depends on any but the first `num_constants` inputs."""
    dependent = set(map(id, program.jaxpr.invars[num_constants:]))
    for equation in program.jaxpr.eqns:
        if not dependent.isdisjoint(map(id, equation.invars)):
            dependent.update(map(id, equation.outvars))
    return [id(output) in dependent for output in program.jaxpr.outvars]


def _where(values: Sequence[Any], chosen: Sequence[bool]) -> list[Any]:
    return [value for value, is_chosen in zip(values, chosen) if is_chosen]


def _shape_and_dtype(value: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(value.shape, value.dtype)


def _instantiate(cotangent: Any, axes: frozenset[str]) -> Array:
    """Returns a cotangent as an array, also if it is a symbolic zero."""
    like = _shape_and_dtype(cotangent)
    return vary(jnp.zeros(like.shape, like.dtype) if isinstance(cotangent, SymbolicZero) else cotangent, axes)
