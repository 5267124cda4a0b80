"""The same classifier in each library: recurrent layers, a dense layer on the last output, cross-entropy, Adam.

A contender is made of a `Case` and gives two calls: one training step, and the logits of a batch. Each is what a user
of that library would write, compiled as the library does it; JAX's give the memory of their state back (donation).
"""

# The libraries that are compared with need not be installed.
# pyright: reportMissingImports=false, reportMissingModuleSource=false

from __future__ import annotations

import functools
import importlib.util
import os
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import NamedSharding, PartitionSpec

import rnnjax
from benchmarks import engine, timing
from benchmarks.classifier import (
    CLASSES,
    LEARNING_RATE,
    Case,
    classifier,
    plain_state,
    plain_step,
    recurrent_layers,
    repeated,
)
from benchmarks.pytorch import Classifier, torch_module
from rnnjax.config import TrainConfig
from rnnjax.parallel.mesh import BATCH, batch_mesh, device_counts


class Calls(NamedTuple):
    """What is timed; each call returns what to wait for. `train` takes so many steps."""

    train: Callable[[], Any]
    infer: Callable[[], Any]
    steps: int = 1
    train_devices: int = 1
    infer_devices: int = 1


STEPS = 8  # in a compiled call of rnnjax, which has an epoch's in the training command


def rnnjax_calls(case: Case) -> Calls:
    """This library's training as its command does it: several steps in a call, on the fastest number of devices.

    Inference is on the number of devices that is the faster for it.
    """
    model, task = classifier(case)
    config, optimizer = TrainConfig(batch_size=case.B), optax.adam(LEARNING_RATE)
    devices = engine.fastest_devices(task, config, optimizer)
    params, xs = task.init(jax.random.key(0)), case.inputs()[0]

    def predictor(devices: int) -> Callable[[], Any]:
        if devices == 1:
            return functools.partial(jax.jit(model.apply), params, jnp.asarray(xs))
        mesh, split, everywhere = batch_mesh(str(devices), case.B), PartitionSpec(BATCH), PartitionSpec()
        predict = jax.shard_map(model.apply, mesh=mesh, in_specs=(everywhere, split), out_specs=split)
        placed = [jax.device_put(each, NamedSharding(mesh, to)) for each, to in ((params, everywhere), (xs, split))]
        return functools.partial(jax.jit(predict), *placed)

    predictors = {count: predictor(count) for count in device_counts("auto", case.B)}
    quickest = min(predictors, key=lambda count: timing.usual(predictors[count]))
    train = engine.batch_call(task, config, optimizer, devices, STEPS)
    return Calls(train, predictors[quickest], STEPS, devices, quickest)


def _jax_calls(case: Case, params: Any, outputs: Callable[[Any, Any], Any]) -> Calls:
    """Calls for a JAX library's ``outputs(params, xs) -> [B, T, H]``."""
    xs, labels = map(jnp.asarray, case.inputs())
    params = {"layers": params, "w": jnp.full((case.H, CLASSES), 0.01), "b": jnp.zeros(CLASSES)}

    def logits(params: Any, xs: Any) -> Any:
        return outputs(params["layers"], xs)[:, -1] @ params["w"] + params["b"]

    train = repeated(plain_step(logits), plain_state(params), (xs, labels))
    return Calls(train, functools.partial(jax.jit(logits), params, xs))


def plain_calls(case: Case) -> Calls:
    """This library as others are used here: `unroll` in a jit of the user's own, one device, one step in a call."""
    cell = recurrent_layers(case)
    params = cell.init(jax.random.key(0), case.I)
    return _jax_calls(case, params, lambda params, xs: rnnjax.unroll(cell, params, xs)[0])


def tuned_calls(case: Case) -> Calls:
    """Plain use after `rnnjax.tune` for the same cell and sizes."""
    rnnjax.tune(recurrent_layers(case), (case.T, case.B, case.I))
    return plain_calls(case)


def linen_calls(case: Case) -> Calls:
    """Flax Linen's `nn.RNN`."""
    import flax.linen as nn

    kind = {"BasicRNN": nn.SimpleCell, "LSTM": nn.OptimizedLSTMCell, "GRU": nn.GRUCell}[case.cell]
    model = nn.Sequential([nn.RNN(kind(case.H)) for _ in range(case.layers)])
    params = model.init(jax.random.key(0), jnp.zeros((1, case.T, case.I)))
    return _jax_calls(case, params, model.apply)


