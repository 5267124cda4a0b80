"""Parameters from TensorFlow 1, PyTorch and Flax, for the cells that exist on both sides.

Each function takes a rnnjax cell and the other framework's variables by name, and returns the cell's parameters:
the same computation, so the cell has to be the counterpart of the one that was saved. Every variable must be used,
with the shape that the cell expects; what is missing, left over or misshapen is refused by name. What carries no
parameters (an activation, a clip, dropout) is not in the variables, and is the caller's to choose alike.

Arrays may be NumPy's, JAX's or PyTorch's. The conversions are traceable, so gradients with respect to the other
framework's variables come out in its own layout.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Callable, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from rnnjax.cells import (
    GRU,
    LSTM,
    BasicRNN,
    Cell,
    Dropout,
    GatedCell,
    GatedParams,
    GRUParams,
    LSTMParams,
    Project,
    ProjectParams,
    Residual,
    Stack,
)
from rnnjax.cells.cell import Params


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
    found = _below(_paths(variables, "/"), scope, "/")
    found = {(*path[:-1], re.sub(r":\d+$", "", path[-1])): variable for path, variable in found.items()}
    slots = {path for path in found if any(path[:end] in found for end in range(1, len(path)))}
    return _convert(_TF1, cell, {path: found[path] for path in found if path not in slots}, None)


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

    A layer of a bidirectional module reads both directions of the one below, so it is no cell: convert each direction
    of each layer by itself, with `layer` and `reverse`, and run them with `rnnjax.bidirectional`.

    Args:
      cell: the rnnjax cell.
      state_dict: arrays or tensors by name, such as ``rnn.weight_ih_l0``; without biases they are zero.
      layer: read this layer of the module alone, counted from 0; None reads all, which `cell` must have.
      reverse: whether to read the reverse direction; None says that there is only one direction.
      scope: read only the variables of this submodule, such as ``"encoder.rnn"``.

    Raises:
      ValueError: if a variable is missing, left over or misshapen, or PyTorch has no such cell.
    """
    found = _below(_paths(state_dict, "."), scope, ".")
    return _convert(_TORCH, cell, _torch_selection(found, layer, reverse), None)


