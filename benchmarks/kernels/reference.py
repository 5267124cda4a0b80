"""Gated cells in NumPy and float64, with their gradients: what every contender of `benchmarks.kernels` must agree with.

Nothing of the library is used. Gates are analytic and pointwise, so their derivatives are those of a complex step: the
imaginary part of ``f(x + i h) / h``, exact in float64 (Squire and Trapp, 1998).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from benchmarks.kernels.cases import Arrays, Case, Numbers

TOLERANCE = {"float32": 5e-3, "bfloat16": 3e-2}  # float32's products may be in TF32
_STEP = 1e-30

Parts = Sequence[Any]  # arrays [B, H], or [H] for parameters, real or complex
Gates = Callable[[Parts, Parts, Parts, Parts], tuple[Any, ...]]


class Result(NamedTuple):
    """Outputs, and the gradients of inputs and parameters, named as in `Numbers`."""

    outputs: np.ndarray
    d_inputs: np.ndarray
    d_parameters: Arrays


def worst(got: Result, expected: Result, **more: np.ndarray) -> tuple[float, str]:
    """Returns the largest relative error of what was computed, and in what it is.

    Args:
      got: what was computed.
      expected: the reference.
      more: other outputs, by the word that tells them from those in `got`.
    """
    pairs = {
        "the outputs": (got.outputs, expected.outputs),
        **{f"the outputs {word} gradients": (outputs, expected.outputs) for word, outputs in more.items()},
        "the gradient of the inputs": (got.d_inputs, expected.d_inputs),
        **{f"the gradient of {name}": (got.d_parameters[name], d) for name, d in expected.d_parameters.items()},
    }
    errors = {name: relative_error(*pair) for name, pair in pairs.items()}
    part = max(errors, key=lambda name: np.nan_to_num(errors[name], nan=np.inf))
    return errors[part], part


def relative_error(got: np.ndarray, expected: np.ndarray) -> float:
    """Returns ``||got - expected|| / ||expected||``."""
    if got.shape != expected.shape:
        raise ValueError(f"it has shape {list(got.shape)} where the reference has {list(expected.shape)}")
    return float(np.linalg.norm(got - expected) / np.linalg.norm(expected))


def compute(case: Case, numbers: Numbers) -> Result:
    """Returns the outputs of the head of a case, and the gradients that ``d_outputs`` gives."""
    heads = [_head(case, numbers, head) for head in range(case.heads)]
    d_parameters = {name: np.stack([found.d_parameters[name] for found in heads]) for name in heads[0].d_parameters}
    if case.projected:
        return heads[0]._replace(d_parameters=d_parameters)
    outputs, d_inputs = (np.stack([getattr(found, name) for found in heads]) for name in ("outputs", "d_inputs"))
    return Result(outputs, d_inputs, d_parameters)


def _head(case: Case, numbers: Numbers, head: int) -> Result:
    parameters = {name: values[head] for name, values in numbers.parameters.items()}
    masks = np.ones((case.head, case.B), bool), np.zeros((case.head, case.B), bool)
    if not case.projected:
        return recurrence(case.cell, parameters, numbers.inputs[head], numbers.d_outputs[head], *masks)
    return projected_recurrence(case.cell, parameters, numbers.inputs, numbers.d_outputs, *masks)


def projected_recurrence(
    cell: str, parameters: Arrays, xs: np.ndarray, d_outputs: np.ndarray, valid: np.ndarray, resets: np.ndarray
) -> Result:
    """Returns the outputs of a recurrence from inputs ``[T, B, I]``, and the gradients, as `recurrence` does.

    Args:
      cell: its name in `GATES`.
      parameters: those of `recurrence`, and ``w_x [I, G, H]`` and ``b [G, H]``.
      xs: the inputs; `d_inputs` is their gradient.
      d_outputs: the gradient of the outputs, ``[T, B, H]``.
      valid: ``[T, B]``, False where a step is missing.
      resets: ``[T, B]``, True where the state is set to zeros before a step.
    """
    w_x = parameters["w_x"]
    zs = np.tensordot(xs, w_x, 1) + parameters["b"]
    outputs, d_zs, gradients = recurrence(cell, parameters, zs, d_outputs, valid, resets)
    gradients |= {"w_x": np.tensordot(xs, d_zs, ((0, 1), (0, 1))), "b": d_zs.sum((0, 1))}
    return Result(outputs, np.tensordot(d_zs, w_x, ((2, 3), (1, 2))), gradients)


def recurrence(
    cell: str,
    parameters: Arrays,
    zs: np.ndarray,
    d_outputs: np.ndarray,
    valid: np.ndarray,
    resets: np.ndarray,
) -> Result:
    """Returns the outputs of a recurrence from zeros, and the gradients that ``d_outputs`` gives.

    Args:
      cell: its name in `GATES`.
      parameters: ``w_h [H, G, H]``, and ``own [K, H]`` where the cell has such.
      zs: the inputs' part of every step, ``[T, B, G, H]``; `d_inputs` is their gradient.
      d_outputs: the gradient of the outputs, ``[T, B, H]``.
      valid: ``[T, B]``, False where a step is missing: its output is zero, and the state stays.
      resets: ``[T, B]``, True where the state is set to zeros before a step that is not missing.
    """
    gates, w_h, own = GATES[cell], parameters["w_h"], parameters.get("own", np.zeros((0, zs.shape[-1])))
    state = [np.zeros(zs[0, :, 0].shape)] * (2 if cell.startswith("LSTM") else 1)
    starts, outputs = [], []
    for z, takes, fresh in zip(zs, valid[..., None], resets[..., None]):
        start = [np.where(fresh & takes, 0.0, part) for part in state]
        starts.append((start, _by_gate(z), _by_gate(np.tensordot(start[0], w_h, 1)), own))
        state = [np.where(takes, new.real, old) for new, old in zip(gates(*starts[-1]), state)]
        outputs.append(np.where(takes, state[0], 0.0))
    d_state, d_zs = [np.zeros_like(part) for part in state], np.zeros_like(zs)
    d_w_h, d_own = np.zeros_like(w_h), np.zeros_like(own)
    for t in reversed(range(len(zs))):
        takes, fresh = valid[t, :, None], resets[t, :, None]
        d_new = [np.where(takes, d, 0.0) for d in (d_state[0] + d_outputs[t], *d_state[1:])]
        d_start, d_z, d_r, d_used = _pulled_back(gates, starts[t], d_new)
        d_zs[t] = np.stack(d_z, 1)
        d_r = np.stack(d_r, 1)
        d_start[0] = d_start[0] + np.tensordot(d_r, w_h, ((1, 2), (1, 2)))
        d_state = [np.where(takes, np.where(fresh, 0.0, new), old) for new, old in zip(d_start, d_state)]
        d_w_h += np.tensordot(starts[t][0][0], d_r, ((0,), (0,)))
        d_own += np.array([used.sum(0) for used in d_used]).reshape(own.shape)
    return Result(np.stack(outputs), d_zs, {"w_h": d_w_h} | ({"own": d_own} if len(own) else {}))


def _by_gate(values: np.ndarray) -> list[np.ndarray]:
    return [values[:, gate] for gate in range(values.shape[1])]


def _pulled_back(gates: Gates, start: Sequence[Parts], d_new: Parts) -> list[list[np.ndarray]]:
    """Returns the gradients of all that gates read, from that of the new state, ``[B, H]`` each."""

    def gradient(group: int, index: int) -> np.ndarray:
        moved = [list(parts) for parts in start]
        moved[group][index] = moved[group][index] + 1j * _STEP
        return np.sum([new.imag / _STEP * d for new, d in zip(gates(*moved), d_new)], 0)

    return [[gradient(group, index) for index in range(len(parts))] for group, parts in enumerate(start)]


def _sigmoid(a: Any) -> Any:
    return 0.5 * (1 + np.tanh(a / 2))


def _basic(state: Parts, z: Parts, r: Parts, own: Parts) -> tuple[Any, ...]:
    return (np.tanh(z[0] + r[0]),)


def _lstm(state: Parts, z: Parts, r: Parts, own: Parts) -> tuple[Any, ...]:
    i, f, g, o = (z_g + r_g for z_g, r_g in zip(z, r))
    p_i, p_f, p_o = own if len(own) else (0, 0, 0)
    c = _sigmoid(f + p_f * state[1]) * state[1] + _sigmoid(i + p_i * state[1]) * np.tanh(g)
    return _sigmoid(o + p_o * c) * np.tanh(c), c


def _gru(state: Parts, z: Parts, r: Parts, own: Parts) -> tuple[Any, ...]:
    reset, update = _sigmoid(z[0] + r[0]), _sigmoid(z[1] + r[1])
    return ((1 - update) * np.tanh(z[2] + reset * (r[2] + own[0])) + update * state[0],)


def _own(state: Parts, z: Parts, r: Parts, own: Parts) -> tuple[Any, ...]:
    forget = _sigmoid(z[0] + r[0])
    return ((1 - forget) * state[0] + forget * np.tanh(z[1] + forget * r[1]),)


GATES: dict[str, Gates] = {"BasicRNN": _basic, "LSTM": _lstm, "LSTM+peephole": _lstm, "GRU": _gru, "own": _own}
