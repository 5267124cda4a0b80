"""Parameters from Flax, Linen and NNX."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from rnnjax.cells import GRU, LSTM, BasicRNN, Cell, GatedCell, GatedParams, GRUParams, LSTMParams
from rnnjax.cells.activations import activation_function
from rnnjax.cells.cell import Params
from rnnjax.cells.traits import is_gated
from rnnjax.interop.conversion import DenseNames, Framework, convert
from rnnjax.interop.variables import Found, Shapes, below, paths, read, refuse, size_of


def from_flax(cell: Cell, variables: Mapping[str, Any], *, scope: str = "", module: Any = None) -> Params:
    """Returns the parameters of `cell` from variables of Flax's cells, Linen's or NNX's.

    | Flax, Linen and NNX | rnnjax |
    |---|---|
    | SimpleCell | BasicRNN |
    | LSTMCell, OptimizedLSTMCell | LSTM |
    | GRUCell | GRU(reset="after"); NNX's has no b_hn, which is zero |
    | several, in scopes that differ by a number | Stack |
    | a Dense (NNX: Linear) beside the cell | Project |

    Variables do not tell a cell's options: a SimpleCell with ``residual=True`` has no counterpart, and a module's
    `activation_fn` and `gate_fn` must be given to the cell as `activation` and `gate_activation`. With `module` this is
    checked.

    Args:
      cell: the rnnjax cell.
      variables: what Linen's `init` returns, or its collection ``params`` (others are not read), or NNX's
        `nnx.state(module)`, or its pure dict; below any modules (`RNN`, `Sequential`, ...). NNX's random state, below
        the name ``rngs``, is not read.
      scope: read only the variables below these modules, such as ``"encoder/forward_rnn"``.
      module: the Flax cell that the variables are of, or an `RNN` of it; for a `Stack`, one a layer.

    Raises:
      ValueError: if a variable is missing, left over or misshapen, Flax has no such cell, or the module computes
        something else than the cell.
    """
    if module is not None:
        _check_modules(cell, module)
    inner = variables.get("params", variables) if isinstance(variables, Mapping) else variables
    found = below(paths(inner, "/"), scope, "/")
    # NNX cannot call a module `if`, as Linen does.
    found = {tuple("if" if part == "if_" else part for part in path): found[path] for path in found}
    return convert(_FRAMEWORK, cell, {path: found[path] for path in found if "rngs" not in path}, None)


def _check_modules(cell: Cell, module: Any) -> None:
    """Raises unless Flax's modules have the options that the gated cells, from the lowest up, have counterparts of."""
    cells = [part for part in cell.parts() if is_gated(part)]
    modules = list(module) if isinstance(module, Sequence) else [module]
    if len(cells) != len(modules):
        raise ValueError(f"module must be one a layer, {len(cells)} of them for {cell!r}, got {len(modules)}")
    for own, theirs in zip(cells, modules):
        _check_options(own, getattr(theirs, "cell", theirs))  # an RNN has its cell in it


def _check_options(cell: GatedCell, module: Any) -> None:
    name = type(module).__name__
    if getattr(module, "residual", False):
        raise ValueError(f"{name} has residual=True, which adds the state before the activation; no cell here does")
    choices = getattr(cell, "activation", "tanh"), getattr(cell, "gate_activation", "sigmoid")
    for option, expected in zip(("activation_fn", "gate_fn"), map(activation_function, choices)):
        theirs = getattr(module, option, expected)
        if not np.allclose(theirs(_POINTS), expected(_POINTS), atol=1e-5):
            raise ValueError(f"{name} has {option}={_name(theirs)}, but {cell!r} computes {_name(expected)} there")


_POINTS: Any = np.linspace(-3, 3, 7, dtype=np.float32)


def _name(function: Any) -> str:
    return getattr(function, "__name__", repr(function))


def _flax_basic(cell: BasicRNN, found: Found, input_size: int | None) -> GatedParams:
    refuse(cell, "Flax", use_bias=True)
    w_x, w_h, b, _ = _flax_gated(cell, found, input_size, ("",), "i", {})
    return GatedParams(w_x, w_h, b)


def _flax_lstm(cell: LSTM, found: Found, input_size: int | None) -> LSTMParams:
    refuse(cell, "Flax", use_bias=True, peephole=False, coupled_gates=False, layer_norm=False, projection_size=None)
    w_x, w_h, b, _ = _flax_gated(cell, found, input_size, tuple("ifgo"), "h", {})
    return LSTMParams(w_x, w_h, b)


def _flax_gru(cell: GRU, found: Found, input_size: int | None) -> GRUParams:
    refuse(cell, "Flax", use_bias=True, reset="after")
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