def from_flax(cell: Cell, variables: Mapping[str, Any], *, scope: str = "") -> Params:
    """Returns the parameters of `cell` from variables of Flax's cells, Linen's or NNX's.

    | Flax, Linen and NNX | rnnjax |
    |---|---|
    | SimpleCell | BasicRNN |
    | LSTMCell, OptimizedLSTMCell | LSTM |
    | GRUCell | GRU(reset="after"); NNX's has no b_hn, which is zero |
    | several, in scopes that differ by a number | Stack |
    | a Dense (NNX: Linear) beside the cell | Project |

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
    found = _below(_paths(inner, "/"), scope, "/")
    # NNX cannot call a module `if`, as Linen does.
    found = {tuple("if" if part == "if_" else part for part in path): found[path] for path in found}
    return _convert(_FLAX, cell, {path: found[path] for path in found if "rngs" not in path}, None)


class _Variable(NamedTuple):
    """A foreign variable, and its name as its owner knows it."""

    name: str
    value: Any


_Variables = dict[tuple[str, ...], _Variable]
_Found = dict[str, _Variable]
_Shapes = dict[str, tuple[int, ...]]


class _DenseNames(NamedTuple):
    """A dense layer behind a cell: its kernel's name, how many scopes it is below what it shares with the cell,
    whether the kernel is ``[O, H]``, and whether there always is a bias."""

    kernel: str
    depth: int
    transposed: bool
    biased: bool


class _Framework(NamedTuple):
    """How a framework keeps parameters: a reader a cell, called as ``(cell, found, input_size)``, and dense layers."""

    name: str
    cells: dict[type, Callable[[Any, _Found, int | None], Params]]
    dense: _DenseNames


def _convert(framework: _Framework, cell: Cell, variables: _Variables, input_size: int | None) -> Params:
    """Returns the parameters of a cell; `input_size` is None where only the variables tell it."""
    if type(cell) is Stack:
        sizes = [input_size, *(below.output_size for below in cell.cells)]
        layers = _layers(cell, variables)
        return tuple(_convert(framework, c, layer, size) for c, layer, size in zip(cell.cells, layers, sizes))
    if type(cell) is Dropout:
        return _convert(framework, cell.cell, variables, input_size)
    if type(cell) is Residual:
        return _convert(framework, cell.cell, variables, input_size or cell.output_size)
    if type(cell) is Project:
        return _project(framework, cell, variables, input_size)
    if not isinstance(cell, GatedCell) or type(cell) not in framework.cells:
        known = ", ".join(kind.__name__ for kind in (*framework.cells, Stack, Residual, Dropout, Project))
        raise ValueError(f"{framework.name} has no counterpart of {type(cell).__name__}, but of {known}")
    found = {"/".join(path): variable for path, variable in _inside(variables).items()}
    params = framework.cells[type(cell)](cell, found, input_size)
    return jax.tree.map(lambda leaf: leaf.astype(cell.param_dtype), params)


def _layers(cell: Stack, variables: _Variables) -> list[_Variables]:
    """Returns the variables of each layer, which are in scopes that differ by a number alone."""
    if len(cell.cells) == 1:
        return [variables]
    scopes: dict[str, _Variables] = {}
    for path, variable in _inside(variables).items():
        scopes.setdefault(path[0], {})[path[1:]] = variable
    stems = {scope: re.sub(r"_?\d*$", "", scope) for scope in scopes}
    # `lstm` comes before `lstm_1`.
    numbered = {int(scope[len(stem) :].lstrip("_") or -1): scope for scope, stem in stems.items()}
    if len(set(stems.values())) > 1 or not len(numbered) == len(scopes) == len(cell.cells):
        raise ValueError(
            f"a Stack of {len(cell.cells)} layers needs variables in as many scopes that differ by a number alone, "
            f"such as cell_0, cell_1; they are in {', '.join(scopes) or 'none'}"
        )
    return [scopes[numbered[number]] for number in sorted(numbered)]


def _project(framework: _Framework, cell: Project, variables: _Variables, input_size: int | None) -> ProjectParams:
    """Returns the parameters of a cell and of the dense layer behind it."""
    variables, names = _inside(variables), framework.dense
    kernels = [path for path in variables if len(path) == names.depth + 1 and path[-1] == names.kernel]
    if len(kernels) != 1:
        raise ValueError(
            f"{_describe(cell)} needs one dense layer beside its cell, with {names.kernel} and bias, "
            f"but there are {len(kernels)} among {_names(variables)}"
        )
    dense = {path[-1]: variable for path, variable in variables.items() if path[:-1] == kernels[0][:-1]}
    rest = {path: variable for path, variable in variables.items() if path[:-1] != kernels[0][:-1]}
    w, b = (leaf.astype(cell.param_dtype) for leaf in _dense(names, cell, dense))
    return ProjectParams(_convert(framework, cell.cell, rest, input_size), w, b)


def _dense(names: _DenseNames, cell: Project, found: _Found) -> tuple[Array, Array]:
    """Returns ``w [H, O]`` and ``b [O]`` of a dense layer; a bias that may be left out is zero then."""
    shape = (cell.cell.output_size, cell.size)
    shapes: _Shapes = {names.kernel: shape[::-1] if names.transposed else shape}
    if names.biased or "bias" in found:
        shapes["bias"] = (cell.size,)
    values = _read(cell, found, shapes)
    w = values[names.kernel]
    return w.T if names.transposed else w, values.get("bias", jnp.zeros(cell.size))


def _tf1_basic(cell: BasicRNN, found: _Found, input_size: int | None) -> GatedParams:
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


def _tf1_lstm(cell: LSTM, found: _Found, input_size: int | None) -> LSTMParams:
    _refuse(cell, "TensorFlow 1", layer_norm=False)
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


def _tf1_gru(cell: GRU, found: _Found, input_size: int | None) -> GRUParams:
    _refuse(cell, "TensorFlow 1", reset="before")
    H = cell.hidden_size
    kernels = {"gates/kernel": 2, "candidate/kernel": 1}
    shapes = {"gates/bias": (2 * H,), "candidate/bias": (H,)}
    values, rows = _tf1_read(cell, found, input_size, kernels, shapes)
    kernel = jnp.concatenate([values[name] for name in kernels], -1)
    b = jnp.concatenate([values[name] for name in shapes]).reshape(3, H)
    return GRUParams(*_tf1_kernel(kernel, rows, (0, 1, 2)), b, None)


def _tf1_read(cell: GatedCell, found: _Found, input_size: int | None, kernels: dict[str, int], others: _Shapes):
    """Returns the values, and the kernels' number of input rows; `kernels` gives the number of gates in each."""
    rows = input_size or max(1, _size(found, next(iter(kernels)), 0) - cell.output_size)
    shapes = {name: (rows + cell.output_size, gates * cell.hidden_size) for name, gates in kernels.items()}
    return _read(cell, found, shapes | others), rows


