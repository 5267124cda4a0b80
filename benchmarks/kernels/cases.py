"""What `benchmarks.kernels` measures: cells, shapes, types, and numbers to fill them with."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from rnnjax import GRU, LSTM, BasicRNN, GatedCell, GatedParams, GRUParams, HiddenState, LSTMParams

HEAD = 8  # steps at the beginning of a sequence that are computed again in float64

Arrays = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class OwnCell(GatedCell):
    """The README's own cell (Zhou et al., 2016): h' = (1 - f) * h + f * tanh(z_n + f * r_n)."""

    gate_count = 2

    def gates(self, params: GatedParams, state: HiddenState, z: Array, r: Array) -> HiddenState:
        f = jax.nn.sigmoid(z[..., 0, :] + r[..., 0, :])
        n = jnp.tanh(z[..., 1, :] + f * r[..., 1, :])
        return HiddenState((1 - f) * state.h + f * n)


class Kind(NamedTuple):
    """A kind of cell: how to make one, its gates, and its own pointwise parameters, a row of H each."""

    make: Callable[[int], GatedCell]
    gates: int
    own: int = 0


KINDS: dict[str, Kind] = {
    "LSTM": Kind(LSTM, 4),
    "own": Kind(OwnCell, 2),
    "GRU": Kind(GRU, 3, own=1),
    "LSTM+peephole": Kind(lambda size: LSTM(size, peephole=True), 4, own=3),
    "BasicRNN": Kind(BasicRNN, 1),
}


class Case(NamedTuple):
    """A recurrence: `heads` of them side by side, of H units each, with weights of their own.

    It starts from inputs of the size ``heads * H`` where they are `projected` in it, else from precomputed ones.
    """

    cell: str
    heads: int
    H: int
    B: int
    T: int
    dtype: str = "bfloat16"
    projected: bool = False

    @property
    def kind(self) -> Kind:
        """What kind of cell it has."""
        return KINDS[self.cell]

    @property
    def start(self) -> str:
        """The letter of what it starts from."""
        return "x" if self.projected else "z"

    @property
    def head(self) -> int:
        """Number of steps that are computed again."""
        return min(HEAD, self.T)

    def input_shape(self, length: int) -> tuple[int, ...]:
        """Returns the shape of inputs of so many steps: ``[T, B, I]``, precomputed ``[N, T, B, G, H]`` for N heads."""
        if self.projected:
            return (length, self.B, self.H)
        return (self.heads, length, self.B, self.kind.gates, self.H)

    def output_shape(self, length: int) -> tuple[int, ...]:
        """Returns the shape of outputs: ``[T, B, H]``, from precomputed inputs ``[N, T, B, H]``."""
        return (length, self.B, self.H) if self.projected else (self.heads, length, self.B, self.H)


class Numbers(NamedTuple):
    """Parameters of a case, and the head of its inputs and of the gradient of its outputs, in NumPy and float64.

    Parameters are ``w_h [N, H, G, H]``, ``own [N, K, H]`` where the cell has such, and where inputs are projected
    ``w_x [N, I, G, H]`` and ``b [N, G, H]``. All are values of the case's type.
    """

    parameters: Arrays
    inputs: np.ndarray
    d_outputs: np.ndarray


def numbers(case: Case) -> Numbers:
    """Returns random numbers for a case: weights within plus and minus 1 / sqrt(H), as PyTorch draws them."""
    rng = np.random.default_rng(0)
    gates, width, heads = case.kind.gates, case.H, case.heads
    shapes: dict[str, tuple[int, ...]] = {"w_h": (heads, width, gates, width)}
    if case.kind.own:
        shapes["own"] = (heads, case.kind.own, width)
    if case.projected:
        shapes |= {"w_x": (heads, width, gates, width), "b": (heads, gates, width)}
    bound = 1 / math.sqrt(width)
    parameters = {name: rounded(rng.uniform(-bound, bound, shape), case.dtype) for name, shape in shapes.items()}
    inputs, d_outputs = (
        rounded(rng.standard_normal(shape(case.head)), case.dtype) for shape in (case.input_shape, case.output_shape)
    )
    return Numbers(parameters, inputs, d_outputs)


def rounded(values: np.ndarray, dtype: str) -> np.ndarray:
    """Returns values in float64 that a type can hold."""
    return values.astype(jnp.dtype(dtype)).astype(np.float64)


def cell_params(case: Case, parameters: dict[str, Any]) -> Any:
    """Returns a case's parameters, whatever stands for arrays, as the cell has them; None for those that it has not."""
    found: Any = parameters.get
    w_x, w_h, b, own = map(found, ("w_x", "w_h", "b", "own"))
    if case.cell.startswith("LSTM"):
        return LSTMParams(w_x, w_h, b, own)
    if case.cell == "GRU":
        return GRUParams(w_x, w_h, b, own[..., 0, :])
    return GatedParams(w_x, w_h, b)


def case_parameters(case: Case, params: Any) -> dict[str, Any]:
    """Returns the inverse of `cell_params`."""
    found = {"w_x": params.w_x, "w_h": params.w_h, "b": params.b}
    if case.kind.own:
        found["own"] = params.b_hn[..., None, :] if case.cell == "GRU" else params.peephole
    return {name: value for name, value in found.items() if value is not None}
