"""What `benchmarks.kernels` measures: cells, shapes, types, and numbers to fill them with."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from rnnjax import GRU, LSTM, BasicRNN, GatedCell, GatedParams, HiddenState

HEAD = 8  # steps at the beginning of a sequence that are computed again in float64


@dataclasses.dataclass(frozen=True)
class OwnCell(GatedCell):
    """The README's own cell (Zhou et al., 2016): h' = (1 - f) * h + f * tanh(z_n + f * r_n)."""

    gate_count = 2

    def gates(self, params: GatedParams, state: HiddenState, z: Array, r: Array) -> HiddenState:
        f = jax.nn.sigmoid(z[..., 0, :] + r[..., 0, :])
        n = jnp.tanh(z[..., 1, :] + f * r[..., 1, :])
        return HiddenState((1 - f) * state.h + f * n)


KINDS: dict[str, Callable[[int], GatedCell]] = {
    "LSTM": LSTM,
    "own": OwnCell,
    "GRU": GRU,
    "LSTM+peephole": functools.partial(LSTM, peephole=True),
    "BasicRNN": BasicRNN,
}


class Case(NamedTuple):
    """A recurrence: `heads` of them side by side, of H units each, with weights of their own.

    It starts from H inputs a step where they are `projected` in it, by one head, else from precomputed ones.
    """

    cell: str
    heads: int
    H: int
    B: int
    T: int
    dtype: str = "bfloat16"
    projected: bool = False

    @property
    def start(self) -> str:
        """The letter of what it starts from."""
        return "x" if self.projected else "z"

    @property
    def head(self) -> int:
        """Number of steps that are computed again."""
        return min(HEAD, self.T)

    @property
    def side_by_side(self) -> tuple[int, ...]:
        """The leading axis of all arrays where there are several heads."""
        return (self.heads,) if self.heads > 1 else ()

    def make(self) -> GatedCell:
        """Returns the cell of a head."""
        return KINDS[self.cell](self.H)

    def params(self) -> Any:
        """Returns shapes of the cell's parameters, ``[N, ...]`` for N heads; none to project with if it does not."""
        cell = self.make()
        found: Any = jax.eval_shape(lambda: cell.init(jax.random.key(0), self.H))
        found = found if self.projected else found._replace(w_x=None, b=None)
        return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((*self.side_by_side, *leaf.shape), self.dtype), found)

    def input_shape(self, length: int) -> tuple[int, ...]:
        """Returns the shape of so many steps: ``[T, B, I]``, precomputed ``[T, B, G, H]``, ``[N, ...]`` for N heads."""
        if self.projected:
            return (length, self.B, self.H)
        return (*self.side_by_side, length, self.B, *self.params().w_h.shape[-2:])

    def output_shape(self, length: int) -> tuple[int, ...]:
        """Returns the shape of outputs, ``[T, B, H]``, ``[N, T, B, H]`` for N heads."""
        return (*self.side_by_side, length, self.B, self.H)


class Numbers(NamedTuple):
    """The cell's parameters, and the head of the inputs and of the gradient of the outputs, in NumPy and float64.

    All are values of the case's type.
    """

    params: Any
    inputs: np.ndarray
    d_outputs: np.ndarray


def numbers(case: Case) -> Numbers:
    """Returns random numbers for a case: weights within plus and minus 1 / sqrt(H), as PyTorch draws them."""
    rng, bound = np.random.default_rng(0), 1 / math.sqrt(case.H)
    params = jax.tree.map(lambda leaf: rounded(rng.uniform(-bound, bound, leaf.shape), case.dtype), case.params())
    inputs, d_outputs = (
        rounded(rng.standard_normal(shape(case.head)), case.dtype) for shape in (case.input_shape, case.output_shape)
    )
    return Numbers(params, inputs, d_outputs)


def rounded(values: np.ndarray, dtype: str) -> np.ndarray:
    """Returns values in float64 that a type can hold."""
    return values.astype(jnp.dtype(dtype)).astype(np.float64)
