"""Parameters as arrays by name, and back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rnnjax.interop.variables import names_in_short
from rnnjax.leaf_paths import by_path


def to_arrays(params: Any) -> dict[str, np.ndarray]:
    """Returns the leaves of parameters by their paths, such as ``0.w_x`` or ``params.RNN_0.rnn.w_h``.

    Args:
      params: the parameters of a cell, or of any model.

    Example:
      >>> import jax, rnnjax
      >>> cell = rnnjax.Stack([rnnjax.GRU(8), rnnjax.GRU(8)])
      >>> arrays = rnnjax.interop.to_arrays(cell.init(jax.random.key(0), 3))
      >>> {name: value.shape for name, value in arrays.items() if name.endswith("w_x")}
      {'0.w_x': (3, 3, 8), '1.w_x': (8, 3, 8)}
    """
    return {name: np.array(leaf) for name, leaf in by_path(params).items()}


def from_arrays(like: Any, arrays: Mapping[str, Any]) -> Any:
    """Returns parameters from their leaves by path: the inverse of `to_arrays`.

    Args:
      like: parameters of the same structure, as arrays or as shapes, such as
        ``jax.eval_shape(lambda: cell.init(jax.random.key(0), input_size))``.
      arrays: the leaves.

    Raises:
      ValueError: if a leaf is missing, unused, or of another shape or type.

    Example:
      >>> import jax, rnnjax
      >>> cell = rnnjax.GRU(8)
      >>> params = cell.init(jax.random.key(0), 3)
      >>> again = rnnjax.interop.from_arrays(params, rnnjax.interop.to_arrays(params))
      >>> bool((again.w_x == params.w_x).all())
      True
    """
    expected = by_path(like)
    missing = [name for name in expected if name not in arrays]
    unused = [name for name in arrays if name not in expected]
    if missing or unused:
        what = f"there is no {names_in_short(missing)}" if missing else f"there is no use for {names_in_short(unused)}"
        raise ValueError(f"{what} among the {len(arrays)} arrays for parameters {names_in_short(list(expected))}")
    for name, leaf in expected.items():
        found, wanted = np.asarray(arrays[name]), jax.ShapeDtypeStruct(leaf.shape, leaf.dtype)
        if (found.shape, found.dtype) != (wanted.shape, wanted.dtype):
            raise ValueError(
                f"{name} must be {wanted.dtype} of shape {list(wanted.shape)}, got {found.dtype} {list(found.shape)}"
            )
    return jax.tree.unflatten(jax.tree.structure(like), [jnp.asarray(arrays[name]) for name in expected])