def _tf1_kernel(kernel: Array, rows: int, order: tuple[int, ...]) -> tuple[Array, Array]:
    """Returns ``w_x`` and ``w_h`` from a kernel that has input rows above hidden rows, and its gates side by side."""
    w = kernel.reshape(kernel.shape[0], len(order), -1)[:, np.array(order)]
    return w[:rows], w[rows:]


def _torch_basic(cell: BasicRNN, found: _Found, input_size: int | None) -> GatedParams:
    w_x, w_h, b_x, b_h = _torch_gated(cell, _torch_read(cell, found, input_size, 1, {}), 1)
    return GatedParams(w_x, w_h, b_x + b_h)


def _torch_lstm(cell: LSTM, found: _Found, input_size: int | None) -> LSTMParams:
    _refuse(cell, "PyTorch", peephole=False, coupled_gates=False, layer_norm=False)
    projection: _Shapes = {"weight_hr": (cell.output_size, cell.hidden_size)} if cell.projection_size else {}
    values = _torch_read(cell, found, input_size, 4, projection)
    w_x, w_h, b_x, b_h = _torch_gated(cell, values, 4)
    return LSTMParams(w_x, w_h, b_x + b_h, w_p=values["weight_hr"].T if projection else None)


def _torch_gru(cell: GRU, found: _Found, input_size: int | None) -> GRUParams:
    _refuse(cell, "PyTorch", reset="after")
    w_x, w_h, b_x, b_h = _torch_gated(cell, _torch_read(cell, found, input_size, 3, {}), 3)
    return GRUParams(w_x, w_h, b_x.at[:2].add(b_h[:2]), b_h[2])


def _torch_read(
    cell: GatedCell, found: _Found, input_size: int | None, gates: int, others: _Shapes
) -> dict[str, Array]:
    """Returns the values; a module made with ``bias=False`` has no biases, and zeros here."""
    rows, columns = gates * cell.hidden_size, input_size or _size(found, "weight_ih", 1)
    shapes = {"weight_ih": (rows, columns), "weight_hh": (rows, cell.output_size)} | others
    biases: _Shapes = dict.fromkeys(("bias_ih", "bias_hh"), (rows,))
    if found.keys() & biases:
        return _read(cell, found, shapes | biases)
    return _read(cell, found, shapes) | dict.fromkeys(biases, jnp.zeros(rows))


def _torch_gated(cell: GatedCell, values: dict[str, Array], gates: int) -> tuple[Array, Array, Array, Array]:
    """Returns ``w_x [I, G, H]``, ``w_h [O, G, H]`` and the two biases ``[G, H]``."""
    w_x, w_h = (values[name].T.reshape(-1, gates, cell.hidden_size) for name in ("weight_ih", "weight_hh"))
    b_x, b_h = (values[name].reshape(gates, cell.hidden_size) for name in ("bias_ih", "bias_hh"))
    return w_x, w_h, b_x, b_h


_TORCH_NAME = re.compile(r"((?:weight|bias)_(?:ih|hh|hr))(?:_l(\d+))?(_reverse)?")


