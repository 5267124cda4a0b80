"""Parameters from Flax, Linen and NNX, and to Linen."""

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
from rnnjax.cells.tree import is_stack
from rnnjax.interop.conversion import DenseNames, Framework, convert
from rnnjax.interop.variables import NamedVariables, Shapes, below_scope, paths, read, refuse, size_of
from rnnjax.interop.writing import PLAIN_LSTM, Arrays, Target, layers_to_write, write


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
    `activation_fn` and `gate_fn` must be given to the cell as `activation` and `gate_activation`. If `module` is given,
    this is checked.

    Args:
      cell: the rnnjax cell.
      variables: what Linen's `init` returns, or its collection ``params`` (other collections are not read), or NNX's
        `nnx.state(module)`, or its pure dict. The cell's variables may be below any modules (`RNN`, `Sequential`, ...).
        NNX's random state, below the name ``rngs``, is not read.
      scope: if given, only the variables below these modules are read, such as ``"encoder/forward_rnn"``.
      module: the Flax cell of the variables, or an `RNN` of it; for a `Stack`, a sequence with one for each layer.

    Raises:
      ValueError: if a variable is missing, unused or of another shape, Flax has no such cell, or the module computes
        something else than the cell.

    Example:
      >>> import flax.linen as nn, jax, jax.numpy as jnp, rnnjax
      >>> module = nn.RNN(nn.GRUCell(8))
      >>> variables = module.init(jax.random.key(0), jnp.ones((2, 5, 3)))
      >>> cell = rnnjax.GRU(8)
      >>> params = rnnjax.interop.from_flax(cell, variables, module=module)
      >>> ys, state = rnnjax.unroll(cell, params, jnp.ones((2, 5, 3)))
      >>> ys.shape
      (2, 5, 8)
    """
    if module is not None:
        _check_modules(cell, module)
    inner = variables.get("params", variables) if isinstance(variables, Mapping) else variables
    selected = below_scope(paths(inner, "/"), scope, "/")
    # Linen calls a module `if`, which NNX, where modules are attributes, cannot.
    selected = {tuple("if" if part == "if_" else part for part in path): v for path, v in selected.items()}
    selected = {path: variable for path, variable in selected.items() if "rngs" not in path}
    return convert(_FRAMEWORK, cell, selected, None)


def _check_modules(cell: Cell, module: Any) -> None:
    """Raises unless Flax's modules, from the lowest layer up, compute the same as the gated cells."""
    cells = [part for part in cell.parts() if is_gated(part)]
    modules = list(module) if isinstance(module, Sequence) else [module]
    if len(cells) != len(modules):
        raise ValueError(f"module must have one for each of the {len(cells)} layers of {cell!r}, got {len(modules)}")
    for layer, flax_module in zip(cells, modules):
        _check_options(layer, getattr(flax_module, "cell", flax_module))  # an RNN has its cell in it


def _check_options(cell: GatedCell, module: Any) -> None:
    name = type(module).__name__
    if getattr(module, "residual", False):
        raise ValueError(f"{name} has residual=True, which adds the state before the activation; no cell here does")
    choices = getattr(cell, "activation", "tanh"), getattr(cell, "gate_activation", "sigmoid")
    for option, expected in zip(("activation_fn", "gate_fn"), map(activation_function, choices)):
        function = getattr(module, option, expected)
        # Compared by value: Flax, JAX and NumPy have different functions for the same activation.
        if not np.allclose(function(_POINTS), expected(_POINTS), atol=1e-5):
            raise ValueError(f"{name} has {option}={_name(function)}, but {cell!r} computes {_name(expected)} there")


_POINTS: Any = np.linspace(-3, 3, 7, dtype=np.float32)


def _name(function: Any) -> str:
    return getattr(function, "__name__", repr(function))


def _flax_basic(cell: BasicRNN, named: NamedVariables, input_size: int | None) -> GatedParams:
    refuse(cell, "Flax", use_bias=True)
    w_x, w_h, b, _ = _flax_gated(cell, named, input_size, ("",), "i", {})
    return GatedParams(w_x, w_h, b)


def _flax_lstm(cell: LSTM, named: NamedVariables, input_size: int | None) -> LSTMParams:
    refuse(cell, "Flax", use_bias=True, peephole=False, coupled_gates=False, layer_norm=False, projection_size=None)
    w_x, w_h, b, _ = _flax_gated(cell, named, input_size, tuple("ifgo"), "h", {})
    return LSTMParams(w_x, w_h, b)


def _flax_gru(cell: GRU, named: NamedVariables, input_size: int | None) -> GRUParams:
    refuse(cell, "Flax", use_bias=True, reset="after")
    b_hn: Shapes = {} if _is_fused(named) else {"hn/bias": (cell.hidden_size,)}
    w_x, w_h, b, values = _flax_gated(cell, named, input_size, tuple("rzn"), "i", b_hn)
    return GRUParams(w_x, w_h, b, values.get("hn/bias", jnp.zeros(cell.hidden_size)))


def _is_fused(named: NamedVariables) -> bool:
    """Returns whether one layer computes all gates, as in NNX, instead of a layer for each gate."""
    return any(name.startswith("dense_") for name in named)


