"""Gated cells in float64, with their gradients: what every contender of `benchmarks.kernels` must agree with.

Nothing of the library is used: these are the plain equations, step by step, and JAX's derivative of them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.kernels.cases import Case, Numbers

TOLERANCE = {"float32": 5e-3, "bfloat16": 3e-2}  # float32's products may be in TF32


class Result(NamedTuple):
    """Outputs, and the gradients of the inputs and of the cell's parameters."""

    outputs: Any
    d_inputs: Any
    d_params: Any


def worst(got: Any, expected: Any) -> tuple[float, str]:
    """Returns the largest relative error of what was computed, and in what it is."""
    errors = jax.tree.leaves_with_path(jax.tree.map(relative_error, got, expected))
    path, error = max(errors, key=lambda each: np.nan_to_num(each[1], nan=np.inf))
    return error, jax.tree_util.keystr(path, simple=True, separator=" of ")


def relative_error(got: Any, expected: np.ndarray) -> float:
    """Returns ``||got - expected|| / ||expected||``."""
    got = np.asarray(got).astype(np.float64)
    if got.shape != expected.shape:
        raise ValueError(f"it has shape {list(got.shape)} where the reference has {list(expected.shape)}")
    return float(np.linalg.norm(got - expected) / np.linalg.norm(expected))


def compute(case: Case, given: Numbers, valid: np.ndarray | None = None, resets: np.ndarray | None = None) -> Result:
    """Returns the outputs of the head of a case, and the gradients that ``d_outputs`` gives.

    Args:
      case: the case.
      given: its numbers.
      valid: ``[T, B]``, False where a step is missing: its output is zero, and the state stays.
      resets: ``[T, B]``, True where the state is set to zeros before a step that is not missing.
    """
    shape = (case.head, case.B)
    valid = np.ones(shape, bool) if valid is None else valid
    resets = np.zeros(shape, bool) if resets is None else resets

    def outputs(params: Any, inputs: Any) -> Any:
        zs = jnp.tensordot(inputs, params.w_x, 1) + params.b if case.projected else inputs
        return recurrence(case.cell, params, zs, valid[..., None], resets[..., None])

    outputs = jax.vmap(outputs) if case.heads > 1 else outputs
    with jax.enable_x64(True), jax.default_device(host()):
        ys, pull_back = jax.vjp(outputs, given.params, given.inputs)
        d_params, d_inputs = pull_back(given.d_outputs)
        return jax.tree.map(np.asarray, Result(ys, d_inputs, d_params))


def host() -> Any:
    """Returns a CPU, or nothing where JAX is told to use none."""
    try:
        return jax.devices("cpu")[0]
    except RuntimeError:
        return None


def recurrence(cell: str, params: Any, zs: Any, valid: Any, resets: Any) -> Any:
    """Returns the outputs of a recurrence from zeros, from the inputs' part of every step, ``[T, B, G, H]``."""
    state = [jnp.zeros_like(zs[0, :, 0])] * (2 if cell.startswith("LSTM") else 1)
    outputs = []
    for z, takes, fresh in zip(zs, valid, resets):
        start = [jnp.where(fresh, 0.0, part) for part in state]
        r = jnp.tensordot(start[0], params.w_h, 1)
        new = GATES[cell](params, start, jnp.moveaxis(z, 1, 0), jnp.moveaxis(r, 1, 0))
        state = [jnp.where(takes, *pair) for pair in zip(new, state)]
        outputs.append(jnp.where(takes, state[0], 0.0))
    return jnp.stack(outputs)


def _sigmoid(a: Any) -> Any:
    return 0.5 * (1 + jnp.tanh(a / 2))


def _basic(params: Any, state: Any, z: Any, r: Any) -> tuple[Any, ...]:
    return (jnp.tanh(z[0] + r[0]),)


def _lstm(params: Any, state: Any, z: Any, r: Any) -> tuple[Any, ...]:
    i, f, g, o = z + r
    p_i, p_f, p_o = (0, 0, 0) if params.peephole is None else params.peephole
    c = _sigmoid(f + p_f * state[1]) * state[1] + _sigmoid(i + p_i * state[1]) * jnp.tanh(g)
    return _sigmoid(o + p_o * c) * jnp.tanh(c), c


def _gru(params: Any, state: Any, z: Any, r: Any) -> tuple[Any, ...]:
    reset, update = _sigmoid(z[0] + r[0]), _sigmoid(z[1] + r[1])
    return ((1 - update) * jnp.tanh(z[2] + reset * (r[2] + params.b_hn)) + update * state[0],)


def _own(params: Any, state: Any, z: Any, r: Any) -> tuple[Any, ...]:
    forget = _sigmoid(z[0] + r[0])
    return ((1 - forget) * state[0] + forget * jnp.tanh(z[1] + forget * r[1]),)


GATES: dict[str, Callable[..., tuple[Any, ...]]] = {
    "BasicRNN": _basic,
    "LSTM": _lstm,
    "LSTM+peephole": _lstm,
    "GRU": _gru,
    "own": _own,
}
