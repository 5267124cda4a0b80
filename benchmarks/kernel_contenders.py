"""The contenders of `benchmarks.kernels`: each is made ready for a case, in the layout that suits it.

Sequences are time-major but for `jax.experimental.rnn`, which takes the batch first. Several heads are `jax.vmap` over
one, the heads' axis before all others.
"""

# The libraries that are compared with need not be installed.
# pyright: reportMissingImports=false, reportMissingModuleSource=false

from __future__ import annotations

import functools
import importlib.util
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from benchmarks.kernel_cases import Case, Numbers, case_parameters, cell_params
from benchmarks.kernel_reference import Result
from rnnjax import CuDNN, Fused, LSTMParams, Method, Pallas, Recurrence, Scan, Steps, unroll


class Refused(Exception):
    """A contender cannot take part in a case; the message says why."""


class Ready(NamedTuple):
    """A contender that is ready to run a case.

    Attributes:
      sample: ``sample(seed, None)`` makes random inputs and a gradient of the outputs; with `Numbers` in the place of
        None both begin with them, and the gradient is zero after them.
      forward: makes outputs of a sample; does not wait for them.
      both: makes outputs and all gradients; does not wait for them.
      wait: waits for what one of them made.
      read: returns what `both` made of a sample that begins with `Numbers`.
      read_outputs: returns the outputs' head of what `forward` made.
      build_seconds: time it took to become ready.
    """

    sample: Callable[[int, Numbers | None], Any]
    forward: Callable[[Any], Any]
    both: Callable[[Any], Any]
    wait: Callable[[Any], Any]
    read: Callable[[Any], Result]
    read_outputs: Callable[[Any], np.ndarray]
    build_seconds: float


class Layer(NamedTuple):
    """A layer in JAX.

    Attributes:
      function: makes outputs of ``(params, inputs)``.
      pack: makes params of a case's parameters.
      unpack: makes a case's parameters of params, or of their gradients.
      batch_first: whether sequences are ``[B, T, ...]``.
      options: of the compiler, by XLA's names.
    """

    function: Callable[[Any, Array], Array]
    pack: Callable[[dict[str, Any]], Any]
    unpack: Callable[[Any], dict[str, Any]]
    batch_first: bool = False
    options: dict[str, Any] | None = None


class Layout(NamedTuple):
    """Where a contender has the axes of a case's sequences."""

    case: Case
    batch_first: bool

    @property
    def time_axis(self) -> int:
        """Which axis is that of time."""
        return 1 if self.batch_first or (not self.case.projected and self.case.heads > 1) else 0

    def head(self) -> tuple[slice, ...]:
        """Returns the index of the steps that are computed again."""
        return (*[slice(None)] * self.time_axis, slice(self.case.head))

    def tail(self) -> tuple[slice, ...]:
        """Returns the index of the steps after them."""
        return (*[slice(None)] * self.time_axis, slice(self.case.head, None))

    def to(self, values: Any) -> Any:
        """Returns sequences of the case in this layout."""
        if self.case.projected:
            return values.swapaxes(0, 1) if self.batch_first else values
        return values if self.case.heads > 1 else values[0]

    def back(self, values: Any) -> np.ndarray:
        """Returns the inverse of `to`, in NumPy and float64."""
        values = np.asarray(values).astype(np.float64)
        if self.case.projected:
            return values.swapaxes(0, 1) if self.batch_first else values
        return values if self.case.heads > 1 else values[None]


def jax_ready(case: Case, numbers: Numbers, layer: Layer) -> Ready:
    """Compiles a layer for a case, forward and with its gradients."""
    start, layout = time.perf_counter(), Layout(case, layer.batch_first)
    dtype = jnp.dtype(case.dtype)
    params = layer.pack({name: jnp.asarray(values, dtype) for name, values in numbers.parameters.items()})
    inputs = jax.eval_shape(lambda: layout.to(jnp.zeros(case.input_shape(case.T), dtype)))
    outputs = jax.eval_shape(layer.function, params, inputs)

    def both(params: Any, inputs: Array, d_outputs: Array) -> Any:
        outputs, pull_back = jax.vjp(layer.function, params, inputs)
        return outputs, pull_back(d_outputs)

    run_forward = compiled(layer.function, layer.options, params, inputs)
    run_both = compiled(both, layer.options, params, inputs, outputs)

    def sample(seed: int, begin: Numbers | None) -> Any:
        xs, d_ys = noise(inputs.shape, inputs.dtype, seed), noise(outputs.shape, outputs.dtype, seed + 1)
        if begin is not None:
            xs = xs.at[layout.head()].set(jnp.asarray(layout.to(begin.inputs), xs.dtype))
            d_ys = jnp.zeros_like(d_ys).at[layout.head()].set(jnp.asarray(layout.to(begin.d_outputs), d_ys.dtype))
        return xs, d_ys

    def read(made: Any) -> Result:
        ys, (d_params, d_xs) = made
        check_tail(bool(jnp.isfinite(ys).all()), bool((d_xs[layout.tail()] == 0).all()))
        d_parameters = {name: np.asarray(d).astype(np.float64) for name, d in layer.unpack(d_params).items()}
        return Result(read_outputs(ys), layout.back(d_xs[layout.head()]), d_parameters)

    def read_outputs(ys: Any) -> np.ndarray:
        return layout.back(ys[layout.head()])

    return Ready(
        sample,
        lambda sample: run_forward(params, sample[0]),
        lambda sample: run_both(params, *sample),
        jax.block_until_ready,
        read,
        read_outputs,
        time.perf_counter() - start,
    )


