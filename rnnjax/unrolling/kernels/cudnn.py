"""The plain LSTM by NVIDIA's cuDNN, as `jax.experimental.rnn` binds it: one call for a whole sequence.

The binding supports float32 only (its products are in TensorFloat-32 unless JAX's precision is set to "highest"), and
waits for the device at every call. It is used for one layer in one direction at a time: every unrolling method is given
a `Stack` layer by layer, and `bidirectional` direction by direction. The binding has a rule for `jax.grad`, once, but
none for `jax.vmap` or `jax.jvp`.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import rnn
from jaxtyping import Array, Float, Int

from rnnjax.cells.blocks import heads_of, in_blocks
from rnnjax.cells.lstm import LSTMParams, LSTMState
from rnnjax.cells.traits import is_lstm
from rnnjax.unrolling.instead import methods_for
from rnnjax.unrolling.kernels.precision import exact_products
from rnnjax.unrolling.recurrence import Method, Recurrence
from rnnjax.unrolling.selecting import select
from rnnjax.unrolling.varying import vary, varying_axes

_EXTRAS = ("peephole", "projection_size", "cell_clip", "coupled_gates", "layer_norm")
_PLAIN = {"use_bias": True, "activation": "tanh", "gate_activation": "sigmoid"}


@dataclasses.dataclass(frozen=True)
class CuDNN(Method):
    """The plain LSTM in float32 by NVIDIA's cuDNN: one call for a whole sequence.

    `jax.grad` applies once; `jax.vmap` and `jax.jvp` do not.

    Raises:
      ValueError: when it runs, for any other recurrence, or without an NVIDIA GPU.
    """

    def why_not(self, recurrence: Recurrence) -> str | None:
        cell, steps = recurrence.cell, recurrence.steps
        if not is_lstm(cell):
            return f"cuDNN runs the plain LSTM only, got {type(cell).__name__}; use {methods_for(cell)}"
        extras = [name for name in _EXTRAS if getattr(cell, name) not in (None, False)]
        others = {name: getattr(cell, name) for name in _PLAIN}
        extras += [f"{name}={value!r}" for name, value in others.items() if value != _PLAIN[name]]
        if extras:
            return f"cuDNN runs the plain LSTM only, got one with {', '.join(extras)}; use Fused() or Scan()"
        weight = recurrence.params.w_h
        if in_blocks(weight):
            return f"cuDNN runs the plain LSTM only, got one in {heads_of(weight)} heads; use Fused() or Scan()"
        if steps.resets is not None:
            return "cuDNN cannot reset the state within a sequence; use Fused() or Scan(), or leave out resets"
        if recurrence.gaps:
            return "cuDNN cannot skip steps within a sequence; use Fused() or Scan(), or pass lengths instead of a mask"
        if recurrence.xs is None:
            return "cuDNN projects the inputs itself, but they are already projected here; use Fused() or Scan()"
        unsupported = _types_but_float32(recurrence)
        if unsupported:
            types = ", ".join(unsupported)
            return f"JAX's binding of cuDNN supports float32 only, got {types}; convert it, or use Fused() or Scan()"
        return _unsuited_device()

    def run(self, recurrence: Recurrence) -> tuple[Float[Array, "T *B H"], LSTMState]:
        """Returns the outputs and the final state of a recurrence for which `why_not` returned None.

        The valid steps of a sequence must come first, as `rnnjax.unroll` arranges them; outputs at the other steps are
        undefined.
        """
        xs, valid, first = recurrence.xs, recurrence.steps.valid, recurrence.state
        assert xs is not None
        length, *batch, size = xs.shape
        # `why_not` refused gaps, so the valid steps come first and their number says which they are.
        lengths = jnp.full(batch, length) if valid is None else valid.sum(0)
        # cuDNN fails for sequences of no steps (https://github.com/jax-ml/jax/issues/17966): they take one, whose
        # state is then discarded.
        at_least_one = jnp.maximum(lengths.reshape(-1), 1).astype(jnp.int32)
        arguments = (
            jnp.moveaxis(xs.reshape(length, -1, size), 0, 1),  # [B, T, I], all batch axes as one
            first.h.reshape(1, -1, first.h.shape[-1]),  # [layers, B, H], with one layer
            first.c.reshape(1, -1, first.c.shape[-1]),
            flat_weights(recurrence.params),
            at_least_one,
        )
        # All varying alike: the gradient of the weights varies as the inputs do, and has to have their type.
        ys, h, c = _layer(*vary(arguments, varying_axes(arguments)))
        last = LSTMState(h.reshape(first.h.shape), c.reshape(first.c.shape))
        # Valid steps come first, so a sequence whose first step is not valid has none.
        last = last if valid is None else select(valid[0], last, first)
        return jnp.moveaxis(ys, 1, 0).reshape(length, *batch, -1), last  # [B, T, H] as [T, *batch, H]


def _types_but_float32(recurrence: Recurrence) -> list[str]:
    """Returns the names of all types other than float32 among the recurrence's arrays."""
    arrays = jax.tree.leaves((recurrence.xs, recurrence.params, recurrence.state, recurrence.steps.z))
    return sorted({str(array.dtype) for array in arrays} - {"float32"})


