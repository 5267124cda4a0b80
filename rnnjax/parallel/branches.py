"""A `lax.switch` for a loop, whose gradient keeps nothing of what stays the same from turn to turn."""

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

from rnnjax.parallel.pool import Pool
from rnnjax.parallel.replicated import differentiable
from rnnjax.unrolling.varying import vary, varying_axes

Branch = Callable[[Any, Any], Any]


def switch(branches: tuple[Branch, ...], index: Int[Array, ""], fixed: Any, moving: Any) -> Any:
    """Returns ``branches[index](fixed, moving)``, each branch a function of trees that closes over no array.

    Values and gradients are those of `lax.switch`. The latter hands whatever its gradient needs from the way forward to
    the way back, weights included, so that a loop around it stores them once a turn. Here what a branch's gradient
    needs is kept where it depends on `moving`, and computed again where it depends on `fixed` alone: weights in
    another shape or type, as a rule. Branches share the room for what is kept.
    """
    leaves, structure = jax.tree.flatten((fixed, moving))
    wrapped = tuple(_Flat(branch, structure) for branch in branches)
    outputs = jax.eval_shape(branches[0], fixed, moving)
    found: Any = _switch(wrapped, len(jax.tree.leaves(fixed)), index, leaves)
    return jax.tree.unflatten(jax.tree.structure(outputs), found)


@dataclasses.dataclass(frozen=True)
class _Flat:
    """A branch as a function of the leaves of both trees."""

    branch: Branch
    structure: Any

    def __call__(self, *leaves: Array) -> list[Array]:
        outputs = jax.tree.leaves(self.branch(*jax.tree.unflatten(self.structure, leaves)))
        return vary(outputs, varying_axes(leaves))


@dataclasses.dataclass(frozen=True)
class _Derived:
    """A branch's values and what its gradient needs, as one program ``leaves -> (outputs, residuals)``.

    Attributes:
      program: the program.
      pull: structure of the function that returns gradients, with the residuals as its leaves.
      kept: for each residual, whether it depends on more than the fixed leaves.
    """

    program: ClosedJaxpr
    pull: Any
    kept: tuple[bool, ...]

    @property
    def residuals(self) -> list[Any]:
        """Types of the residuals."""
        return self.program.out_avals[len(self.program.out_avals) - len(self.kept) :]

    def run(self, *leaves: Array) -> tuple[list[Array], list[Array]]:
        """Returns the outputs and all residuals."""
        values = jaxpr_as_fun(self.program)(*leaves)
        outputs = len(values) - len(self.kept)
        return values[:outputs], values[outputs:]


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True, eq=False)
class _Plan:
    """How a switch is differentiated: by its branches' programs, for the leaves that are `wanted`."""

    branches: tuple[_Derived, ...]
    pool: Pool
    wanted: tuple[bool, ...]
    moving: tuple[jax.ShapeDtypeStruct, ...]


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _switch(branches: tuple[_Flat, ...], fixed: int, index: Array, leaves: list[Array]) -> list[Array]:
    return jax.lax.switch(index, branches, *leaves)


def _forward(branches: tuple[_Flat, ...], fixed: int, index: Any, leaves: list[Any]) -> tuple[list[Array], Any]:
    wanted = tuple(leaf.perturbed and differentiable(leaf.value) for leaf in leaves)
    values = [leaf.value for leaf in leaves]
    derived, axes = [_derive(branch, wanted, fixed, values) for branch in branches], varying_axes(values)
    pool = Pool.of([_chosen(each.residuals, each.kept) for each in derived])
    plan = _Plan(tuple(derived), pool, wanted, tuple(map(_like, values[fixed:])))

    def run(which: int, *leaves: Array) -> tuple[list[Array], list[Array]]:
        outputs, residuals = derived[which].run(*leaves)
        return vary((outputs, pool.put(which, _chosen(residuals, derived[which].kept))), axes)

    runs = [functools.partial(run, which) for which in range(len(branches))]
    outputs, kept = jax.lax.switch(index.value, runs, *values)
    return outputs, (index.value, values[:fixed], kept, plan)


def _backward(branches: tuple[_Flat, ...], fixed: int, saved: Any, gradients: list[Any]) -> tuple[None, list[Any]]:
    index, constants, kept, plan = saved
    axes = varying_axes((constants, kept))
    given = [_instantiated(gradient, axes) for gradient in gradients if _like(gradient).dtype != jax.dtypes.float0]

    def back(which: int, constants: list[Array], kept: list[Array], given: list[Array]) -> list[Array]:
        derived = plan.branches[which]
        # The compiler leaves out all of the program but what depends on the constants alone.
        anything = vary([jnp.zeros(like.shape, like.dtype) for like in plan.moving], axes)
        _, again = derived.run(*constants, *anything)
        own = iter(plan.pool.take(which, kept))
        residuals = [next(own) if is_kept else residual for residual, is_kept in zip(again, derived.kept)]
        return vary(list(jax.tree.unflatten(derived.pull, residuals)(given)), axes)

    backs = [functools.partial(back, which) for which in range(len(branches))]
    found = iter(jax.lax.switch(index, backs, constants, kept, given))
    return None, [next(found) if is_wanted else None for is_wanted in plan.wanted]


_switch.defvjp(_forward, _backward, symbolic_zeros=True)


def _derive(branch: _Flat, wanted: tuple[bool, ...], fixed: int, leaves: list[Array]) -> _Derived:
    pull_structure = None

    def program(*leaves: Array) -> tuple[list[Array], list[Array]]:
        nonlocal pull_structure

        def values(*chosen: Array) -> tuple[list[Array], list[Array]]:
            rest = iter(chosen)
            outputs = branch(*(next(rest) if is_wanted else leaf for leaf, is_wanted in zip(leaves, wanted)))
            return [output for output in outputs if differentiable(output)], outputs

        _, pull, outputs = jax.vjp(values, *_chosen(leaves, wanted), has_aux=True)
        residuals, pull_structure = jax.tree.flatten(pull)
        return outputs, residuals

    closed, shapes = jax.make_jaxpr(program, return_shape=True)(*leaves)
    outputs = len(shapes[0])
    return _Derived(closed, pull_structure, tuple(_depends(closed, fixed)[outputs:]))


def _depends(closed: ClosedJaxpr, fixed: int) -> list[bool]:
    """Returns, for each output of a program, whether it depends on more than its first inputs, `fixed` many."""
    moved = set(map(id, closed.jaxpr.invars[fixed:]))
    for equation in closed.jaxpr.eqns:
        if not moved.isdisjoint(map(id, equation.invars)):
            moved.update(map(id, equation.outvars))
    return [id(output) in moved for output in closed.jaxpr.outvars]


def _chosen(values: Sequence[Any], chosen: Sequence[bool]) -> list[Any]:
    return [value for value, is_chosen in zip(values, chosen) if is_chosen]


def _like(value: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(value.shape, value.dtype)


def _instantiated(gradient: Any, axes: frozenset[str]) -> Array:
    """Returns a gradient as an array, also where it is known to be zero."""
    like = _like(gradient)
    return vary(jnp.zeros(like.shape, like.dtype) if isinstance(gradient, SymbolicZero) else gradient, axes)
