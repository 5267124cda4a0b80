"""Parameters from and to Keras."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from rnnjax.cells import GRU, LSTM, BasicRNN, Cell, GatedCell, GatedParams, GRUParams, LSTMParams
from rnnjax.cells.cell import Params
from rnnjax.interop.conversion import DenseNames, Framework, convert, layers_of
from rnnjax.interop.gates import gates_of, side_by_side
from rnnjax.interop.variables import (
    NamedVariables,
    Shapes,
    Variable,
    Variables,
    below_scope,
    counterpart,
    paths,
    read,
    refuse,
    size_of,
)
from rnnjax.interop.writing import PLAIN_LSTM, Arrays, Target, layers_to_write, write
from rnnjax.unrolling.bidirectional import Cells, input_sizes, layers

# Where Keras has our gates: its LSTM's are i, f, c, o, which are ours, and its GRU's z, r, h.
LSTM_ORDER, GRU_ORDER = (0, 1, 2, 3), (1, 0, 2)


def from_keras(cell: Cell, variables: Mapping[str, Any], *, scope: str = "") -> Params:
    """Returns the parameters of `cell` from variables of Keras's layers, of Keras 3 or 2.

    | Keras | rnnjax |
    |---|---|
    | SimpleRNN, SimpleRNNCell | BasicRNN, with the same activation |
    | LSTM, LSTMCell | LSTM; `recurrent_activation` is `gate_activation` |
    | GRU, GRUCell (``reset_after=True``) | GRU(reset="after"), its two rows of biases added but for the candidate's |
    | GRU, GRUCell (``reset_after=False``) | GRU(reset="before") |
    | several layers, or StackedRNNCells | Stack |
    | a Dense beside the layer | Project |

    Keras's `unit_forget_bias` is in the initial bias only, and its GRU keeps h by z, as the cell does. A layer
    in a Bidirectional is two cells, which `bidirectional_from_keras` reads for `rnnjax.bidirectional`.

    Args:
      cell: the rnnjax cell.
      variables: arrays or Keras's variables by path, such as ``{w.path: w for w in model.weights}``; or an open
        ``h5py.File`` of a ``.weights.h5`` file, which has them by number. Without biases, those of the cell are zero.
        What is not of a layer is not read: an optimiser's variables, and the state of random generators.
      scope: if given, only the variables below this layer are read, such as ``"lstm_1"``.

    Raises:
      ValueError: if a variable is missing, unused or of another shape, or Keras has no such cell.

    Example:
      >>> import jax.numpy as jnp, numpy as np, rnnjax
      >>> variables = {  # such as {w.path: w for w in keras.layers.GRU(8).weights}, once the layer is built
      ...     "gru/gru_cell/kernel": np.ones((3, 24)), "gru/gru_cell/recurrent_kernel": np.ones((8, 24)),
      ...     "gru/gru_cell/bias": np.zeros((2, 24)),
      ... }
      >>> cell = rnnjax.GRU(8)
      >>> params = rnnjax.interop.from_keras(cell, variables)
      >>> ys, state = rnnjax.unroll(cell, params, jnp.ones((2, 5, 3)))
      >>> ys.shape
      (2, 5, 8)
    """
    return convert(_FRAMEWORK, cell, _weights(variables, scope), None)


def bidirectional_from_keras(
    forward: Cells, backward: Cells, variables: Mapping[str, Any], *, scope: str = ""
) -> tuple:
    """Returns the parameters for `rnnjax.bidirectional` from variables of Keras's Bidirectional, one or several.

    Args:
      forward, backward: the two cells of one layer, or two lists with a cell for each layer.
      variables: as in `from_keras`, of nothing but these layers.
      scope: if given, only the variables below this layer are read, such as ``"bidirectional"``.

    Returns:
      A pair of parameters, or for lists of cells a tuple with a pair for each layer.

    Raises:
      ValueError: if a variable is of neither direction; otherwise as `from_keras`.

    Example:
      >>> import jax.numpy as jnp, numpy as np, rnnjax
      >>> shapes = {"kernel": (3, 8), "recurrent_kernel": (8, 8), "bias": (8,)}
      >>> variables = {
      ...     f"bidirectional/{way}_simple_rnn/{name}": np.ones(shape)
      ...     for way in ("forward", "backward") for name, shape in shapes.items()
      ... }  # such as {w.path: w for w in layer.weights}
      >>> forward = backward = rnnjax.BasicRNN(8)
      >>> params = rnnjax.interop.bidirectional_from_keras(forward, backward, variables)
      >>> ys, states = rnnjax.bidirectional(forward, backward, params, jnp.ones((2, 5, 3)))
      >>> ys.shape
      (2, 5, 16)
    """
    pairs = layers(forward, backward)
    weights = _weights(variables, scope)
    ways = [layers_of(len(pairs), one_way) for one_way in _directions(weights)]
    params = tuple(
        tuple(convert(_FRAMEWORK, cell, way[layer], size) for cell, way in zip(pair, ways))
        for layer, (pair, size) in enumerate(zip(pairs, input_sizes(pairs, None)))
    )
    return params[0] if isinstance(forward, Cell) else params


def _directions(weights: Variables) -> list[Variables]:
    """Returns the variables of each direction, without the scope ``forward_...`` or ``backward_...``."""
    found: list[Variables] = [{}, {}]
    for path, variable in weights.items():
        ways = [(n, part) for part in path for n, way in enumerate(("forward_", "backward_")) if part.startswith(way)]
        if len(ways) != 1:
            raise ValueError(f"{variable.name} is of neither direction of a Bidirectional; leave it out")
        way, scope = ways[0]
        found[way][tuple(part for part in path if part != scope)] = variable
    return found


def _weights(variables: Mapping[str, Any], scope: str) -> Variables:
    """Returns the variables of layers below a scope."""
    weights = {path: variable for path, variable in paths(variables, "/").items() if _is_weight(path)}
    return below_scope(_by_name(weights), scope, "/")


def _is_weight(path: tuple[str, ...]) -> bool:
    """Returns whether a variable is of a layer: not of an optimiser, nor the state of a random generator."""
    return not path[0].startswith("optimizer") and not any(part.startswith("seed_generator") for part in path)


def _by_name(variables: Variables) -> Variables:
    """Returns variables by their names, where a file has them by number, and without ``:0`` at the end."""
    return {_named(path, variable): variable for path, variable in variables.items()}


def _named(path: tuple[str, ...], variable: Variable) -> tuple[str, ...]:
    """Returns the path of a variable: ``gru/cell/vars/0`` as ``gru/cell/kernel``."""
    if path[-2:-1] != ("vars",):
        return (*path[:-1], re.sub(r":\d+$", "", path[-1]))
    # A dense layer has no recurrent kernel; its bias is the only vector among second variables.
    second = "bias" if len(variable.value.shape) == 1 else "recurrent_kernel"
    return (*path[:-2], {"0": "kernel", "1": second, "2": "bias"}.get(path[-1], path[-1]))


def _keras_basic(cell: BasicRNN, named: NamedVariables, input_size: int | None) -> GatedParams:
    w_x, w_h, b = _keras_gated(cell, named, input_size, (0,))
    return GatedParams(w_x, w_h, b)


def _keras_lstm(cell: LSTM, named: NamedVariables, input_size: int | None) -> LSTMParams:
    refuse(cell, "Keras", peephole=False, coupled_gates=False, layer_norm=False, projection_size=None)
    w_x, w_h, b = _keras_gated(cell, named, input_size, LSTM_ORDER)
    return LSTMParams(w_x, w_h, b)


def _keras_gru(cell: GRU, named: NamedVariables, input_size: int | None) -> GRUParams:
    if cell.reset == "before":
        return GRUParams(*_keras_gated(cell, named, input_size, GRU_ORDER), None)
    w_x, w_h, b = _keras_gated(cell, named, input_size, GRU_ORDER, (2,))
    if b is None:
        return GRUParams(w_x, w_h, None, None)
    # The candidate's recurrent bias is inside of the reset, and cannot be added to the other one.
    return GRUParams(w_x, w_h, b[0].at[:2].add(b[1, :2]), b[1, 2])


def _keras_gated(
    cell: GatedCell,
    named: NamedVariables,
    input_size: int | None,
    order: tuple[int, ...],
    bias_rows: tuple[int, ...] = (),
) -> tuple[Array, Array, Array | None]:
    """Returns ``w_x [I, G, H]``, ``w_h [H, G, H]`` and ``b [*bias_rows, G, H]``, zeros if the layer has none."""
    H, columns = cell.hidden_size, len(order) * cell.hidden_size
    shapes: Shapes = {"kernel": (input_size or size_of(named, "kernel", 0), columns), "recurrent_kernel": (H, columns)}
    biases: Shapes = {"bias": (*bias_rows, columns)} if cell.use_bias and "bias" in named else {}
    values = read(cell, named, shapes | biases)
    b = values.get("bias", jnp.zeros((*bias_rows, columns))) if cell.use_bias else None
    w_x, w_h = (gates_of(values[name], order) for name in shapes)
    return w_x, w_h, None if b is None else gates_of(b, order)


_FRAMEWORK = Framework("Keras", {BasicRNN: _keras_basic, LSTM: _keras_lstm, GRU: _keras_gru}, DenseNames("kernel"))


def to_keras(cell: Cell, params: Params) -> Arrays:
    """Returns the weights of Keras layers: the inverse of `from_keras`.

    They are in the order of `get_weights`, so that ``model.set_weights(list(weights.values()))`` sets those of a model
    of these layers: SimpleRNN, LSTM, GRU (with the cell's `use_bias`, activations, and ``reset_after``), and a Dense
    for a `Project`.

    Args:
      cell: a `BasicRNN`, `LSTM` or `GRU`, alone or in `Stack` and `Project`.
      params: its parameters.

    Returns:
      NumPy arrays by path, float32 or wider, such as ``lstm/lstm_cell/kernel``. In a `Stack` of several kinds of cells
      the layers are named ``layer_0``, ``layer_1``, ...

    Raises:
      ValueError: for a cell that Keras has no counterpart of: with peepholes, a projection, layer normalisation,
        clipping or coupled gates, or in a wrapper that changes what it computes.

    Example:
      >>> import jax, rnnjax
      >>> cell = rnnjax.Project(rnnjax.GRU(8), 2)
      >>> weights = rnnjax.interop.to_keras(cell, cell.init(jax.random.key(0), 3))
      >>> list(weights)
      ['gru/gru_cell/kernel', 'gru/gru_cell/recurrent_kernel', 'gru/gru_cell/bias', 'dense/kernel', 'dense/bias']
    """
    layers, dense = layers_to_write(_TARGET, cell, params)
    kinds = [KINDS[counterpart(layer.cell)] for layer in layers]
    same = len(set(kinds)) == 1
    weights: Arrays = {}
    for number, (kind, layer) in enumerate(zip(kinds, layers)):
        name = (f"{kind}_{number}" if number else kind) if same else f"layer_{number}"
        weights |= {f"{name}/{kind}_cell/{variable}": value for variable, value in write(_TARGET, layer).items()}
    return weights if dense is None else weights | {"dense/kernel": dense.w, "dense/bias": dense.b}


KINDS = {BasicRNN: "simple_rnn", LSTM: "lstm", GRU: "gru"}


def _basic_to_keras(cell: BasicRNN, params: GatedParams) -> Arrays:
    return _gated_to_keras(params, (0,))


def _lstm_to_keras(cell: LSTM, params: LSTMParams) -> Arrays:
    return _gated_to_keras(params, LSTM_ORDER)


def _gru_to_keras(cell: GRU, params: GRUParams) -> Arrays:
    written = _gated_to_keras(params, GRU_ORDER)
    if cell.use_bias and cell.reset == "after":
        recurrent = np.zeros_like(written["bias"])
        recurrent[-cell.hidden_size :] = params.b_hn
        written["bias"] = np.stack([written["bias"], recurrent])
    return written


def _gated_to_keras(params: Any, order: tuple[int, ...]) -> Arrays:
    named = {"kernel": params.w_x, "recurrent_kernel": params.w_h, "bias": params.b}
    return {name: side_by_side(value, order) for name, value in named.items() if value is not None}


# Keras's gelu is not JAX's.
_ACTIVATIONS = ("tanh", "relu", "sigmoid", "softplus", "elu", "silu", "identity")
_TARGET = Target(
    "Keras",
    {BasicRNN: _basic_to_keras, LSTM: _lstm_to_keras, GRU: _gru_to_keras},
    {LSTM: PLAIN_LSTM | {"peephole": False, "coupled_gates": False, "projection_size": None}},
    dict.fromkeys((BasicRNN, LSTM, GRU), _ACTIVATIONS),
    _ACTIVATIONS,
)