def _unsuited_device() -> str | None:
    """Returns in one sentence why cuDNN cannot run on this machine; None if it can."""
    if jax.default_backend() != "gpu":
        return f"cuDNN needs an NVIDIA GPU, but JAX runs on {jax.default_backend()}; use Fused() or Scan()"
    # AMD's GPUs are "gpu" to JAX too.
    if "rocm" in jax.devices()[0].client.platform_version.lower():
        return "cuDNN needs an NVIDIA GPU, but JAX runs on ROCm; use Fused() or Scan()"
    if not hasattr(getattr(rnn, "gpu_rnn", None), "compute_rnn_workspace_reserve_space_sizes"):
        return 'this JAX was built without cuDNN; install it with: pip install "rnnjax[cuda]"'
    return None


def flat_weights(params: LSTMParams) -> Float[Array, " N"]:
    """Returns an LSTM's parameters as cuDNN stores them: W_x, W_h, the bias, and a second bias, which is zero.

    The order of the gates is i, f, g, o on both sides; cuDNN's matrices have a row for every unit of every gate.
    """
    assert params.b is not None
    w_x, w_h = jnp.moveaxis(params.w_x, 0, -1), jnp.moveaxis(params.w_h, 0, -1)  # [I, G, H] as [G, H, I]
    parts = (w_x, w_h, params.b, jnp.zeros_like(params.b))
    return jnp.concatenate([part.ravel() for part in parts])


@jax.custom_vjp
def _layer(
    xs: Float[Array, "B T I"],
    h: Float[Array, "1 B H"],
    c: Float[Array, "1 B H"],
    weights: Float[Array, " N"],
    lengths: Int[Array, " B"],
) -> tuple[Float[Array, "B T H"], Float[Array, "1 B H"], Float[Array, "1 B H"]]:
    """Returns cuDNN's outputs and final states.

    The binding has a derivative, but declares no axes of a mesh over which its outputs vary, as `jax.shard_map` needs.
    """
    return _forward(xs, h, c, weights, lengths)[0]


def _forward(xs: Array, h: Array, c: Array, weights: Array, lengths: Array) -> tuple[Any, Any]:
    outputs, residuals = rnn.lstm_fwd(xs, h, c, weights, lengths, **_settings(xs, h))
    return vary(outputs, varying_axes(xs)), residuals


def _backward(residuals: Any, d_outputs: Any) -> tuple[Any, ...]:
    xs, h, *_ = residuals
    *gradients, _ = rnn.lstm_bwd(**_settings(xs, h), residuals=residuals, gradients=d_outputs)
    return *gradients, None  # lengths have none


_layer.defvjp(_forward, _backward)


def _settings(xs: Array, h: Array) -> dict[str, Any]:
    return {
        "input_size": xs.shape[-1],
        "hidden_size": h.shape[-1],
        "num_layers": 1,
        "dropout": 0.0,
        "bidirectional": False,
        "precision": jax.lax.Precision.HIGHEST if exact_products() else jax.lax.Precision.HIGH,
    }