def _torch_selection(found: _Variables, layer: int | None, reverse: bool | None) -> _Variables:
    """Returns the variables of a layer and a direction; a layer becomes a scope, ``weight_ih_l0`` ``l0, weight_ih``."""
    matches = {path: _TORCH_NAME.fullmatch(path[-1]) for path in found}
    backward = [found[path].name for path, match in matches.items() if match and match[3]]
    if backward and reverse is None:
        raise ValueError(f"{backward[0]} is of a second direction; choose reverse=False or reverse=True")
    selection: _Variables = {}
    for path, match in matches.items():
        if match is None:
            selection[path] = found[path]
        elif bool(match[3]) == bool(reverse) and (layer is None or match[2] == str(layer)):
            scope = (f"l{match[2]}",) if match[2] else ()
            selection[(*path[:-1], *scope, match[1])] = found[path]
    if selection.keys() == {path for path, match in matches.items() if match is None}:
        raise ValueError(f"there is nothing of layer={layer}, reverse={reverse} among {_names(found)}")
    return selection


def _flax_basic(cell: BasicRNN, found: _Found, input_size: int | None) -> GatedParams:
    w_x, w_h, b, _ = _flax_gated(cell, found, input_size, ("",), "i", {})
    return GatedParams(w_x, w_h, b)


def _flax_lstm(cell: LSTM, found: _Found, input_size: int | None) -> LSTMParams:
    _refuse(cell, "Flax", peephole=False, coupled_gates=False, layer_norm=False, projection_size=None)
    w_x, w_h, b, _ = _flax_gated(cell, found, input_size, tuple("ifgo"), "h", {})
    return LSTMParams(w_x, w_h, b)


def _flax_gru(cell: GRU, found: _Found, input_size: int | None) -> GRUParams:
    _refuse(cell, "Flax", reset="after")
    own: _Shapes = {} if _is_fused(found) else {"hn/bias": (cell.hidden_size,)}
    w_x, w_h, b, values = _flax_gated(cell, found, input_size, tuple("rzn"), "i", own)
    return GRUParams(w_x, w_h, b, values.get("hn/bias", jnp.zeros(cell.hidden_size)))


def _is_fused(found: _Found) -> bool:
    """Returns whether one layer has all gates side by side, as in NNX, instead of a layer a gate."""
    return any(name.startswith("dense_") for name in found)


def _flax_gated(
    cell: GatedCell, found: _Found, input_size: int | None, gates: tuple[str, ...], biased: str, others: _Shapes
) -> tuple[Array, Array, Array, dict[str, Array]]:
    """Returns ``w_x, w_h, b`` and all values; `biased` is the side, i or h, whose layers have the bias."""
    fused = _is_fused(found)
    layers = {side: [f"dense_{side}"] if fused else [side + gate for gate in gates] for side in "ih"}
    kernels = {side: [f"{layer}/kernel" for layer in layers[side]] for side in "ih"}
    biases = [f"{layer}/bias" for layer in layers[biased]]
    rows = {"i": input_size or _size(found, kernels["i"][0], 0), "h": cell.hidden_size}
    columns = cell.hidden_size * (len(gates) if fused else 1)
    shapes = {name: (rows[side], columns) for side in "ih" for name in kernels[side]}
    values = _read(cell, found, shapes | dict.fromkeys(biases, (columns,)) | others)

    def joined(names: list[str], *shape: int) -> Array:
        return jnp.concatenate([values[name] for name in names], -1).reshape(*shape, len(gates), cell.hidden_size)

    return joined(kernels["i"], rows["i"]), joined(kernels["h"], rows["h"]), joined(biases), values


_TF1_CELLS = {BasicRNN: _tf1_basic, LSTM: _tf1_lstm, GRU: _tf1_gru}
_TORCH_CELLS = {BasicRNN: _torch_basic, LSTM: _torch_lstm, GRU: _torch_gru}
_FLAX_CELLS = {BasicRNN: _flax_basic, LSTM: _flax_lstm, GRU: _flax_gru}

_TF1 = _Framework("TensorFlow 1", _TF1_CELLS, _DenseNames("kernel", depth=0, transposed=False, biased=True))
_TORCH = _Framework("PyTorch", _TORCH_CELLS, _DenseNames("weight", depth=1, transposed=True, biased=False))
_FLAX = _Framework("Flax", _FLAX_CELLS, _DenseNames("kernel", depth=1, transposed=False, biased=False))