def nnx_calls(case: Case) -> Calls:
    """Flax NNX's `nnx.RNN`."""
    from flax import nnx

    kind = {"BasicRNN": nnx.SimpleCell, "LSTM": nnx.OptimizedLSTMCell, "GRU": nnx.GRUCell}[case.cell]
    rngs = nnx.Rngs(0)
    model = nnx.Sequential(*(nnx.RNN(kind(size, case.H, rngs=rngs), rngs=rngs) for size in case.sizes))
    graph, params, rest = nnx.split(model, nnx.Param, ...)
    return _jax_calls(case, params, lambda params, xs: nnx.merge(graph, params, rest, copy=True)(xs))


def haiku_calls(case: Case) -> Calls:
    """Haiku's `dynamic_unroll`."""
    import haiku as hk

    kind = {"BasicRNN": hk.VanillaRNN, "LSTM": hk.LSTM, "GRU": hk.GRU}[case.cell]

    def forward(xs: Any) -> Any:
        for _ in range(case.layers):
            core = kind(case.H)
            xs, _ = hk.dynamic_unroll(core, xs, core.initial_state(xs.shape[0]), time_major=False)
        return xs

    model = hk.without_apply_rng(hk.transform(forward))
    return _jax_calls(case, model.init(jax.random.key(0), jnp.zeros((1, case.T, case.I))), model.apply)


def equinox_calls(case: Case) -> Calls:
    """Equinox's cells over one sequence by `lax.scan`, and `vmap` over the batch."""
    import equinox as eqx

    kind = {"LSTM": eqx.nn.LSTMCell, "GRU": eqx.nn.GRUCell}[case.cell]
    keys = jax.random.split(jax.random.key(0), case.layers)
    layers = [kind(size, case.H, key=key) for size, key in zip(case.sizes, keys)]
    params, static = eqx.partition(layers, eqx.is_array)
    zeros = jnp.zeros(case.H)
    start = (zeros, zeros) if case.cell == "LSTM" else zeros

    def sequence(params: Any, xs: Any) -> Any:
        for layer in eqx.combine(params, static):

            def step(state: Any, x: Any, layer: Any = layer) -> Any:
                state = layer(x, state)
                return state, state[0] if case.cell == "LSTM" else state

            _, xs = jax.lax.scan(step, start, xs)
        return xs

    return _jax_calls(case, params, jax.vmap(sequence, in_axes=(None, 0)))


def keras_calls(case: Case) -> Calls:
    """Keras's layers on JAX, by their stateless calls."""
    os.environ["KERAS_BACKEND"] = "jax"
    import keras

    kind = getattr(keras.layers, "SimpleRNN" if case.cell == "BasicRNN" else case.cell)
    model = keras.Sequential([kind(case.H, return_sequences=True) for _ in range(case.layers)])
    model.build((None, case.T, case.I))
    rest = [variable.value for variable in model.non_trainable_variables]
    params = [variable.value for variable in model.trainable_variables]
    return _jax_calls(case, params, lambda params, xs: model.stateless_call(params, rest, xs)[0])


def torch_calls(case: Case) -> Calls:
    """PyTorch's `nn.RNN`, `nn.LSTM` or `nn.GRU` with all cores."""
    torch = torch_module()
    model = Classifier(case.cell, (case.I, case.H, case.layers, CLASSES), LEARNING_RATE)
    arrays = case.inputs()
    xs, labels = torch.from_numpy(arrays[0]), torch.from_numpy(arrays[1]).long()

    def infer() -> Any:
        with torch.inference_mode():
            return model.logits(xs).numpy()

    return Calls(lambda: model.train(xs, labels).item(), infer)


CONTENDERS: dict[str, Callable[[Case], Calls]] = {
    "rnnjax": rnnjax_calls,
    "linen": linen_calls,
    "nnx": nnx_calls,
    "haiku": haiku_calls,
    "equinox": equinox_calls,
    "keras": keras_calls,
    "torch": torch_calls,
}
USES: dict[str, Callable[[Case], Calls]] = {"command": rnnjax_calls, "plain": plain_calls, "tuned": tuned_calls}
"""This library's contender, by the use of it that is measured."""

_PACKAGES = {"haiku": "haiku", "equinox": "equinox", "keras": "keras", "torch": "torch"}


def missing_package(name: str, case: Case) -> str | None:
    """Returns why a contender cannot take part in a case; None if it can."""
    package = _PACKAGES.get(name)
    if package is not None and importlib.util.find_spec(package) is None:
        return f"{package} is not installed"
    if name == "equinox" and case.cell == "BasicRNN":
        return "equinox has no basic cell"
    return None
