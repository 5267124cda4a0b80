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
from rnnjax.interop.variables import NamedVariables, Shapes, Variables, below_scope, paths, read, refuse, size_of


def from_tf1(cell: Cell, variables: Mapping[str, Any], *, scope: str = "") -> Params:
    """Returns the parameters of `cell` from variables of `tf.nn.rnn_cell` or `tf.contrib.rnn`.

    | TensorFlow 1 | rnnjax |
    |---|---|
    | BasicRNNCell | BasicRNN |
    | BasicLSTMCell, LSTMCell (peepholes, projection) | LSTM |
    | CoupledInputForgetGateLSTMCell | LSTM(coupled_gates=True) |
    | GRUCell | GRU(reset="before") |
    | MultiRNNCell | Stack |
    | ResidualWrapper, DropoutWrapper | Residual, Dropout |
    | OutputProjectionWrapper, a dense layer beside the RNN | Project |

    TensorFlow adds an LSTM's `forget_bias` at every step: it is neither in the bias variable nor in a checkpoint. Here
    it is part of the bias, so that `cell.forget_bias` is added to the variable. Give the cell the same `forget_bias` as
    the TensorFlow cell (1.0 is the default of both), and each layer of a stack its own.

    Args:
      cell: the rnnjax cell.
      variables: arrays by name, in any scope, and with or without ``:0`` at the end of the name, such as all variables
        of a checkpoint, which `read_tf1_checkpoint` reads. What training left there is not read: single numbers
        (``global_step``, ``beta1_power``), and names below another variable's name, of an optimiser's slot or of an
        average (``.../kernel/Adam``, ``.../kernel/ExponentialMovingAverage``).
      scope: if given, only the variables below this scope are read, such as ``"bidirectional_rnn/fw"``.

    Raises:
      ValueError: if a variable is missing, unused or of another shape, or TensorFlow 1 has no such cell.

    Example:
      >>> import jax.numpy as jnp, numpy as np, rnnjax
      >>> variables = {"rnn/basic_rnn_cell/kernel": np.ones((3 + 8, 8)), "rnn/basic_rnn_cell/bias": np.zeros(8)}
      >>> cell = rnnjax.BasicRNN(8)
      >>> params = rnnjax.interop.from_tf1(cell, variables)
      >>> ys, state = rnnjax.unroll(cell, params, jnp.ones((2, 5, 3)))
      >>> ys.shape
      (2, 5, 8)
    """
    saved = {(*path[:-1], re.sub(r":\d+$", "", path[-1])): v for path, v in paths(variables, "/").items()}
    weights = {path: v for path, v in saved.items() if np.shape(v.value) and not _is_slot(path, saved)}
    return convert(_FRAMEWORK, cell, below_scope(weights, scope, "/"), None)


def _is_slot(path: tuple[str, ...], saved: Variables) -> bool:
    """Returns whether a variable is another's slot or average: ``NAME/Adam``, or ``SCOPE/NAME/Adam``."""
    parts = range(len(path))
    return any(path[begin:end] in saved for begin in parts for end in parts[begin + 1 :])


def _tf1_basic(cell: BasicRNN, named: NamedVariables, input_size: int | None) -> GatedParams:
    refuse(cell, "TensorFlow 1", use_bias=True)
    values, rows = _tf1_read(cell, named, input_size, {"kernel": 1}, {"bias": (cell.hidden_size,)})
    return GatedParams(*_tf1_kernel(values["kernel"], rows, (0,)), values["bias"][None])


class _TF1Names(NamedTuple):
    """The names of an LSTM's variables, and `order`: where the gates i, f, g, o (f, g, o if coupled) are in them."""

    kernel: str
    bias: str
    peepholes: tuple[str, ...]
    projection: str
    order: tuple[int, ...]


# As TensorFlow stores them: i, g, f, o, and g, f, o where f and i are coupled.
_TF1_LSTM = _TF1Names("kernel", "bias", ("w_i_diag", "w_f_diag", "w_o_diag"), "projection/kernel", (0, 2, 1, 3))
_TF1_COUPLED_LSTM = _TF1Names("W_0", "B", ("W_F_diag", "W_O_diag"), "W_P_0", (1, 0, 2))


def _tf1_lstm(cell: LSTM, named: NamedVariables, input_size: int | None) -> LSTMParams:
    refuse(cell, "TensorFlow 1", use_bias=True, gate_activation="sigmoid", layer_norm=False)
    names = _TF1_COUPLED_LSTM if cell.coupled_gates else _TF1_LSTM
    H, gates = cell.hidden_size, len(names.order)
    shapes: Shapes = {names.bias: (gates * H,)}
    if cell.peephole:
        shapes |= dict.fromkeys(names.peepholes, (H,))
    if cell.projection_size:
        shapes[names.projection] = (H, cell.output_size)
    values, rows = _tf1_read(cell, named, input_size, {names.kernel: gates}, shapes)
    # [G, H], in our order of gates.
    b = values[names.bias].reshape(gates, H)[np.array(names.order)]
    return LSTMParams(
        *_tf1_kernel(values[names.kernel], rows, names.order),
        # TensorFlow adds it at run time, here it is in the bias; coupled gates begin with f.
        b.at[0 if cell.coupled_gates else 1].add(cell.forget_bias),
        jnp.stack([values[name] for name in names.peepholes]) if cell.peephole else None,
        values[names.projection] if cell.projection_size else None,
    )


def _tf1_gru(cell: GRU, named: NamedVariables, input_size: int | None) -> GRUParams:
    refuse(cell, "TensorFlow 1", use_bias=True, gate_activation="sigmoid", reset="before")
    H = cell.hidden_size
    kernels = {"gates/kernel": 2, "candidate/kernel": 1}
    shapes = {"gates/bias": (2 * H,), "candidate/bias": (H,)}
    values, rows = _tf1_read(cell, named, input_size, kernels, shapes)
    kernel = jnp.concatenate([values[name] for name in kernels], -1)
    b = jnp.concatenate([values[name] for name in shapes]).reshape(3, H)
    return GRUParams(*_tf1_kernel(kernel, rows, (0, 1, 2)), b, None)


def _tf1_read(cell: GatedCell, named: NamedVariables, input_size: int | None, kernels: dict[str, int], others: Shapes):
    """Returns the values of all variables, and the number of input features.

    `kernels` has the number of gates in each kernel, `others` the shapes of the other variables.
    """
    # One kernel has the rows of the inputs and, below, those of the hidden state.
    rows = input_size or max(1, size_of(named, next(iter(kernels)), 0) - cell.output_size)
    shapes = {name: (rows + cell.output_size, gates * cell.hidden_size) for name, gates in kernels.items()}
    return read(cell, named, shapes | others), rows


def _tf1_kernel(kernel: Array, rows: int, order: tuple[int, ...]) -> tuple[Array, Array]:
    """Returns ``w_x`` and ``w_h`` from a kernel with `rows` rows for the inputs above those for the hidden state."""
    # [I + O, G * H] as [I + O, G, H]; the order is that of our gates.
    w = kernel.reshape(kernel.shape[0], len(order), -1)[:, np.array(order)]
    return w[:rows], w[rows:]


_FRAMEWORK = Framework(
    "TensorFlow 1",
    {BasicRNN: _tf1_basic, LSTM: _tf1_lstm, GRU: _tf1_gru},
    DenseNames("kernel", biased=True),
)
