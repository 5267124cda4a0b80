"""The contenders of `benchmarks.kernels` that are other libraries', which need not be installed."""

# pyright: reportMissingImports=false, reportMissingModuleSource=false

from __future__ import annotations

import importlib.util
import os
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from benchmarks.kernels.cases import Case, Numbers
from benchmarks.kernels.ready import Layer, Layout, Ready, check_tail, jax_ready, refuse_unless
from benchmarks.kernels.reference import Result
from benchmarks.pytorch import recurrent, torch_device
from benchmarks.subjects import CELLS
from rnnjax import LSTMParams


def jax_rnn_ready(case: Case, numbers: Numbers) -> Ready:
    """Makes ready `jax.experimental.rnn`, JAX's own binding of cuDNN, as its users call it."""
    from jax.experimental import rnn

    from rnnjax.unrolling.kernels.cudnn import flat_weights

    refuse_unless(case.cell == "LSTM", "it has the plain LSTM only")
    refuse_unless(case.projected, "it projects the inputs itself")
    refuse_unless(case.dtype == "float32", "it has float32 only")
    refuse_unless(jax.default_backend() == "gpu", "it needs an NVIDIA GPU")
    sizes = (case.H, case.H, 1, False)

    def function(weights: Array, xs: Array) -> Array:
        zeros, lengths = jnp.zeros((1, case.B, case.H)), jnp.full(case.B, case.T, jnp.int32)
        outputs: Any = rnn.lstm(xs, zeros, zeros, weights, lengths, case.H, case.H, 1, 0.0, False)
        return outputs[0]

    def pack(parameters: dict[str, Any]) -> Array:
        return flat_weights(LSTMParams(*(parameters[name][0] for name in ("w_x", "w_h", "b"))))

    def unpack(weights: Any) -> dict[str, Any]:
        parts: Any = rnn.unpack_lstm_weights(weights, *sizes)
        w_x, w_h, b, _ = (part[0].reshape(4, case.H, -1) for part in parts)
        return {"w_x": jnp.moveaxis(w_x, -1, 0)[None], "w_h": jnp.moveaxis(w_h, -1, 0)[None], "b": b[None, ..., 0]}

    return jax_ready(case, numbers, Layer(function, pack, unpack, batch_first=True))


def flax_ready(case: Case, numbers: Numbers) -> Ready:
    """Makes ready Flax Linen's `nn.RNN`, which is a scan."""
    refuse_unless(importlib.util.find_spec("flax") is not None, "flax is not installed")
    import flax.linen as nn

    refuse_unless(case.cell == "LSTM", "only its LSTM is measured")
    refuse_unless(case.projected, "it projects the inputs itself")
    model = nn.RNN(nn.OptimizedLSTMCell(case.H, dtype=jnp.dtype(case.dtype)), time_major=True)

    def pack(parameters: dict[str, Any]) -> Any:
        w_x, w_h, b = (parameters[name][0] for name in ("w_x", "w_h", "b"))
        inputs = {f"i{gate}": {"kernel": w_x[:, k]} for k, gate in enumerate("ifgo")}
        hidden = {f"h{gate}": {"kernel": w_h[:, k], "bias": b[k]} for k, gate in enumerate("ifgo")}
        return {"params": {"cell": inputs | hidden}}

    def unpack(params: Any) -> dict[str, Any]:
        dense = params["params"]["cell"]
        stacked = {
            "w_x": [dense[f"i{gate}"]["kernel"] for gate in "ifgo"],
            "w_h": [dense[f"h{gate}"]["kernel"] for gate in "ifgo"],
        }
        b = jnp.stack([dense[f"h{gate}"]["bias"] for gate in "ifgo"])
        return {name: jnp.stack(parts, 1)[None] for name, parts in stacked.items()} | {"b": b[None]}

    def function(params: Any, xs: Array) -> Array:
        ys: Any = model.apply(params, xs)
        return ys

    return jax_ready(case, numbers, Layer(function, pack, unpack))


