"""Parameters from TensorFlow 1."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from rnnjax.cells import GRU, LSTM, BasicRNN, Cell, GatedCell, GatedParams, GRUParams, LSTMParams
from rnnjax.cells.cell import Params
from rnnjax.interop.conversion import DenseNames, Framework, convert
from rnnjax.interop.variables import Found, Shapes, below, paths, read, refuse, size_of


def from_tf1(cell: Cell, variables: Mapping[str, Any], *, scope: str = "") -> Params:
    """Returns the parameters of `cell` from variables of `tf.nn.rnn_cell` or `tf.contrib.rnn`.

    | TensorFlow 1 | rnnjax |
    |---|---|
    | BasicRNNCell | BasicRNN |
    | BasicLSTMCell, LSTMCell (peepholes, projection) | LSTM |
    | CoupledInputForgetGateLSTMCell | LSTM(coupled_gates=True) |
    | GRUCell | GRU(reset="before") |
    | MultiRNNCell | Stack |
    | ResidualWrapper, DropoutWrapper, OutputProjectionWrapper | Residual, Dropout, Project |

    TensorFlow adds an LSTM's `forget_bias` at every step and keeps it out of the bias variable, and no checkpoint
    records it. Here it is part of the bias, so `cell.forget_bias` is added to what the variable holds: make the cell
    with the number that the TensorFlow cell was made with (1.0 is the default of both), each layer with its own.

    Args:
      cell: the rnnjax cell.
      variables: arrays by name, with any scope in front of the names, and with or without ``:0`` behind.
        A name below another variable's name (``.../kernel/Adam``, ``.../kernel/ExponentialMovingAverage``) is an
        optimiser's slot or an average, and not read.
      scope: read only the variables below this scope, such as ``"bidirectional_rnn/fw"``.

    Raises:
      ValueError: if a variable is missing, left over or misshapen, or TensorFlow 1 has no such cell.
    """
    found = below(paths(variables, "/"), scope, "/")
    found = {(*path[:-1], re.sub(r":\d+$", "", path[-1])): variable for path, variable in found.items()}
    slots = {path for path in found if any(path[:end] in found for end in range(1, len(path)))}
    return convert(_FRAMEWORK, cell, {path: found[path] for path in found if path not in slots}, None)


def _tf1_basic(cell: BasicRNN, found: Found, input_size: int | None) -> GatedParams:
    refuse(cell, "TensorFlow 1", use_bias=True)
    values, rows = _tf1_read(cell, found, input_size, {"kernel": 1}, {"bias": (cell.hidden_size,)})
    return GatedParams(*_tf1_kernel(values["kernel"], rows, (0,)), values["bias"][None])


class _TF1Names(NamedTuple):
    """The names of an LSTM's variables, and where its gates are that rnnjax has in the order i, f, g, o."""

    kernel: str
    bias: str
    peepholes: tuple[str, ...]
    projection: str
    order: tuple[int, ...]


_TF1_LSTM = _TF1Names("kernel", "bias", ("w_i_diag", "w_f_diag", "w_o_diag"), "projection/kernel", (0, 2, 1, 3))
_TF1_COUPLED_LSTM = _TF1Names("W_0", "B", ("W_F_diag", "W_O_diag"), "W_P_0", (1, 0, 2))


def _tf1_lstm(cell: LSTM, found: Found, input_size: int | None) -> LSTMParams:
    refuse(cell, "TensorFlow 1", use_bias=True, gate_activation="sigmoid", layer_norm=False)
    names = _TF1_COUPLED_LSTM if cell.coupled_gates else _TF1_LSTM
    H, gates = cell.hidden_size, len(names.order)
    shapes = {names.bias: (gates * H,)}
    shapes |= {name: (H,) for name in names.peepholes if cell.peephole}
    shapes |= {names.projection: (H, cell.output_size)} if cell.projection_size else {}
    values, rows = _tf1_read(cell, found, input_size, {names.kernel: gates}, shapes)
    b = values[names.bias].reshape(gates, H)[np.array(names.order)]
    return LSTMParams(
        *_tf1_kernel(values[names.kernel], rows, names.order),
        b.at[0 if cell.coupled_gates else 1].add(cell.forget_bias),
        jnp.stack([values[name] for name in names.peepholes]) if cell.peephole else None,
        values[names.projection] if cell.projection_size else None,
    )


def _tf1_gru(cell: GRU, found: Found, input_size: int | None) -> GRUParams:
    refuse(cell, "TensorFlow 1", use_bias=True, gate_activation="sigmoid", reset="before")
    H = cell.hidden_size
    kernels = {"gates/kernel": 2, "candidate/kernel": 1}
    shapes = {"gates/bias": (2 * H,), "candidate/bias": (H,)}
    values, rows = _tf1_read(cell, found, input_size, kernels, shapes)
    kernel = jnp.concatenate([values[name] for name in kernels], -1)
    b = jnp.concatenate([values[name] for name in shapes]).reshape(3, H)
    return GRUParams(*_tf1_kernel(kernel, rows, (0, 1, 2)), b, None)


def _tf1_read(cell: GatedCell, found: Found, input_size: int | None, kernels: dict[str, int], others: Shapes):
    """Returns the values, and the kernels' number of input rows; `kernels` gives the number of gates in each."""
    rows = input_size or max(1, size_of(found, next(iter(kernels)), 0) - cell.output_size)
    shapes = {name: (rows + cell.output_size, gates * cell.hidden_size) for name, gates in kernels.items()}
    return read(cell, found, shapes | others), rows


def _tf1_kernel(kernel: Array, rows: int, order: tuple[int, ...]) -> tuple[Array, Array]:
    """Returns ``w_x`` and ``w_h`` from a kernel that has input rows above hidden rows, and its gates side by side."""
    w = kernel.reshape(kernel.shape[0], len(order), -1)[:, np.array(order)]
    return w[:rows], w[rows:]


_FRAMEWORK = Framework(
    "TensorFlow 1",
    {BasicRNN: _tf1_basic, LSTM: _tf1_lstm, GRU: _tf1_gru},
    DenseNames("kernel", depth=0, transposed=False, biased=True),
)
