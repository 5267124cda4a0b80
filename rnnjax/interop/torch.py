"""Parameters from PyTorch."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array

from rnnjax.cells import GRU, LSTM, BasicRNN, Cell, GatedCell, GatedParams, GRUParams, LSTMParams
from rnnjax.cells.cell import Params
from rnnjax.interop.conversion import DenseNames, Framework, convert
from rnnjax.interop.variables import Found, Shapes, Variables, below, names_of, paths, read, refuse, size_of
from rnnjax.unrolling.bidirectional import Cells, input_sizes, layers


def from_torch(
    cell: Cell,
    state_dict: Mapping[str, Any],
    *,
    layer: int | None = None,
    reverse: bool | None = None,
    scope: str = "",
) -> Params:
    """Returns the parameters of `cell` from a `state_dict` of PyTorch's recurrent modules.

    | PyTorch | rnnjax |
    |---|---|
    | RNN, RNNCell | BasicRNN, with the same activation |
    | LSTM, LSTMCell | LSTM |
    | LSTM(proj_size=P) | LSTM(projection_size=P) |
    | GRU, GRUCell | GRU(reset="after") |
    | several layers, or modules in a list | Stack |
    | a Linear beside the module | Project |

    A layer of a bidirectional module reads both directions of the one below, so it is no cell:
    `bidirectional_from_torch` converts all of its layers for `rnnjax.bidirectional`.

    Args:
      cell: the rnnjax cell.
      state_dict: arrays or tensors by name, such as ``rnn.weight_ih_l0``; where it has no biases, a cell's are zero.
      layer: read this layer of the module alone, counted from 0; None reads all, which `cell` must have.
      reverse: whether to read the reverse direction; None says that there is only one direction.
      scope: read only the variables of this submodule, such as ``"encoder.rnn"``.

    Raises:
      ValueError: if a variable is missing, left over or misshapen, or PyTorch has no such cell.
    """
    found = below(paths(state_dict, "."), scope, ".")
    return convert(_FRAMEWORK, cell, _torch_selection(found, layer, reverse), None)


def bidirectional_from_torch(
    forward: Cells, backward: Cells, state_dict: Mapping[str, Any], *, scope: str = ""
) -> tuple:
    """Returns the parameters for `rnnjax.bidirectional` from a `state_dict` of a bidirectional PyTorch module.

    Args:
      forward, backward: the two cells of a module of one layer, or two lists of cells, one a layer.
      state_dict, scope: as in `from_torch`.

    Returns:
      A pair of parameters, or, for lists, a pair a layer.

    Raises:
      ValueError: if the module has another number of layers, or one direction only; otherwise as `from_torch`.
    """
    pairs, found = layers(forward, backward), below(paths(state_dict, "."), scope, ".")
    matches = [_TORCH_NAME.fullmatch(path[-1]) for path in found]
    saved = {int(match[2]) for match in matches if match and match[2]}
    if saved != set(range(len(pairs))):
        raise ValueError(f"there are cells for {len(pairs)} layers, but layers {sorted(saved)} in {names_of(found)}")
    made = tuple(
        tuple(
            convert(_FRAMEWORK, cell, _torch_selection(found, layer, reverse), size)
            for cell, reverse in zip(pair, (False, True))
        )
        for layer, (pair, size) in enumerate(zip(pairs, input_sizes(pairs, None)))
    )
    return made[0] if isinstance(forward, Cell) else made


_ACTIVATIONS = {"activation": "tanh", "gate_activation": "sigmoid"}


def _torch_basic(cell: BasicRNN, found: Found, input_size: int | None) -> GatedParams:
    w_x, w_h, b_x, b_h = _torch_gated(cell, _torch_read(cell, found, input_size, 1, {}), 1)
    return GatedParams(w_x, w_h, b_x + b_h if cell.use_bias else None)


def _torch_lstm(cell: LSTM, found: Found, input_size: int | None) -> LSTMParams:
    refuse(cell, "PyTorch", **_ACTIVATIONS, peephole=False, coupled_gates=False, layer_norm=False)
    projection: Shapes = {"weight_hr": (cell.output_size, cell.hidden_size)} if cell.projection_size else {}
    values = _torch_read(cell, found, input_size, 4, projection)
    w_x, w_h, b_x, b_h = _torch_gated(cell, values, 4)
    b = b_x + b_h if cell.use_bias else None
    return LSTMParams(w_x, w_h, b, w_p=values["weight_hr"].T if projection else None)


def _torch_gru(cell: GRU, found: Found, input_size: int | None) -> GRUParams:
    refuse(cell, "PyTorch", **_ACTIVATIONS, reset="after")
    w_x, w_h, b_x, b_h = _torch_gated(cell, _torch_read(cell, found, input_size, 3, {}), 3)
    return GRUParams(w_x, w_h, *((b_x.at[:2].add(b_h[:2]), b_h[2]) if cell.use_bias else (None, None)))


def _torch_read(cell: GatedCell, found: Found, input_size: int | None, gates: int, others: Shapes) -> dict[str, Array]:
    """Returns the values; biases that a module made with ``bias=False`` has not, or the cell, are zeros here."""
    rows, columns = gates * cell.hidden_size, input_size or size_of(found, "weight_ih", 1)
    shapes = {"weight_ih": (rows, columns), "weight_hh": (rows, cell.output_size)} | others
    biases: Shapes = dict.fromkeys(("bias_ih", "bias_hh"), (rows,))
    if cell.use_bias and found.keys() & biases:
        return read(cell, found, shapes | biases)
    return read(cell, found, shapes) | dict.fromkeys(biases, jnp.zeros(rows))


def _torch_gated(cell: GatedCell, values: dict[str, Array], gates: int) -> tuple[Array, Array, Array, Array]:
    """Returns ``w_x [I, G, H]``, ``w_h [O, G, H]`` and the two biases ``[G, H]``."""
    w_x, w_h = (values[name].T.reshape(-1, gates, cell.hidden_size) for name in ("weight_ih", "weight_hh"))
    b_x, b_h = (values[name].reshape(gates, cell.hidden_size) for name in ("bias_ih", "bias_hh"))
    return w_x, w_h, b_x, b_h


_TORCH_NAME = re.compile(r"((?:weight|bias)_(?:ih|hh|hr))(?:_l(\d+))?(_reverse)?")


def _torch_selection(found: Variables, layer: int | None, reverse: bool | None) -> Variables:
    """Returns the variables of a layer and a direction; a layer becomes a scope, ``weight_ih_l0`` ``l0, weight_ih``."""
    matches = {path: _TORCH_NAME.fullmatch(path[-1]) for path in found}
    backward = [found[path].name for path, match in matches.items() if match and match[3]]
    if backward and reverse is None:
        raise ValueError(
            f"{backward[0]} is of a second direction; choose reverse=False or reverse=True, "
            "or read both with bidirectional_from_torch"
        )
    selection: Variables = {}
    for path, match in matches.items():
        if match is None:
            selection[path] = found[path]
        elif bool(match[3]) == bool(reverse) and (layer is None or match[2] == str(layer)):
            scope = (f"l{match[2]}",) if match[2] else ()
            selection[(*path[:-1], *scope, match[1])] = found[path]
    if selection.keys() == {path for path, match in matches.items() if match is None}:
        raise ValueError(f"there is nothing of layer={layer}, reverse={reverse} among {names_of(found)}")
    return selection


_FRAMEWORK = Framework(
    "PyTorch",
    {BasicRNN: _torch_basic, LSTM: _torch_lstm, GRU: _torch_gru},
    DenseNames("weight", depth=1, transposed=True, biased=False),
)
