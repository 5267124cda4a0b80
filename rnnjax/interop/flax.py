"""Parameters from Flax, Linen and NNX."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array

from rnnjax.cells import GRU, LSTM, BasicRNN, Cell, GatedCell, GatedParams, GRUParams, LSTMParams
from rnnjax.cells.cell import Params
from rnnjax.interop.conversion import DenseNames, Framework, convert
from rnnjax.interop.variables import Found, Shapes, below, paths, read, refuse, size_of


def from_flax(cell: Cell, variables: Mapping[str, Any], *, scope: str = "") -> Params:
    """Returns the parameters of `cell` from variables of Flax's cells, Linen's or NNX's.

    | Flax, Linen and NNX | rnnjax |
    |---|---|
    | SimpleCell | BasicRNN |
    | LSTMCell, OptimizedLSTMCell | LSTM |
    | GRUCell | GRU(reset="after"); NNX's has no b_hn, which is zero |
    | several, in scopes that differ by a number | Stack |
    | a Dense (NNX: Linear) beside the cell | Project |

    Variables do not tell a cell's options: a SimpleCell with ``residual=True`` has no counterpart, an LSTMCell or
    GRUCell must have Flax's default `gate_fn` and `activation_fn`, and a SimpleCell's `activation_fn` must be given to
    BasicRNN.

    Args:
      cell: the rnnjax cell.
      variables: what Linen's `init` returns, or its collection ``params`` (others are not read), or NNX's
        `nnx.state(module)`, or its pure dict; below any modules (`RNN`, `Sequential`, ...). NNX's random state, below
        the name ``rngs``, is not read.
      scope: read only the variables below these modules, such as ``"encoder/forward_rnn"``.

    Raises:
      ValueError: if a variable is missing, left over or misshapen, or Flax has no such cell.
    """
    inner = variables.get("params", variables) if isinstance(variables, Mapping) else variables
    found = below(paths(inner, "/"), scope, "/")
    # NNX cannot call a module `if`, as Linen does.
    found = {tuple("if" if part == "if_" else part for part in path): found[path] for path in found}
    return convert(_FRAMEWORK, cell, {path: found[path] for path in found if "rngs" not in path}, None)


def _flax_basic(cell: BasicRNN, found: Found, input_size: int | None) -> GatedParams:
    w_x, w_h, b, _ = _flax_gated(cell, found, input_size, ("",), "i", {})
    return GatedParams(w_x, w_h, b)


def _flax_lstm(cell: LSTM, found: Found, input_size: int | None) -> LSTMParams:
    refuse(cell, "Flax", peephole=False, coupled_gates=False, layer_norm=False, projection_size=None)
    w_x, w_h, b, _ = _flax_gated(cell, found, input_size, tuple("ifgo"), "h", {})
    return LSTMParams(w_x, w_h, b)


def _flax_gru(cell: GRU, found: Found, input_size: int | None) -> GRUParams:
    refuse(cell, "Flax", reset="after")
    own: Shapes = {} if _is_fused(found) else {"hn/bias": (cell.hidden_size,)}
    w_x, w_h, b, values = _flax_gated(cell, found, input_size, tuple("rzn"), "i", own)
    return GRUParams(w_x, w_h, b, values.get("hn/bias", jnp.zeros(cell.hidden_size)))


def _is_fused(found: Found) -> bool:
    """Returns whether one layer has all gates side by side, as in NNX, instead of a layer a gate."""
    return any(name.startswith("dense_") for name in found)


def _flax_gated(
    cell: GatedCell, found: Found, input_size: int | None, gates: tuple[str, ...], biased: str, others: Shapes
) -> tuple[Array, Array, Array, dict[str, Array]]:
    """Returns ``w_x, w_h, b`` and all values; `biased` is the side, i or h, whose layers have the bias."""
    fused = _is_fused(found)
    layers = {side: [f"dense_{side}"] if fused else [side + gate for gate in gates] for side in "ih"}
    kernels = {side: [f"{layer}/kernel" for layer in layers[side]] for side in "ih"}
    biases = [f"{layer}/bias" for layer in layers[biased]]
    rows = {"i": input_size or size_of(found, kernels["i"][0], 0), "h": cell.hidden_size}
    columns = cell.hidden_size * (len(gates) if fused else 1)
    shapes = {name: (rows[side], columns) for side in "ih" for name in kernels[side]}
    values = read(cell, found, shapes | dict.fromkeys(biases, (columns,)) | others)

    def joined(names: list[str], *shape: int) -> Array:
        return jnp.concatenate([values[name] for name in names], -1).reshape(*shape, len(gates), cell.hidden_size)

    return joined(kernels["i"], rows["i"]), joined(kernels["h"], rows["h"]), joined(biases), values


_FRAMEWORK = Framework(
    "Flax",
    {BasicRNN: _flax_basic, LSTM: _flax_lstm, GRU: _flax_gru},
    DenseNames("kernel", depth=1, transposed=False, biased=False),
)