def keras_ready(case: Case, numbers: Numbers) -> Ready:
    """Makes ready Keras's layers on JAX, by their stateless calls."""
    refuse_unless(importlib.util.find_spec("keras") is not None, "keras is not installed")
    os.environ.setdefault("KERAS_BACKEND", "jax")
    import keras

    refuse_unless(case.cell in CELLS, "it has no such cell")
    refuse_unless(case.projected, "it projects the inputs itself")
    options = {"return_sequences": True, "recurrent_initializer": "zeros", "dtype": case.dtype}
    layer = getattr(keras.layers, "SimpleRNN" if case.cell == "BasicRNN" else case.cell)(case.H, **options)
    layer.build((case.B, case.T, case.H))
    order = np.array([1, 0, 2] if case.cell == "GRU" else range(case.kind.gates))  # update before reset, and back
    rest = [variable.value for variable in layer.non_trainable_variables]

    def pack(parameters: dict[str, Any]) -> list[Array]:
        w_x, w_h = (parameters[name][0][:, order].reshape(case.H, -1) for name in ("w_x", "w_h"))
        b = parameters["b"][0][order].reshape(-1)
        if case.cell == "GRU":
            b = jnp.stack([b, jnp.zeros_like(b).at[2 * case.H :].set(parameters["own"][0, 0])])
        return [w_x, w_h, b]

    def unpack(weights: list[Array]) -> dict[str, Any]:
        w_x, w_h, b = weights
        found: dict[str, Any] = {
            name: w.reshape(case.H, -1, case.H)[:, order][None] for name, w in (("w_x", w_x), ("w_h", w_h))
        }
        if case.cell == "GRU":
            found["own"], b = b[1, None, None, 2 * case.H :], b[0]
        return found | {"b": b.reshape(-1, case.H)[order][None]}

    def function(weights: Any, xs: Array) -> Array:
        ys: Any = layer.stateless_call(weights, rest, xs)[0]
        return ys

    return jax_ready(case, numbers, Layer(function, pack, unpack, batch_first=True))


def torch_ready(name: str | None, case: Case, numbers: Numbers) -> Ready:
    """Makes ready PyTorch's `nn.LSTM`, `nn.GRU` or `nn.RNN`, on a GPU cuDNN's; `name` is that of a type, if not the
    case's."""
    refuse_unless(importlib.util.find_spec("torch") is not None, "torch is not installed")
    import torch

    start, layout, device = time.perf_counter(), Layout(case, False), torch_device()
    refuse_unless(case.cell in CELLS, "it has no such cell")
    refuse_unless(case.projected, "it projects the inputs itself")
    dtype, size, gates = getattr(torch, name or case.dtype), case.H, case.kind.gates
    module = recurrent(case.cell)(size, size).to(device, dtype)
    weights = [module.weight_ih_l0, module.weight_hh_l0, module.bias_ih_l0, module.bias_hh_l0]

    def tensor(values: np.ndarray) -> Any:
        return torch.from_numpy(np.ascontiguousarray(values, np.float32)).to(device, dtype)

    def array(values: Any) -> np.ndarray:
        return values.detach().double().cpu().numpy()

    w_x, w_h, b = (numbers.parameters[name][0] for name in ("w_x", "w_h", "b"))
    second = np.zeros_like(b)
    if case.cell == "GRU":
        second[2] = numbers.parameters["own"][0, 0]
    rows = (np.moveaxis(w_x, 0, -1).reshape(-1, size), np.moveaxis(w_h, 0, -1).reshape(-1, size), b.ravel())
    with torch.no_grad():
        for weight, values in zip(weights, (*rows, second.ravel())):
            weight.copy_(tensor(values))

    def sample(seed: int, begin: Numbers | None) -> Any:
        torch.manual_seed(seed)
        xs, d_ys = (torch.randn(case.T, case.B, size, device=device, dtype=dtype) for _ in range(2))
        if begin is not None:
            xs[: case.head] = tensor(begin.inputs)
            d_ys.zero_()[: case.head] = tensor(begin.d_outputs)
        return xs.requires_grad_(), d_ys

    def forward(sample: Any) -> Any:
        with torch.no_grad():
            return module(sample[0])[0]

    def both(sample: Any) -> Any:
        ys = module(sample[0])[0]
        return ys.detach(), torch.autograd.grad(ys, [sample[0], *weights], sample[1])

    def read(made: Any) -> Result:
        ys, (d_xs, *d_weights) = made
        check_tail(bool(torch.isfinite(ys).all()), bool((d_xs[layout.tail()] == 0).all()))
        d_w_x, d_w_h, d_b, d_second = (array(d).reshape(gates, size, -1) for d in d_weights)
        d_parameters = {"w_x": np.moveaxis(d_w_x, -1, 0)[None], "w_h": np.moveaxis(d_w_h, -1, 0)[None]}
        d_parameters["b"] = d_b[None, ..., 0]
        if case.cell == "GRU":
            d_parameters["own"] = d_second[None, 2:, :, 0]
        return Result(read_outputs(ys), array(d_xs[: case.head]), d_parameters)

    def read_outputs(ys: Any) -> np.ndarray:
        return array(ys[: case.head])

    def wait(made: Any) -> None:
        if device == "cuda":
            torch.cuda.synchronize()

    return Ready(sample, forward, both, wait, read, read_outputs, time.perf_counter() - start)
