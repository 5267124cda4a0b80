"""The contenders of `benchmarks.kernels`: this library by each of its methods, and others'."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
from jaxtyping import Array

from benchmarks.kernels.cases import Case, Numbers, case_parameters, cell_params
from benchmarks.kernels.libraries import flax_ready, jax_rnn_ready, keras_ready, torch_ready
from benchmarks.kernels.ready import Layer, Ready, jax_ready
from benchmarks.subjects import KERNELS, LOOPS, on_this_device
from rnnjax import Method, Recurrence, Steps, unroll


def rnnjax_ready(method: Method, options: dict[str, Any] | None, case: Case, numbers: Numbers) -> Ready:
    """Makes ready this library, with one way of unrolling."""
    cell, way, several = case.kind.make(case.H), on_this_device(method), case.heads > 1

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
        "keras": keras_ready,
        "torch": functools.partial(torch_ready, None),
        "torch fp16": functools.partial(torch_ready, "float16"),
    }


CONTENDERS = _contenders()
