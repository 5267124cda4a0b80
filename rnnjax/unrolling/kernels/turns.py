"""Kernels take turns: each reads something that the kernel before it in the program has made.

The blocks of a kernel that wait for each other must all be on the GPU at once. If two such kernels ran at once, each
could hold a part of the multiprocessors and wait forever for the other's. So every kernel has an operand, `after`, that
it does not read, and a result, `done`, that it does not write: `after` is the `done` of the kernel before. No compiler
can start a kernel before its operands have been made, nor take the operand away, since it cannot look into a kernel.

Which kernel is the one before is known when a program is lowered, not when it is traced: only then are transformations
done, and traces that JAX has kept are put in place. It is looked for in the same function or body of a loop; how XLA
orders those is in docs/decisions.md.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import ShapedArray
from jax.extend.core import ClosedJaxpr, Primitive, jaxpr_as_fun
from jax.interpreters import ad, batching, mlir
from jaxtyping import Array, Int32

DONE = jax.ShapeDtypeStruct((1,), jnp.int32)  # of what a kernel hands on to the next

_NAME = "kernel_in_turn"  # of the functions in a lowered program in which kernels are
_in_turn = Primitive(_NAME)
_in_turn.multiple_results = True


def in_turn(kernel: Callable[..., tuple[Any, Int32[Array, "1"]]], *arguments: Any) -> Any:
    """Runs a kernel after the one that is before it in the same function of a program.

    Args:
      kernel: called as ``kernel(after, *arguments)``, returns its results and `done`. It closes over no array.
      *arguments: trees of arrays.

    Returns:
      The results of the kernel.
    """
    leaves, structure = jax.tree.flatten(arguments)

    def flat(after, *leaves):
        return kernel(after, *structure.unflatten(leaves))

    program, (results, _) = jax.make_jaxpr(flat, return_shape=True)(DONE, *leaves)
    return jax.tree.unflatten(jax.tree.structure(results), _in_turn.bind(*leaves, program=program))


@_in_turn.def_effectful_abstract_eval
def _types(*_: Any, program: ClosedJaxpr) -> tuple[list[Any], Any]:
    # Without `done`, which is seen in lowered programs only.
    return program.out_avals[:-1], program.effects


@_in_turn.def_impl
def _run(*leaves: Any, program: ClosedJaxpr) -> list[Array]:
    return jaxpr_as_fun(program)(jnp.zeros(DONE.shape, DONE.dtype), *leaves)[:-1]


def _derivative(primals: list[Any], tangents: list[Any], *, program: ClosedJaxpr) -> tuple[list[Array], list[Array]]:
    """Returns the results and their tangents, these by the derivative that is defined for the kernel.

    What that derivative computes besides, the results again, is dead code.
    """

    def run(*leaves):
        return _run(*leaves, program=program)

    results = _in_turn.bind(*primals, program=program)
    return results, jax.jvp(run, tuple(primals), tuple(map(ad.instantiate_zeros, tangents)))[1]


def _batched(leaves: list[Any], axes: list[int | None], *, program: ClosedJaxpr) -> tuple[list[Array], list[int]]:
    """Returns the results of a batch of kernels: one kernel, or several in a loop, as is defined for it."""
    kernels = jax.vmap(jaxpr_as_fun(program), (None, *axes))
    results = _in_turn.bind(*leaves, program=jax.make_jaxpr(kernels)(DONE, *leaves))
    return results, [0] * len(results)


def _lowered(ctx: mlir.LoweringRuleContext, *operands: Any, program: ClosedJaxpr) -> Any:
    """Puts a call into the lowered program, of a function that reads what the last such call has returned."""
    stream = getattr(ctx.jaxpr_eqn_ctx, "compute_type", None)
    if str(stream).startswith("gpu_stream"):
        raise ValueError(
            f"Pallas() kernels must not run beside others, and compute_on puts this one on {stream!r}; "
            "leave it out, or use Fused() or Scan()"
        )
    here: Any = mlir.ir.InsertionPoint.current
    before = _last_call(here.block)
    after = mlir.ir_constant(np.zeros(DONE.shape, DONE.dtype)) if before is None else before.results[-1]
    shape = mlir.ir.RankedTensorType(after.type).shape  # of a batch of kernels, more than one

    # Named as `_NAME` says: `_last_call` finds the function in the lowered program by this.
    def kernel_in_turn(after, *leaves):
        # The `done` of a batch of kernels has an entry for each; one is enough to depend on all.
        return jaxpr_as_fun(program)(jnp.ravel(after)[:1], *leaves)

    of_call = ctx.replace(avals_in=(ShapedArray(tuple(shape), DONE.dtype), *ctx.avals_in))
    *results, _ = mlir.lower_fun(jax.jit(kernel_in_turn))(of_call, after, *operands)
    if of_call.tokens_out is not None:  # in JAX's interpreter
        ctx.set_tokens_out(of_call.tokens_out)
    return results


def _last_call(block: Any) -> Any:
    """Returns the last call of a kernel in a block of a program that is being lowered; None before the first."""
    calls = [op.operation for op in block.operations if op.operation.name == "func.call"]
    return next((call for call in reversed(calls) if call.attributes["callee"].value.startswith(_NAME)), None)


ad.primitive_jvps[_in_turn] = _derivative
batching.primitive_batchers[_in_turn] = _batched
mlir.register_lowering(_in_turn, _lowered, cacheable=False)  # since no two read the same
