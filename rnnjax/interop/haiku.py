"""Parameters from Haiku."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jaxtyping import Array

from rnnjax.cells import GRU, LSTM, BasicRNN, Cell, GatedParams, GRUParams, LSTMParams
from rnnjax.cells.cell import Params
from rnnjax.interop.conversion import DenseNames, Framework, convert
from rnnjax.interop.gates import gates_of
from rnnjax.interop.variables import NamedVariables, Shapes, below_scope, paths, read, refuse, size_of


def from_haiku(cell: Cell, variables: Mapping[str, Any], *, scope: str = "") -> Params:
    """Returns the parameters of `cell` from those of Haiku's recurrent cores.

    | Haiku | rnnjax |
    |---|---|
    | VanillaRNN | BasicRNN(activation="relu"), its two biases added |
    | LSTM | LSTM; Haiku adds 1 to the forget gate at every step, which is in the bias here |
    | GRU | GRU(reset="before"); Haiku's z lets the candidate in, ours keeps h: its weights change their sign |
    | DeepRNN of these | Stack |
    | a Linear beside the core | Project |

    Args:
      cell: the rnnjax cell.
      variables: what `hk.transform(...).init` returns, modules nested or in the names, such as
        ``{"lstm/linear": {"w": ..., "b": ...}}``.
      scope: if given, only the variables below these modules are read, such as ``"my_net/~/lstm"``.

    Raises:
      ValueError: if a variable is missing, unused or of another shape, or Haiku has no such cell.

    Example:
      >>> import jax.numpy as jnp, numpy as np, rnnjax
      >>> variables = {"gru": {"w_i": np.ones((3, 24)), "w_h": np.ones((8, 24)), "b": np.zeros(24)}}
      >>> cell = rnnjax.GRU(8, reset="before")
      >>> params = rnnjax.interop.from_haiku(cell, variables)
      >>> ys, state = rnnjax.unroll(cell, params, jnp.ones((2, 5, 3)))
      >>> ys.shape
      (2, 5, 8)
    """
    return convert(_FRAMEWORK, cell, below_scope(paths(variables, "/"), scope, "/"), None)


_ACTIVATIONS = {"activation": "tanh", "gate_activation": "sigmoid"}


def _haiku_basic(cell: BasicRNN, named: NamedVariables, input_size: int | None) -> GatedParams:
    refuse(cell, "Haiku", activation="relu", use_bias=True)
    H = cell.hidden_size
    shapes: Shapes = {"linear/w": (input_size or size_of(named, "linear/w", 0), H), "linear/b": (H,)}
    shapes |= {"linear_1/w": (H, H)} | ({"linear_1/b": (H,)} if "linear_1/b" in named else {})
    values = read(cell, named, shapes)
    b = values["linear/b"] + values.get("linear_1/b", 0)
    return GatedParams(values["linear/w"][:, None], values["linear_1/w"][:, None], b[None])


def _haiku_lstm(cell: LSTM, named: NamedVariables, input_size: int | None) -> LSTMParams:
    options = {"peephole": False, "coupled_gates": False, "layer_norm": False, "projection_size": None}
    refuse(cell, "Haiku", **_ACTIVATIONS, use_bias=True, **options)
    H = cell.hidden_size
    # One kernel has the rows of the inputs and, below, those of the hidden state.
    rows = input_size or max(1, size_of(named, "w", 0) - H)
    values = read(cell, named, {"w": (rows + H, 4 * H), "b": (4 * H,)})
    w, b = (gates_of(values[name], (0, 2, 1, 3)) for name in ("w", "b"))  # Haiku's i, g, f, o
    return LSTMParams(w[:rows], w[rows:], b.at[1].add(1))


def _haiku_gru(cell: GRU, named: NamedVariables, input_size: int | None) -> GRUParams:
    refuse(cell, "Haiku", **_ACTIVATIONS, use_bias=True, reset="before")
    H = cell.hidden_size
    shapes = {"w_i": (input_size or size_of(named, "w_i", 0), 3 * H), "w_h": (H, 3 * H), "b": (3 * H,)}
    values = read(cell, named, shapes)
    w_x, w_h, b = (_with_z_kept(gates_of(values[name], (1, 0, 2))) for name in shapes)  # Haiku's z, r, a
    return GRUParams(w_x, w_h, b, None)


def _with_z_kept(gates: Array) -> Array:
    """Returns gates r, z, n with the update gate as 1 - sigmoid(z), which is sigmoid(-z)."""
    return gates.at[..., 1, :].multiply(-1)


_FRAMEWORK = Framework(
    "Haiku",
    {BasicRNN: _haiku_basic, LSTM: _haiku_lstm, GRU: _haiku_gru},
    DenseNames("w", "b"),
)
