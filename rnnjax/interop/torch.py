"""Parameters from and to PyTorch."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from rnnjax.cells import GRU, LSTM, BasicRNN, Cell, GatedCell, GatedParams, GRUParams, LSTMParams, Stack
from rnnjax.cells.cell import Params
from rnnjax.interop.conversion import DenseNames, Framework, convert
from rnnjax.interop.variables import (
    NamedVariables,
    Shapes,
    Variables,
    below_scope,
    names_of,
    paths,
    read,
    refuse,
    scope_of,
    size_of,
)
from rnnjax.interop.writing import PLAIN_LSTM, Arrays, Layer, Target, describe_layer, layers_to_write, write
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

    A bidirectional module is no cell, since its layers read both directions of the layer below:
    `bidirectional_from_torch` converts it for `rnnjax.bidirectional`.

    Args:
      cell: the rnnjax cell.
      state_dict: arrays or tensors by name, such as ``rnn.weight_ih_l0``. Without biases, those of the cell are zero.
      layer: if given, only this layer of the module is read, counted from 0; None reads all layers, each of which must
        have a cell.
      reverse: which direction of a bidirectional module to read; None for a module of one direction.
      scope: if given, only the variables of this submodule are read, such as ``"encoder.rnn"``.

    Raises:
      ValueError: if a variable is missing, unused or of another shape, or PyTorch has no such cell.

    Example:
      >>> import jax.numpy as jnp, numpy as np, rnnjax
      >>> state_dict = {  # such as torch.nn.GRU(3, 8, batch_first=True).state_dict()
      ...     "weight_ih_l0": np.ones((24, 3)), "weight_hh_l0": np.ones((24, 8)),
      ...     "bias_ih_l0": np.zeros(24), "bias_hh_l0": np.zeros(24),
      ... }
      >>> cell = rnnjax.GRU(8)
      >>> params = rnnjax.interop.from_torch(cell, state_dict)
      >>> ys, state = rnnjax.unroll(cell, params, jnp.ones((2, 5, 3)))
      >>> ys.shape
      (2, 5, 8)
    """
    variables = below_scope(paths(state_dict, "."), scope, ".")
    return convert(_FRAMEWORK, cell, _torch_selection(variables, layer, reverse), None)


def bidirectional_from_torch(
    forward: Cells, backward: Cells, state_dict: Mapping[str, Any], *, scope: str = ""
) -> tuple:
    """Returns the parameters for `rnnjax.bidirectional` from a `state_dict` of a bidirectional PyTorch module.

    Args:
      forward, backward: the two cells of a module of one layer, or two lists with a cell for each layer.
      state_dict: arrays or tensors by name, such as ``rnn.weight_ih_l0_reverse``.
      scope: if given, only the variables of this submodule are read, such as ``"encoder.rnn"``.

    Returns:
      A pair of parameters, or for lists of cells a tuple with a pair for each layer.

    Raises:
      ValueError: if the module has another number of layers, or one direction only; otherwise as `from_torch`.

    Example:
      >>> import jax.numpy as jnp, numpy as np, rnnjax
      >>> shapes = {"weight_ih_l0": (8, 3), "weight_hh_l0": (8, 8), "bias_ih_l0": (8,), "bias_hh_l0": (8,)}
      >>> state_dict = {
      ...     name + way: np.ones(shape) for name, shape in shapes.items() for way in ("", "_reverse")
      ... }  # such as torch.nn.RNN(3, 8, batch_first=True, bidirectional=True).state_dict()
      >>> forward = backward = rnnjax.BasicRNN(8)
      >>> params = rnnjax.interop.bidirectional_from_torch(forward, backward, state_dict)
      >>> ys, states = rnnjax.bidirectional(forward, backward, params, jnp.ones((2, 5, 3)))
      >>> ys.shape
      (2, 5, 16)
    """
    pairs = layers(forward, backward)
    variables = below_scope(paths(state_dict, "."), scope, ".")
    matches = [_TORCH_NAME.fullmatch(path[-1]) for path in variables]
    saved = {int(match[2]) for match in matches if match and match[2]}
    if saved != set(range(len(pairs))):
        raise ValueError(
            f"there are cells for {len(pairs)} layers, but layers {sorted(saved)} in {names_of(variables)}"
        )

    def converted(cell: Cell, layer: int, reverse: bool, size: int | None) -> Params:
        return convert(_FRAMEWORK, cell, _torch_selection(variables, layer, reverse), size)

    params = tuple(
        (converted(forward_cell, layer, False, size), converted(backward_cell, layer, True, size))
        for layer, ((forward_cell, backward_cell), size) in enumerate(zip(pairs, input_sizes(pairs, None)))
    )
    return params[0] if isinstance(forward, Cell) else params


_ACTIVATIONS = {"activation": "tanh", "gate_activation": "sigmoid"}


def _torch_basic(cell: BasicRNN, named: NamedVariables, input_size: int | None) -> GatedParams:
    w_x, w_h, b_x, b_h = _torch_gated(cell, _torch_read(cell, named, input_size, 1, {}), 1)
    # Both are added before the activation, so that their sum is one bias.
    return GatedParams(w_x, w_h, b_x + b_h if cell.use_bias else None)