def _flax_gated(
    cell: GatedCell, named: NamedVariables, input_size: int | None, gates: tuple[str, ...], biased: str, others: Shapes
) -> tuple[Array, Array, Array, dict[str, Array]]:
    """Returns ``w_x``, ``w_h``, ``b`` and the values of all variables.

    `gates` are the names of the gates, `biased` is the side, "i" or "h", whose layers have the bias, and `others` are
    the shapes of further variables.
    """
    fused = _is_fused(named)
    # For instance {"i": ["ir", "iz", "in"], "h": ["hr", "hz", "hn"]}, or all gates in "dense_i" and "dense_h".
    layers = {side: [f"dense_{side}"] if fused else [side + gate for gate in gates] for side in "ih"}
    kernels = {side: [f"{layer}/kernel" for layer in layers[side]] for side in "ih"}
    biases = [f"{layer}/bias" for layer in layers[biased]]
    rows = {"i": input_size or size_of(named, kernels["i"][0], 0), "h": cell.hidden_size}
    columns = cell.hidden_size * (len(gates) if fused else 1)
    shapes = {name: (rows[side], columns) for side in "ih" for name in kernels[side]}
    values = read(cell, named, shapes | dict.fromkeys(biases, (columns,)) | others)

    def joined(names: list[str], *shape: int) -> Array:
        return jnp.concatenate([values[name] for name in names], -1).reshape(*shape, len(gates), cell.hidden_size)

    return joined(kernels["i"], rows["i"]), joined(kernels["h"], rows["h"]), joined(biases), values


_FRAMEWORK = Framework(
    "Flax",
    {BasicRNN: _flax_basic, LSTM: _flax_lstm, GRU: _flax_gru},
    DenseNames("kernel"),
)


def to_flax(cell: Cell, params: Params) -> dict[str, Any]:
    """Returns the variables of a Linen module around Flax's own cells: the inverse of `from_flax`.

    | cell | module |
    |---|---|
    | `BasicRNN`, `LSTM`, `GRU` | ``nn.RNN(nn.SimpleCell(H))``, ``nn.RNN(nn.LSTMCell(H))``, ``nn.RNN(nn.GRUCell(H))`` |
    | `Stack`, `Project` | a module with these in it, which Linen names ``RNN_0``, ``RNN_1``, ..., and ``Dense_0`` |

    Args:
      cell: the cell; give the module its activations.
      params: its parameters.

    Raises:
      ValueError: for a cell that Flax has no counterpart of: without biases, with peepholes, a projection, layer
        normalisation, clipping, coupled gates or ``reset="before"``, or in a wrapper that changes what it computes.

    Example:
      >>> import flax.linen as nn, jax, jax.numpy as jnp, rnnjax
      >>> cell = rnnjax.GRU(8)
      >>> params, xs = cell.init(jax.random.key(0), 3), jnp.ones((2, 5, 3))
      >>> ys = nn.RNN(nn.GRUCell(8)).apply(rnnjax.interop.to_flax(cell, params), xs)
      >>> bool(jnp.allclose(ys, rnnjax.unroll(cell, params, xs)[0], atol=1e-6))
      True
    """
    layers, dense = layers_to_write(_TARGET, cell, params)
    written = [{"cell": _nested(write(_TARGET, layer))} for layer in layers]
    if dense is None and not is_stack(cell):
        return {"params": written[0]}
    modules: dict[str, Any] = {f"RNN_{number}": layer for number, layer in enumerate(written)}
    if dense is not None:
        modules["Dense_0"] = {"kernel": dense.w, "bias": dense.b}
    return {"params": modules}


def _nested(arrays: Arrays) -> dict[str, Arrays]:
    """Returns ``{"ii": {"kernel": ...}}`` of ``{"ii/kernel": ...}``."""
    layers: dict[str, Arrays] = {}
    for name, value in arrays.items():
        layer, _, variable = name.partition("/")
        layers.setdefault(layer, {})[variable] = value
    return layers


def _basic_to_flax(cell: BasicRNN, params: GatedParams) -> Arrays:
    return _gated_to_flax(params, ("",), "i")


def _lstm_to_flax(cell: LSTM, params: LSTMParams) -> Arrays:
    return _gated_to_flax(params, tuple("ifgo"), "h")


def _gru_to_flax(cell: GRU, params: GRUParams) -> Arrays:
    return _gated_to_flax(params, tuple("rzn"), "i") | {"hn/bias": np.asarray(params.b_hn)}


def _gated_to_flax(params: Any, gates: tuple[str, ...], biased: str) -> Arrays:
    kernels = {f"i{gate}/kernel": params.w_x[:, n] for n, gate in enumerate(gates)}
    kernels |= {f"h{gate}/kernel": params.w_h[:, n] for n, gate in enumerate(gates)}
    return kernels | {f"{biased}{gate}/bias": params.b[n] for n, gate in enumerate(gates)}


_ACTIVATIONS = ("tanh", "relu", "sigmoid", "softplus", "elu", "gelu", "silu", "identity")
_TARGET = Target(
    "Flax",
    {BasicRNN: _basic_to_flax, LSTM: _lstm_to_flax, GRU: _gru_to_flax},
    {
        BasicRNN: {"use_bias": True},
        LSTM: PLAIN_LSTM | {"use_bias": True, "peephole": False, "coupled_gates": False, "projection_size": None},
        GRU: {"use_bias": True, "reset": "after"},
    },
    dict.fromkeys((BasicRNN, LSTM, GRU), _ACTIVATIONS),
    _ACTIVATIONS,
)
