"""The contenders of `benchmarks.kernels`: this library by each of its methods, and others', which need not be there.

Sweeps name them for cases that they have: others project the inputs themselves, and Flax takes part by its LSTM.
"""

# pyright: reportMissingImports=false, reportMissingModuleSource=false

from __future__ import annotations

import functools
import os
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from benchmarks.kernels.cases import Case, Numbers
from benchmarks.kernels.ready import Ready, check_tail, jax_ready
from benchmarks.kernels.reference import Result
from benchmarks.pytorch import recurrent, torch_device, torch_module
from benchmarks.subjects import METHODS, on_this_device
from rnnjax import Method, Recurrence, Steps, unroll


def rnnjax_ready(method: Method, case: Case, given: Numbers) -> Ready:
    """Makes ready this library, with one way of unrolling."""
    cell, way = case.make(), on_this_device(method)

    def projected(params: Any, xs: Array) -> Array:
        return unroll(cell, params, xs, method=way, time_major=True)[0]

    def precomputed(params: Any, zs: Array) -> Array:
        state = cell.initial_state(case.B, zs.dtype)
        return way.serve(Recurrence(cell, params, state, None, Steps(zs, None, None)))[0]

    function = projected if case.projected else precomputed
    return jax_ready(case, given, jax.vmap(function) if case.heads > 1 else function)


def flax_ready(case: Case, given: Numbers) -> Ready:
    """Makes ready Flax Linen's `nn.RNN`, which is a scan."""
    import flax.linen as nn

    model: Any = nn.RNN(nn.OptimizedLSTMCell(case.H, dtype=jnp.dtype(case.dtype)), time_major=True)

    def pack(params: Any) -> Any:
        inputs = {f"i{gate}": {"kernel": params.w_x[:, k]} for k, gate in enumerate("ifgo")}
        hidden = {f"h{gate}": {"kernel": params.w_h[:, k], "bias": params.b[k]} for k, gate in enumerate("ifgo")}
        return {"params": {"cell": inputs | hidden}}

    return jax_ready(case, given, model.apply, pack)


def keras_ready(case: Case, given: Numbers) -> Ready:
    """Makes ready Keras's layers on JAX, by their stateless calls."""
    os.environ.setdefault("KERAS_BACKEND", "jax")
    import keras

    options = {"return_sequences": True, "recurrent_initializer": "zeros", "dtype": case.dtype}
    layer = getattr(keras.layers, "SimpleRNN" if case.cell == "BasicRNN" else case.cell)(case.H, **options)
    layer.build((case.B, case.T, case.H))
    rest = [variable.value for variable in layer.non_trainable_variables]

    def pack(params: Any) -> list[Array]:
        order = np.array([1, 0, 2] if case.cell == "GRU" else range(params.b.shape[0]))  # update before reset
        w_x, w_h = (w[:, order].reshape(case.H, -1) for w in (params.w_x, params.w_h))
        b = params.b[order].reshape(-1)
        if case.cell == "GRU":
            b = jnp.stack([b, jnp.zeros_like(b).at[2 * case.H :].set(params.b_hn)])
        return [w_x, w_h, b]

    def function(weights: Any, xs: Array) -> Any:
        return layer.stateless_call(weights, rest, xs)[0]

    return jax_ready(case, given, function, pack, batch_first=True)


def torch_ready(name: str | None, case: Case, given: Numbers) -> Ready:
    """Makes ready PyTorch's `nn.LSTM`, `nn.GRU` or `nn.RNN`, on a GPU cuDNN's; `name` is that of a type, if not the
    case's."""
    start, torch, device, size = time.perf_counter(), torch_module(), torch_device(), case.H
    dtype = getattr(torch, name or case.dtype)
    module = recurrent(case.cell)(size, size).to(device, dtype)
    weights = [module.weight_ih_l0, module.weight_hh_l0, module.bias_ih_l0, module.bias_hh_l0]

    def tensor(values: Any) -> Any:
        return torch.from_numpy(np.array(values, np.float32)).to(device, dtype)

    def array(values: Any) -> np.ndarray:
        return values.detach().float().cpu().numpy()

    def pack(params: Any) -> list[Array]:
        second = jnp.zeros_like(params.b)
        if case.cell == "GRU":
            second = second.at[2].set(params.b_hn)
        rows = [jnp.moveaxis(w, 0, -1).reshape(-1, size) for w in (params.w_x, params.w_h)]
        return [*rows, params.b.ravel(), second.ravel()]

    packed, unpack = jax.vjp(pack, jax.tree.map(lambda values: jnp.asarray(values, jnp.float32), given.params))
    with torch.no_grad():
        for weight, values in zip(weights, packed):
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
        check_tail(bool(torch.isfinite(ys).all()), bool((d_xs[case.head :] == 0).all()))
        return Result(read_outputs(ys), array(d_xs[: case.head]), *unpack([jnp.asarray(array(d)) for d in d_weights]))

    def read_outputs(ys: Any) -> np.ndarray:
        return array(ys[: case.head])

    def wait(made: Any) -> None:
        if device == "cuda":
            torch.cuda.synchronize()

    return Ready(sample, forward, both, wait, read, read_outputs, time.perf_counter() - start)


CONTENDERS: dict[str, Callable[[Case, Numbers], Ready]] = {
    **{name: functools.partial(rnnjax_ready, method) for name, method in METHODS.items()},
    "flax": flax_ready,
    "keras": keras_ready,
    "torch": functools.partial(torch_ready, None),
    "torch fp16": functools.partial(torch_ready, "float16"),
}