def _torch_lstm(cell: LSTM, named: NamedVariables, input_size: int | None) -> LSTMParams:
    refuse(cell, "PyTorch", **_ACTIVATIONS, peephole=False, coupled_gates=False, layer_norm=False)
    projection: Shapes = {"weight_hr": (cell.output_size, cell.hidden_size)} if cell.projection_size else {}
    values = _torch_read(cell, named, input_size, 4, projection)
    w_x, w_h, b_x, b_h = _torch_gated(cell, values, 4)
    b = b_x + b_h if cell.use_bias else None
    return LSTMParams(w_x, w_h, b, w_p=values["weight_hr"].T if projection else None)


def _torch_gru(cell: GRU, named: NamedVariables, input_size: int | None) -> GRUParams:
    refuse(cell, "PyTorch", **_ACTIVATIONS, reset="after")
    w_x, w_h, b_x, b_h = _torch_gated(cell, _torch_read(cell, named, input_size, 3, {}), 3)
    if not cell.use_bias:
        return GRUParams(w_x, w_h, None, None)
    # The candidate's recurrent bias is inside of the reset, and cannot be added to the other one.
    return GRUParams(w_x, w_h, b_x.at[:2].add(b_h[:2]), b_h[2])


def _torch_read(
    cell: GatedCell, named: NamedVariables, input_size: int | None, gates: int, others: Shapes
) -> dict[str, Array]:
    """Returns the values of all variables; the biases are zeros if the module or the cell has none."""
    rows, columns = gates * cell.hidden_size, input_size or size_of(named, "weight_ih", 1)
    shapes = {"weight_ih": (rows, columns), "weight_hh": (rows, cell.output_size)} | others
    biases: Shapes = dict.fromkeys(("bias_ih", "bias_hh"), (rows,))
    if cell.use_bias and named.keys() & biases:
        return read(cell, named, shapes | biases)
    return read(cell, named, shapes) | dict.fromkeys(biases, jnp.zeros(rows))


def _torch_gated(cell: GatedCell, values: dict[str, Array], gates: int) -> tuple[Array, Array, Array, Array]:
    """Returns ``w_x [I, G, H]``, ``w_h [O, G, H]`` and the two biases ``[G, H]``."""
    # [G * H, I] as [I, G, H]; PyTorch's order of gates is ours.
    w_x, w_h = (values[name].T.reshape(-1, gates, cell.hidden_size) for name in ("weight_ih", "weight_hh"))
    b_x, b_h = (values[name].reshape(gates, cell.hidden_size) for name in ("bias_ih", "bias_hh"))
    return w_x, w_h, b_x, b_h


_TORCH_NAME = re.compile(r"((?:weight|bias)_(?:ih|hh|hr))(?:_l(\d+))?(_reverse)?")


def _torch_selection(variables: Variables, layer: int | None, reverse: bool | None) -> Variables:
    """Returns the variables of a layer and a direction, each layer in a scope: ``weight_ih_l0`` as ``l0/weight_ih``."""
    matches = {path: _TORCH_NAME.fullmatch(path[-1]) for path in variables}
    backward = [variables[path].name for path, match in matches.items() if match and match[3]]
    if backward and reverse is None:
        raise ValueError(
            f"{backward[0]} belongs to a second direction; choose reverse=False or reverse=True, "
            "or read both with bidirectional_from_torch"
        )
    selection: Variables = {}
    for path, match in matches.items():
        if match is None:
            selection[path] = variables[path]
        elif bool(match[3]) == bool(reverse) and (layer is None or match[2] == str(layer)):
            scope = (f"l{match[2]}",) if match[2] else ()
            selection[(*path[:-1], *scope, match[1])] = variables[path]
    # Only what is not of a recurrent layer, such as a dense layer beside it.
    if selection.keys() == {path for path, match in matches.items() if match is None}:
        raise ValueError(f"there is no variable of layer={layer}, reverse={reverse} among {names_of(variables)}")
    return selection


def _torch_choice(variables: Variables) -> str:
    """Returns the arguments that choose variables: those of one layer, or all below a scope."""
    path, variable = next(iter(variables.items()))
    match = _TORCH_NAME.fullmatch(variable.name.split(".")[-1])
    number = match[2] if match else None
    if number is None:
        return scope_of(variables, ".")
    if len(path) > 1:  # the layer's number is below the scope, not above
        return scope_of({path[:-1]: variable}, ".")
    scope = scope_of(variables, ".")
    return f"layer={number}" if scope == 'scope=""' else f"layer={number}, {scope}"


_FRAMEWORK = Framework(
    "PyTorch",
    {BasicRNN: _torch_basic, LSTM: _torch_lstm, GRU: _torch_gru},
    DenseNames("weight", transposed=True),
    _torch_choice,
)


