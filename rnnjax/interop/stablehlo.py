"""Programs for processes without this library: StableHLO, as `jax.export` writes it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.export import Exported
from jax.typing import DTypeLike

from rnnjax.cells import Cell
from rnnjax.cells.cell import Params
from rnnjax.interop.sizes import input_size_of
from rnnjax.unrolling.auto import choosing
from rnnjax.unrolling.scan import Scan
from rnnjax.unrolling.sequences import unroll

PLATFORMS = ("cpu", "cuda", "rocm", "tpu")


@dataclasses.dataclass(frozen=True)
class Free:
    """An array of some shape; a text in it, such as "B", is a free size, the same wherever it is named."""

    shape: tuple[int | str, ...]
    dtype: DTypeLike


class Programs(NamedTuple):
    """A cell over time, for any batch size and length, with the parameters in it.

    Attributes:
      unroll: ``(xs [B, T, I], lengths [B], state) -> (ys [B, T, O], state)``, as `rnnjax.unroll` does.
      initial_state: ``lengths [B] -> state``, that of sequences which begin.
    """

    unroll: Exported
    initial_state: Exported


def to_stablehlo(
    cell: Cell, params: Params, *, dtype: DTypeLike = jnp.float32, platforms: tuple[str, ...] = PLATFORMS
) -> Programs:
    """Returns a cell over time as programs that run in a process with JAX alone.

    States are made of dicts and tuples: ``{"h": [B, H]}``, ``{"h": ..., "c": ...}``, a tuple of these for a `Stack`.
    Dropout is as in evaluation, and the steps are taken one after another, by a loop that every kind of device has.

    Args:
      cell: the cell.
      params: its parameters, which become part of the programs.
      dtype: type of the inputs.
      platforms: the kinds of devices that the programs are for.

    Raises:
      ValueError: if the parameters are not the cell's.

    Example:
      >>> import jax, numpy as np, rnnjax
      >>> cell = rnnjax.LSTM(8)
      >>> programs = rnnjax.interop.to_stablehlo(cell, cell.init(jax.random.key(0), 3))
      >>> written = programs.unroll.serialize(), programs.initial_state.serialize()

      >>> # Elsewhere, where nothing but JAX is installed:
      >>> unroll, initial_state = (jax.export.deserialize(program).call for program in written)
      >>> lengths = np.array([5, 2], np.int32)
      >>> ys, state = unroll(np.ones((2, 5, 3), np.float32), lengths, initial_state(lengths))
      >>> ys.shape, sorted(state)
      ((2, 5, 8), ['c', 'h'])
    """
    size = input_size_of(cell, params)
    like = jax.eval_shape(lambda: cell.start(params, 1, dtype))

    def run(xs: Any, lengths: Any, state: Any) -> tuple[Any, Any]:
        ys, after = unroll(cell, params, xs, as_before(like, state), lengths=lengths)
        return ys, as_plain(after)

    def start(lengths: Any) -> Any:
        return as_plain(cell.start(params, lengths.shape[0], dtype))

    xs, lengths = Free(("B", "T", size), dtype), Free(("B",), jnp.int32)
    state = jax.tree.map(lambda leaf: Free(("B", *leaf.shape[1:]), leaf.dtype), as_plain(like))
    return Programs(exported(run, (xs, lengths, state), platforms), exported(start, (lengths,), platforms))


def exported(function: Callable[..., Any], arguments: tuple[Any, ...], platforms: tuple[str, ...]) -> Exported:
    """Returns an exported function.

    Args:
      function: the function.
      arguments: its arguments, with a `Free` in the place of every array.
      platforms: the kinds of devices that it is for.
    """
    names = dict.fromkeys(size for array in jax.tree.leaves(arguments) for size in array.shape if isinstance(size, str))
    sizes = dict(zip(names, jax.export.symbolic_shape(", ".join(names)))) if names else {}

    def shaped(array: Free) -> jax.ShapeDtypeStruct:
        shape = [sizes[size] if isinstance(size, str) else size for size in array.shape]
        return jax.ShapeDtypeStruct(shape, array.dtype)

    shapes = jax.tree.map(shaped, arguments)
    # The loop that every kind of device has, whatever is fastest on this one.
    with choosing(lambda cell: Scan()):
        return jax.export.export(jax.jit(function), platforms=platforms)(*shapes)


def as_plain(tree: Any) -> Any:
    """Returns a tree whose named tuples are dicts: what a process without this library has as well."""
    if hasattr(tree, "_fields"):
        return {name: as_plain(part) for name, part in tree._asdict().items()}
    if type(tree) in (tuple, list):
        return type(tree)(as_plain(part) for part in tree)
    return tree


def as_before(like: Any, plain: Any) -> Any:
    """Returns what `as_plain` made of a tree like `like`, with its named tuples again."""
    if hasattr(like, "_fields"):
        return type(like)(*(as_before(part, plain[name]) for name, part in like._asdict().items()))
    if type(like) in (tuple, list):
        return type(like)(as_before(part, each) for part, each in zip(like, plain, strict=True))
    return plain
