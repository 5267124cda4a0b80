"""Parameters from ONNX's recurrent operators."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from rnnjax.cells import GRU, LSTM, BasicRNN, Cell, GatedCell, GatedParams, GRUParams, LSTMParams
from rnnjax.cells.cell import Params
from rnnjax.interop.conversion import Framework, convert
from rnnjax.interop.gates import gates_of
from rnnjax.interop.onnx_graph import package
from rnnjax.interop.variables import NamedVariables, Shapes, Variable, below_scope, paths, read, refuse, size_of

# Where ONNX has our gates: i, o, f, c those of an LSTM, whose peepholes are i, o, f, and z, r, h those of a GRU.
LSTM_ORDER, PEEPHOLE_ORDER, GRU_ORDER = (0, 2, 3, 1), (0, 2, 1), (1, 0, 2)


def from_onnx(cell: Cell, variables: Mapping[str, Any], *, reverse: bool | None = None, scope: str = "") -> Params:
    """Returns the parameters of `cell` from the weights of ONNX's operators RNN, LSTM and GRU.

    | ONNX | rnnjax |
    |---|---|
    | RNN | BasicRNN, with the same activation; its two biases added |
    | LSTM (peepholes P) | LSTM(peephole=True) if there is a P |
    | LSTM (input_forget=1) | LSTM(coupled_gates=True), its f being 1 - i, as onnxruntime has it |
    | GRU (linear_before_reset=1) | GRU(reset="after") |
    | GRU (linear_before_reset=0) | GRU(reset="before") |
    | several, in scopes that differ by a number | Stack |

    An operator's attributes (activations, input_forget, linear_before_reset) are not in its weights: give the cell the
    same ones. Its `clip`, of what the activations read, no cell here has.

    Args:
      cell: the rnnjax cell.
      variables: arrays by the operator's names of its inputs: ``W [D, G*H, I]``, ``R [D, G*H, H]``, ``B [D, 2*G*H]``,
        ``P [D, 3*H]``, in scopes where there are several operators; D is the number of directions. `onnx_weights` reads
        them from a model. Without B, the cell's biases are zero.
      reverse: which direction of a bidirectional operator to read; None for an operator of one direction.
      scope: if given, only the weights below this scope are read, such as ``"lstm_1"``.

    Raises:
      ValueError: if a weight is missing, unused or of another shape, or ONNX has no such cell.

    Example:
      >>> import jax.numpy as jnp, numpy as np, rnnjax
      >>> variables = {"W": np.ones((1, 24, 3)), "R": np.ones((1, 24, 8)), "B": np.zeros((1, 48))}
      >>> cell = rnnjax.GRU(8)
      >>> params = rnnjax.interop.from_onnx(cell, variables)
      >>> ys, state = rnnjax.unroll(cell, params, jnp.ones((2, 5, 3)))
      >>> ys.shape
      (2, 5, 8)
    """
    selected = below_scope(paths(variables, "/"), scope, "/")
    one_way = {path: Variable(v.name, _direction(v, reverse)) for path, v in selected.items()}
    return convert(_FRAMEWORK, cell, one_way, None)


def onnx_weights(model: Any) -> dict[str, dict[str, Any]]:
    """Returns the weights of the recurrent operators of an ONNX model, for `from_onnx`.

    Args:
      model: an `onnx.ModelProto`, as `onnx.load` returns it.

    Returns:
      For each operator, in the order of the graph, a dict of its weights W, R and, where it has them, B and P, named
      ``lstm_0``, ``gru_1``, ...

    Raises:
      ValueError: if a weight is not stored in the model.
      ModuleNotFoundError: if the package onnx is not installed.
    """
    to_array = package().numpy_helper.to_array
    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    nodes = [node for node in model.graph.node if node.op_type in _INPUTS]
    weights: dict[str, dict[str, Any]] = {}
    for number, node in enumerate(nodes):
        named = {name: node.input[n] for name, n in _INPUTS[node.op_type].items() if n < len(node.input)}
        missing = [name for name in named.values() if name and name not in stored]
        if missing:
            raise ValueError(f"{node.op_type} {node.name!r} reads {missing[0]}, which is not stored in the model")
        by_name = {name: to_array(stored[given]) for name, given in named.items() if given}
        weights[f"{node.op_type.lower()}_{number}"] = by_name
    return weights


_INPUTS = {kind: {"W": 1, "R": 2, "B": 3} for kind in ("RNN", "GRU")} | {"LSTM": {"W": 1, "R": 2, "B": 3, "P": 7}}


def _direction(variable: Variable, reverse: bool | None) -> Any:
    """Returns the weights of one direction, without the axis of directions."""
    directions = variable.value.shape[0] if len(variable.value.shape) > 1 else 0
    if directions not in (1, 2):
        got = list(variable.value.shape)
        raise ValueError(f"{variable.name} must have 1 or 2 directions on its first axis, got shape {got}")
    if (directions == 2) != (reverse is not None):
        choose = "choose reverse=False or reverse=True" if directions == 2 else "choose reverse=None"
        raise ValueError(f"{variable.name} has {directions} direction{'s'[: directions - 1]}; {choose}")
    return variable.value[int(bool(reverse))]


def _onnx_basic(cell: BasicRNN, named: NamedVariables, input_size: int | None) -> GatedParams:
    w_x, w_h, b_x, b_h, _ = _onnx_gated(cell, named, input_size, (0,))
    return GatedParams(w_x, w_h, b_x + b_h if cell.use_bias else None)


def _onnx_lstm(cell: LSTM, named: NamedVariables, input_size: int | None) -> LSTMParams:
    refuse(cell, "ONNX", layer_norm=False, projection_size=None)
    if cell.coupled_gates:
        refuse(cell, "ONNX", gate_activation="sigmoid")
    peepholes: Shapes = {"P": (3 * cell.hidden_size,)} if cell.peephole else {}
    w_x, w_h, b_x, b_h, values = _onnx_gated(cell, named, input_size, LSTM_ORDER, peepholes)
    b = b_x + b_h if cell.use_bias else None
    p = gates_of(values["P"], PEEPHOLE_ORDER) if cell.peephole else None
    plain = LSTMParams(w_x, w_h, b, p)
    return jax.tree.map(_coupled, plain) if cell.coupled_gates else plain


def _coupled(gates: Array) -> Array:
    """Returns gates f, g, o of i, f, g, o, or f, o of i, f, o, where f is 1 - sigmoid(i), which is sigmoid(-i)."""
    return jnp.concatenate([-gates[..., :1, :], gates[..., 2:, :]], axis=-2)


def _onnx_gru(cell: GRU, named: NamedVariables, input_size: int | None) -> GRUParams:
    w_x, w_h, b_x, b_h, _ = _onnx_gated(cell, named, input_size, GRU_ORDER)
    if not cell.use_bias:
        return GRUParams(w_x, w_h, None, None)
    if cell.reset == "before":
        return GRUParams(w_x, w_h, b_x + b_h, None)
    # The candidate's recurrent bias is inside of the reset, and cannot be added to the other one.
    return GRUParams(w_x, w_h, b_x.at[:2].add(b_h[:2]), b_h[2])


def _onnx_gated(
    cell: GatedCell,
    named: NamedVariables,
    input_size: int | None,
    order: tuple[int, ...],
    others: Shapes | None = None,
) -> tuple[Array, Array, Array, Array, dict[str, Array]]:
    """Returns ``w_x [I, G, H]``, ``w_h [H, G, H]``, the two biases ``[G, H]``, zeros without B, and all values."""
    H, rows = cell.hidden_size, len(order) * cell.hidden_size
    shapes: Shapes = {"W": (rows, input_size or size_of(named, "W", 1)), "R": (rows, H)} | (others or {})
    biased = cell.use_bias and "B" in named
    values = read(cell, named, shapes | ({"B": (2 * rows,)} if biased else {}))
    w_x, w_h = (gates_of(values[name].T, order) for name in ("W", "R"))
    b = values.get("B", jnp.zeros(2 * rows)).reshape(2, -1)
    b_x, b_h = gates_of(b, order)
    return w_x, w_h, b_x, b_h, values


_FRAMEWORK = Framework("ONNX", {BasicRNN: _onnx_basic, LSTM: _onnx_lstm, GRU: _onnx_gru}, None)