def to_torch(cell: Cell, params: Params) -> Arrays:
    """Returns what `torch.nn.RNN`, `LSTM` or `GRU` loads as its `state_dict`: the inverse of `from_torch`.

    A `Stack` is one module of several layers, which must have the same size. With a `Project` around it the names are
    those of a module with two others in it, ``rnn`` and ``linear``.

    Args:
      cell: a `BasicRNN` (tanh or relu), `LSTM` (a projection too) or `GRU` with ``reset="after"``, alone or in `Stack`
        and `Project`.
      params: its parameters.

    Returns:
      NumPy arrays by name, float32 or wider; `torch.from_numpy` makes tensors of them.

    Raises:
      ValueError: for a cell that PyTorch has no counterpart of: with peepholes, layer normalisation, clipping, coupled
        gates or other activations, or in a wrapper that changes what it computes.

    Example:
      >>> import jax, rnnjax
      >>> cell = rnnjax.Stack([rnnjax.GRU(8), rnnjax.GRU(8)])
      >>> state_dict = rnnjax.interop.to_torch(cell, cell.init(jax.random.key(0), 3))
      >>> {name: value.shape for name, value in state_dict.items() if name.startswith("weight")}
      {'weight_ih_l0': (24, 3), 'weight_hh_l0': (24, 8), 'weight_ih_l1': (24, 8), 'weight_hh_l1': (24, 8)}

      >>> # torch.nn.GRU(3, 8, num_layers=2, batch_first=True).load_state_dict(
      >>> #     {name: torch.from_numpy(value) for name, value in state_dict.items()})
    """
    layers, dense = layers_to_write(_TARGET, cell, params)
    _check_alike(layers)
    written = {f"{name}_l{n}": v for n, layer in enumerate(layers) for name, v in write(_TARGET, layer).items()}
    if dense is None:
        return written
    return {f"rnn.{name}": v for name, v in written.items()} | {
        "linear.weight": dense.w.T.copy(),
        "linear.bias": dense.b,
    }


def bidirectional_to_torch(forward: Cells, backward: Cells, params: Sequence[Params]) -> Arrays:
    """Returns the `state_dict` of a bidirectional PyTorch module: the inverse of `bidirectional_from_torch`.

    Args:
      forward, backward: the two cells of a module of one layer, or two lists with a cell for each layer.
      params: a pair of parameters, or a pair for each layer.

    Raises:
      ValueError: as `to_torch`.

    Example:
      >>> import jax, rnnjax
      >>> cell = rnnjax.LSTM(8)
      >>> params = rnnjax.init_bidirectional(jax.random.key(0), cell, cell, 3)
      >>> sorted(rnnjax.interop.bidirectional_to_torch(cell, cell, params))[:2]
      ['bias_hh_l0', 'bias_hh_l0_reverse']
    """
    pairs = layers(forward, backward)
    values = [params] if isinstance(forward, Cell) else params
    ways = [
        layers_to_write(_TARGET, Stack([pair[way] for pair in pairs]), tuple(pair[way] for pair in values))[0]
        for way in (0, 1)
    ]
    _check_alike([*ways[0], *ways[1]])
    return {
        f"{name}_l{n}{suffix}": value
        for layers_of_way, suffix in zip(ways, ("", "_reverse"))
        for n, layer in enumerate(layers_of_way)
        for name, value in write(_TARGET, layer).items()
    }


def _check_alike(layers: list[Layer]) -> None:
    """Raises unless all layers can be those of one module."""
    kinds = {(describe_layer(cell), cell.use_bias, getattr(cell, "activation", None)): None for cell, _ in layers}
    if len(kinds) > 1:
        raise ValueError(
            "a module of PyTorch has layers of one kind and size, with the same activation and biases; these are "
            f"{', '.join(describe_layer(cell) for cell, _ in layers)}: write them one by one, each for its own module"
        )


def _gated_to_torch(cell: GatedCell, params: Any) -> Arrays:
    written = {"weight_ih": _rows(params.w_x), "weight_hh": _rows(params.w_h)}
    if not cell.use_bias:
        return written
    # PyTorch adds two biases; one of them is zero.
    return written | {"bias_ih": params.b.reshape(-1), "bias_hh": np.zeros_like(params.b).reshape(-1)}


def _lstm_to_torch(cell: LSTM, params: Any) -> Arrays:
    projection = {"weight_hr": params.w_p.T} if cell.projection_size else {}
    return _gated_to_torch(cell, params) | projection


def _gru_to_torch(cell: GRU, params: GRUParams) -> Arrays:
    written = _gated_to_torch(cell, params)
    if cell.use_bias:
        written["bias_hh"][-cell.hidden_size :] = params.b_hn
    return written


def _rows(kernel: np.ndarray) -> np.ndarray:
    """Returns ``[G * H, I]`` from a kernel ``[I, G, H]``."""
    return kernel.reshape(len(kernel), -1).T


_TARGET = Target(
    "PyTorch",
    {BasicRNN: _gated_to_torch, LSTM: _lstm_to_torch, GRU: _gru_to_torch},
    {LSTM: PLAIN_LSTM | {"peephole": False, "coupled_gates": False}, GRU: {"reset": "after"}},
    {BasicRNN: ("tanh", "relu"), LSTM: ("tanh",), GRU: ("tanh",)},
    ("sigmoid",),
)
