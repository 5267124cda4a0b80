"""A cell over time as ONNX's own recurrent operators."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from rnnjax.cells import GRU, LSTM, BasicRNN, Cell, GatedCell, GatedParams, GRUParams, LSTMParams
from rnnjax.cells.cell import Params
from rnnjax.interop.gates import side_by_side
from rnnjax.interop.onnx import GRU_ORDER, LSTM_ORDER, PEEPHOLE_ORDER
from rnnjax.interop.onnx_graph import LENGTHS, XS, YS, Graph, new_state_name, state_name, where_valid
from rnnjax.interop.variables import counterpart, refuse
from rnnjax.interop.writing import Arrays, Dense, Layer, Target, activation_name, layers_to_write, write


def operators(cell: Cell, params: Params) -> tuple[list[Layer], Dense | None]:
    """Returns the layers that ONNX has operators for, and the dense layer behind them, if there is one.

    Raises:
      ValueError: if ONNX has no operator for one of the cells.
    """
    layers, dense = layers_to_write(TARGET, cell, params)
    for layer in layers:
        if getattr(layer.cell, "coupled_gates", False):
            refuse(layer.cell, TARGET.name, gate_activation="sigmoid")
    return layers, dense


def add_operators(graph: Graph, layers: list[Layer], dense: Dense | None, parts: Iterator[str]) -> None:
    """Adds the operators of all layers to a graph that has the inputs; its outputs are then made.

    Args:
      graph: the graph.
      layers: the layers, from the lowest up.
      dense: the dense layer behind them, if there is one.
      parts: the names of the parts of all layers' states, such as ``0_h``, ``0_c``, ``1_h``, ...
    """
    sequence = graph.node("Transpose", [XS], perm=[1, 0, 2])
    for layer in layers:
        count = len(layer.cell.initial_state(1))
        sequence = _add_layer(graph, layer, list(itertools.islice(parts, count)), sequence)
    if dense is not None:
        product = graph.node("MatMul", [sequence, graph.constant("dense_w", dense.w)])
        sequence = graph.node("Add", [product, graph.constant("dense_b", dense.b)])
    ys = graph.node("Transpose", [sequence], perm=[1, 0, 2])
    # The operators' outputs are zero past a sequence's length; what a dense layer makes of them is not.
    graph.node("Identity" if dense is None else "Where", [ys] if dense is None else where_valid(graph, ys), YS)


def _add_layer(graph: Graph, layer: Layer, parts: list[str], sequence: str) -> str:
    """Adds one operator; returns the name of its outputs ``[T, B, H]``."""
    kind = OPERATORS[counterpart(layer.cell)]
    weights = {name: graph.constant(f"{kind}_{name}", value) for name, value in write(TARGET, layer).items()}
    zero = graph.constant("axis_0", np.array([0], np.int64))
    one = graph.constant("axis_1", np.array([1], np.int64))
    before = [graph.node("Unsqueeze", [state_name(part), zero]) for part in parts]
    inputs = [sequence, weights["W"], weights["R"], weights.get("B", ""), LENGTHS, *before]
    if "P" in weights:
        inputs.append(weights["P"])
    outputs = [graph.new_name() for _ in range(1 + len(parts))]
    graph.add(kind, inputs, outputs, hidden_size=layer.cell.hidden_size, **_attributes(layer.cell))
    for part, last in zip(parts, outputs[1:]):
        after = graph.node("Squeeze", [last, zero])
        # An operator's last state is zero where a sequence has no steps.
        graph.node("Where", [_has_steps(graph), after, state_name(part)], new_state_name(part))
    return graph.node("Squeeze", [outputs[0], one])


def _has_steps(graph: Graph) -> str:
    """Adds which sequences have valid steps; returns the name, ``[B, 1]``."""
    nothing = graph.constant("no_steps", np.array(0, np.int32))
    axis = graph.constant("axis_1", np.array([1], np.int64))
    return graph.node("Unsqueeze", [graph.node("Greater", [LENGTHS, nothing]), axis])


def _attributes(cell: GatedCell) -> dict[str, Any]:
    """Returns the attributes of a cell's operator."""
    names = {option: _ONNX_NAMES[activation_name(getattr(cell, option))] for option in _options(cell)}
    activation, gate = names["activation"], names.get("gate_activation", "")
    if isinstance(cell, LSTM):
        return {"activations": [gate, activation, activation]}
    if isinstance(cell, GRU):
        return {"activations": [gate, activation], "linear_before_reset": int(cell.reset == "after")}
    return {"activations": [activation]}


def _options(cell: GatedCell) -> list[str]:
    return [option for option in ("activation", "gate_activation") if hasattr(cell, option)]


def _basic_to_onnx(cell: BasicRNN, params: GatedParams) -> Arrays:
    return _gated_to_onnx(params, (0,))


def _lstm_to_onnx(cell: LSTM, params: LSTMParams) -> Arrays:
    plain: Any = jax.tree.map(_uncoupled, params) if cell.coupled_gates else params
    written = _gated_to_onnx(plain, LSTM_ORDER)
    return written | {"P": side_by_side(plain.peephole, PEEPHOLE_ORDER)[None]} if cell.peephole else written


def _uncoupled(gates: np.ndarray) -> np.ndarray:
    """Returns gates i, f, g, o of f, g, o, or i, f, o of f, o, where i is 1 - sigmoid(f), which is sigmoid(-f)."""
    # Without the attribute input_forget: which of the two gates it reads is not said.
    return np.concatenate([-gates[..., :1, :], gates], axis=-2)


def _gru_to_onnx(cell: GRU, params: GRUParams) -> Arrays:
    written = _gated_to_onnx(params, GRU_ORDER)
    if cell.use_bias and cell.reset == "after":
        written["B"][0, -cell.hidden_size :] = params.b_hn
    return written


def _gated_to_onnx(params: Any, order: tuple[int, ...]) -> Arrays:
    written = {"W": side_by_side(params.w_x, order).T[None], "R": side_by_side(params.w_h, order).T[None]}
    if params.b is None:
        return written
    b = side_by_side(params.b, order)
    # ONNX adds two biases; one of them is zero.
    return written | {"B": np.concatenate([b, np.zeros_like(b)])[None]}


OPERATORS = {BasicRNN: "RNN", LSTM: "LSTM", GRU: "GRU"}
_ONNX_NAMES = {"tanh": "Tanh", "relu": "Relu", "sigmoid": "Sigmoid", "softplus": "Softplus", "elu": "Elu"}
_ACTIVATIONS = tuple(_ONNX_NAMES)
TARGET = Target(
    "ONNX",
    {BasicRNN: _basic_to_onnx, LSTM: _lstm_to_onnx, GRU: _gru_to_onnx},
    {LSTM: {"cell_clip": None, "projection_clip": None, "layer_norm": False, "projection_size": None}},
    dict.fromkeys((BasicRNN, LSTM, GRU), _ACTIVATIONS),
    _ACTIVATIONS,
)