def _paths(variables: Mapping, separator: str, above: tuple[str, ...] = ()) -> _Variables:
    """Returns variables of nested or flat mappings by the parts of their names."""
    if not isinstance(variables, Mapping):
        raise TypeError(f"variables must be a dict of arrays by name, got {type(variables).__name__}")
    found: _Variables = {}
    for key, value in variables.items():
        path = (*above, *str(key).split(separator))
        if isinstance(value, Mapping):
            found |= _paths(value, separator, path)
        else:
            found[path] = _Variable(separator.join(path), value)
    return found


def _below(variables: _Variables, scope: str, separator: str) -> _Variables:
    """Returns the variables below a scope, under names without it."""
    above = tuple(part for part in scope.split(separator) if part)
    found = {path[len(above) :]: v for path, v in variables.items() if path[: len(above)] == above != path}
    if not found:
        raise ValueError(
            f"there are no variables{f' below scope {scope!r}' * bool(above)}; there are {_names(variables)}"
        )
    return found


def _inside(variables: _Variables) -> _Variables:
    """Returns the variables under names without the scopes that all of them are in."""
    depth = 0
    while len({path[: depth + 1] for path in variables}) == 1 and all(len(path) > depth + 1 for path in variables):
        depth += 1
    return {path[depth:]: variable for path, variable in variables.items()}


def _read(cell: GatedCell | Project, found: _Found, shapes: _Shapes) -> dict[str, Array]:
    """Returns the values of the variables in `shapes`, raising unless they and no others are there."""
    reads = f"{_describe(cell)} reads {', '.join(shapes)}"
    missing = [name for name in shapes if name not in found]
    if missing:
        raise ValueError(
            f"{reads}, but there is no {', '.join(missing)} among {_names(found)}{_elsewhere(missing[0], found)}"
        )
    extra = {name: variable for name, variable in found.items() if name not in shapes}
    if extra:
        raise ValueError(f"{reads}, and has no use for {_names(extra)}; make the cell match, or choose with scope=")
    for name, shape in shapes.items():
        if np.shape(found[name].value) != shape:
            got = list(np.shape(found[name].value))
            raise ValueError(f"{found[name].name} must have shape {list(shape)} for {_describe(cell)}, got {got}")
    return {name: _array(found[name]) for name in shapes}


def _elsewhere(missing: str, found: _Found) -> str:
    """Returns what to do where a missing variable is there, but in scopes below."""
    below = {name: variable for name, variable in found.items() if name.endswith(f"/{missing}")}
    choose = f"; choose {_names(below)} with scope= (a layer of PyTorch's with layer=), or convert to a Stack"
    return choose if below else ""


def _array(variable: _Variable) -> Array:
    """Returns a value as an array of float32 or above."""
    value = variable.value
    if hasattr(value, "detach"):  # A PyTorch tensor; NumPy has no bfloat16, and every float type fits into double.
        value = value.detach().cpu().double().numpy()
    array = jnp.asarray(value)
    if not jnp.issubdtype(array.dtype, jnp.floating):
        raise TypeError(f"{variable.name} must be floating point, got {array.dtype}")
    return array.astype(jnp.promote_types(array.dtype, jnp.float32))


def _size(found: _Found, name: str, axis: int) -> int:
    """Returns the size of one axis of a variable, 1 if it is not there: reading it then says what is wrong."""
    shape = np.shape(found[name].value) if name in found else ()
    return shape[axis] if axis < len(shape) else 1


def _refuse(cell: GatedCell, framework: str, **counterpart: Any) -> None:
    """Raises if an option of the cell is not the one that the framework has."""
    for option, value in counterpart.items():
        if getattr(cell, option) != value:
            kind = type(cell).__name__
            raise ValueError(
                f"{framework} has no counterpart of {kind}({option}={getattr(cell, option)!r}); "
                f"use {kind}({option}={value!r})"
            )


def _describe(cell: GatedCell | Project) -> str:
    """Returns a cell with its size alone, for a sentence."""
    size = f"size={cell.size}" if isinstance(cell, Project) else f"hidden_size={cell.hidden_size}"
    return f"{type(cell).__name__}({size})"


def _names(variables: Mapping[Any, _Variable], most: int = 12) -> str:
    """Returns the names of variables for a sentence."""
    names = [variable.name for variable in variables.values()]
    return (", ".join(names[:most]) or "none") + (f" and {len(names) - most} more" if len(names) > most else "")
