"""Parameters from Equinox."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from rnnjax.cells import GRU, LSTM, Cell, GatedCell, GRUParams, LSTMParams
from rnnjax.cells.cell import Params
from rnnjax.interop.conversion import DenseNames, Framework, convert
from rnnjax.interop.variables import (
    NamedVariables,
    Shapes,
    Variables,
    below_scope,
    paths,
    read,
    refuse,
    scope_of,
    size_of,
)


def from_equinox(cell: Cell, module: Any, *, scope: str = "") -> Params:
    """Returns the parameters of `cell` from Equinox's recurrent cells.

    | Equinox | rnnjax |
    |---|---|
    | LSTMCell | LSTM |
    | GRUCell | GRU(reset="after") |
    | several, in a list or tuple | Stack |
    | a Linear beside the cell | Project |

    Args:
      cell: the rnnjax cell.
      module: an Equinox cell, or a module, a list or a dict with cells in it; or arrays by name, such as
        ``cells.0.weight_ih``. Without biases, those of the cell are zero.
      scope: if given, only what is below this attribute is read, such as ``"encoder.cells"``.

    Raises:
      ValueError: if a variable is missing, unused or of another shape, or Equinox has no such cell.

    Example:
      >>> import jax.numpy as jnp, numpy as np, rnnjax
      >>> module = {  # such as equinox.nn.LSTMCell(3, 8, key=key)
      ...     "weight_ih": np.ones((32, 3)), "weight_hh": np.ones((32, 8)), "bias": np.zeros(32),
      ... }
      >>> cell = rnnjax.LSTM(8)
      >>> params = rnnjax.interop.from_equinox(cell, module)
      >>> ys, state = rnnjax.unroll(cell, params, jnp.ones((2, 5, 3)))
      >>> ys.shape
      (2, 5, 8)
    """
    leaves, _ = jax.tree_util.tree_flatten_with_path(module)
    arrays = {jax.tree_util.keystr(path, simple=True, separator="."): leaf for path, leaf in leaves}
    # A module may have functions and numbers in it that are no parameters.
    arrays = {name: leaf for name, leaf in arrays.items() if hasattr(leaf, "shape")}
    return convert(_FRAMEWORK, cell, below_scope(paths(arrays, "."), scope, "."), None)


_ACTIVATIONS = {"activation": "tanh", "gate_activation": "sigmoid"}


def _equinox_lstm(cell: LSTM, named: NamedVariables, input_size: int | None) -> LSTMParams:
    options = {"peephole": False, "coupled_gates": False, "layer_norm": False, "projection_size": None}
    refuse(cell, "Equinox", **_ACTIVATIONS, **options)
    w_x, w_h, values = _equinox_gated(cell, named, input_size, 4, {"bias": (4 * cell.hidden_size,)})
    return LSTMParams(w_x, w_h, values["bias"].reshape(4, -1) if cell.use_bias else None)


def _equinox_gru(cell: GRU, named: NamedVariables, input_size: int | None) -> GRUParams:
    refuse(cell, "Equinox", **_ACTIVATIONS, reset="after")
    biases: Shapes = {"bias": (3 * cell.hidden_size,), "bias_n": (cell.hidden_size,)}
    w_x, w_h, values = _equinox_gated(cell, named, input_size, 3, biases)
    if not cell.use_bias:
        return GRUParams(w_x, w_h, None, None)
    return GRUParams(w_x, w_h, values["bias"].reshape(3, -1), values["bias_n"])


def _equinox_gated(
    cell: GatedCell, named: NamedVariables, input_size: int | None, gates: int, biases: Shapes
) -> tuple[Array, Array, dict[str, Array]]:
    """Returns ``w_x [I, G, H]``, ``w_h [H, G, H]`` and the biases, which are zeros if the module has none."""
    rows = gates * cell.hidden_size
    shapes = {"weight_ih": (rows, input_size or size_of(named, "weight_ih", 1)), "weight_hh": (rows, cell.hidden_size)}
    biased = cell.use_bias and named.keys() & biases
    values = read(cell, named, shapes | (biases if biased else {}))
    # [G * H, I] as [I, G, H]; Equinox's order of gates is ours.
    w_x, w_h = (values[name].T.reshape(-1, gates, cell.hidden_size) for name in shapes)
    return w_x, w_h, {name: jnp.zeros(shape) for name, shape in biases.items()} | values


def _equinox_choice(variables: Variables) -> str:
    return scope_of(variables, ".")


_FRAMEWORK = Framework(
    "Equinox", {LSTM: _equinox_lstm, GRU: _equinox_gru}, DenseNames("weight", transposed=True), _equinox_choice
)