def compiled(function: Callable[..., Any], options: dict[str, Any] | None, *arguments: Any) -> Callable[..., Any]:
    """Returns a function compiled for some arguments."""
    return jax.jit(function).lower(*arguments).compile(compiler_options=options)


@functools.lru_cache(maxsize=16)
def noise(shape: tuple[int, ...], dtype: Any, seed: int) -> Array:
    """Returns normal random numbers on the device, the same array again while it is kept."""
    return jax.random.normal(jax.random.key(seed), shape, dtype)


def check_tail(finite: bool, nothing: bool) -> None:
    """Raises unless all outputs are finite, and inputs after the last gradient have none."""
    if not finite:
        raise ValueError("its outputs are not finite")
    if not nothing:
        raise ValueError("inputs after the last output with a gradient have a gradient")


def rnnjax_ready(method: Callable[[], Method], options: dict[str, Any] | None, case: Case, numbers: Numbers) -> Ready:
    """Makes ready this library, with one way of unrolling."""
    cell, way, several = case.kind.make(case.H), method(), case.heads > 1

    def projected(params: Any, xs: Array) -> Array:
        return unroll(cell, params, xs, method=way, time_major=True)[0]

    def precomputed(params: Any, zs: Array) -> Array:
        state = cell.initial_state(case.B, zs.dtype)
        return way.serve(Recurrence(cell, params, state, None, Steps(zs, None, None)))[0]

    def pack(parameters: dict[str, Any]) -> Any:
        return cell_params(case, parameters if several else {name: each[0] for name, each in parameters.items()})

    def unpack(params: Any) -> dict[str, Any]:
        parameters = case_parameters(case, params)
        return parameters if several else {name: each[None] for name, each in parameters.items()}

    function = projected if case.projected else jax.vmap(precomputed) if several else precomputed
    return jax_ready(case, numbers, Layer(function, pack, unpack, options=options))


def pallas() -> Pallas:
    """Returns `Pallas`, whose kernels are interpreted on a CPU."""
    return Pallas(interpret=jax.default_backend() == "cpu")


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


def torch_ready(name: str | None, case: Case, numbers: Numbers) -> Ready:
    """Makes ready PyTorch's `nn.LSTM`, `nn.GRU` or `nn.RNN`, on a GPU cuDNN's; `name` is that of a type, if not the
    case's."""
    refuse_unless(importlib.util.find_spec("torch") is not None, "torch is not installed")
    import torch

    start, layout, device = time.perf_counter(), Layout(case, False), torch_device()
    kinds = {"BasicRNN": torch.nn.RNN, "LSTM": torch.nn.LSTM, "GRU": torch.nn.GRU}
    refuse_unless(case.cell in kinds, "it has no such cell")
    refuse_unless(case.projected, "it projects the inputs itself")
    dtype, size, gates = getattr(torch, name or case.dtype), case.H, case.kind.gates
    module = kinds[case.cell](size, size).to(device, dtype)
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


def torch_device() -> str:
    """Returns PyTorch's name of the device that JAX is on."""
    import torch

    if jax.default_backend() != "gpu":
        return "cpu"
    refuse_unless(torch.cuda.is_available(), "this PyTorch has no GPU")
    return "cuda"


def refuse_unless(holds: bool, reason: str) -> None:
    """Raises `Refused` unless something holds."""
    if not holds:
        raise Refused(reason)


LOOPS: dict[str, Callable[[], Method]] = {
    "scan": Scan,
    "scan(4)": lambda: Scan(unroll=4),
    "scan(16)": lambda: Scan(unroll=16),
    "fused": Fused,
}
KERNELS: dict[str, Callable[[], Method]] = {"pallas": pallas, "cudnn": CuDNN}
# For one program, unlike for a process, XLA takes no "+WHILE": these are its defaults, and WHILE.
_CAPTURED = "FUSION,CUBLAS,CUBLASLT,CUDNN,CUSTOM_CALL,DYNAMIC_SLICE_FUSION,CONDITIONAL,WHILE"
_WHILE = {"xla_gpu_enable_command_buffer": _CAPTURED}
FLAGS: dict[str, dict[str, Any]] = {
    "while": _WHILE,
    "double": {"xla_gpu_enable_while_loop_double_buffering": True},
    "graph": _WHILE | {"xla_gpu_command_buffer_unroll_loops": True},
}


def _contenders() -> dict[str, Callable[[Case, Numbers], Ready]]:
    found: dict[str, Callable[[Case, Numbers], Ready]] = {
        name: functools.partial(rnnjax_ready, loop, None) for name, loop in LOOPS.items()
    }
    for flag, options in FLAGS.items():
        found |= {f"{name} {flag}": functools.partial(rnnjax_ready, loop, options) for name, loop in LOOPS.items()}
    found |= {name: functools.partial(rnnjax_ready, kernel, None) for name, kernel in KERNELS.items()}
    return found | {
        "jax.rnn": jax_rnn_ready,
        "flax": flax_ready,
        "torch": functools.partial(torch_ready, None),
        "torch fp16": functools.partial(torch_ready, "float16"),
    }


CONTENDERS = _contenders()
