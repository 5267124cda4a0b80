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
import numpy as np
import optax
from jax.sharding import PartitionSpec

from benchmarks import timing

CLASSES, LEARNING_RATE = 10, 1e-3


class Case(NamedTuple):
    """A network and its inputs: cell "BasicRNN", "LSTM" or "GRU", layers, steps, batch, input and hidden size."""

    cell: str
    layers: int
    T: int
    B: int
    I: int
    H: int

    @property
    def gates(self) -> int:
        """Number of gates of the cell."""
        return {"BasicRNN": 1, "LSTM": 4, "GRU": 3}[self.cell]

    @property
    def sizes(self) -> list[int]:
        """Input size of every layer."""
        return [self.I] + [self.H] * (self.layers - 1)

    @property
    def forward_flops(self) -> int:
        """Floating-point operations of the recurrent layers' products; training takes three times as many."""
        return sum(2 * self.T * self.B * (size + self.H) * self.gates * self.H for size in self.sizes)

    def inputs(self) -> tuple[np.ndarray, np.ndarray]:
        """Returns sequences ``[B, T, I]`` and labels ``[B]``."""
        rng = np.random.default_rng(0)
        xs = rng.standard_normal((self.B, self.T, self.I), np.float32)
        return xs, rng.integers(0, CLASSES, self.B).astype(np.int32)


class Calls(NamedTuple):
    """What is timed; each call returns what to wait for. `train` takes so many steps."""

    train: Callable[[], Any]
    infer: Callable[[], Any]
    steps: int = 1
    train_devices: int = 1
    infer_devices: int = 1


STEPS = 8  # in a compiled call of rnnjax, which has an epoch's in the training command


def recurrent_layers(case: Case) -> Any:
    """Returns this library's cell, or a stack of such cells."""
    import rnnjax

    cell = getattr(rnnjax, case.cell)(case.H)
    return cell if case.layers == 1 else rnnjax.Stack((cell,) * case.layers)


def classifier(case: Case) -> tuple[Any, Any]:
    """Returns this library's model and its task, whose training data are one batch of `xs` and `labels`."""
    from rnnjax.data.dataset import DataSet
    from rnnjax.models import SequenceClassifier
    from rnnjax.tasks.task import Task

    model = SequenceClassifier(recurrent_layers(case), CLASSES)

    class Classifier(Task):
        def init(self, key: Any) -> Any:
            return model.init(key, jnp.zeros((1, case.T, case.I)))

        def loss(self, params: Any, carry: None, batch: Any, key: Any) -> Any:
            logits: Any = model.apply(params, batch["xs"])
            return {"loss": optax.softmax_cross_entropy_with_integer_labels(logits, batch["labels"])}, carry

    xs, labels = case.inputs()
    data = DataSet("", {"train": {"xs": xs, "labels": labels}}, "", "")
    return model, Classifier(None, data)


def rnnjax_calls(case: Case) -> Calls:
    """This library's training as its command does it: several steps in a call, on the fastest number of devices.

    Inference is on the number of devices that is the faster for it.
    """
    from rnnjax.config import TrainConfig
    from rnnjax.parallel.mesh import BATCH, batch_mesh, device_counts
    from rnnjax.training.batches import place
    from rnnjax.training.choice import Choice
    from rnnjax.training.state import initial_train_state
    from rnnjax.training.step_seconds import step_seconds, steps_call

    model, task = classifier(case)
    config, optimizer = TrainConfig(batch_size=case.B), optax.adam(LEARNING_RATE)
    seconds = step_seconds(task, config, optimizer, [Choice(count) for count in device_counts("auto", case.B)])
    choice = min(seconds, key=seconds.__getitem__)
    params, xs = task.init(jax.random.key(0)), case.inputs()[0]

    def predictor(devices: int) -> Callable[[], Any]:
        if devices == 1:
            return functools.partial(jax.jit(model.apply), params, jnp.asarray(xs))
        mesh, split, everywhere = batch_mesh(str(devices), case.B), PartitionSpec(BATCH), PartitionSpec()
        predict = jax.shard_map(model.apply, mesh=mesh, in_specs=(everywhere, split), out_specs=split)
        return functools.partial(jax.jit(predict), place(mesh, everywhere, params), place(mesh, split, xs))

    predictors = {count: predictor(count) for count in device_counts("auto", case.B)}
    quickest = min(predictors, key=lambda count: timing.usual(predictors[count]))
    state = initial_train_state(task, optimizer)(config.seed)
    train = steps_call(task, config, optimizer, state, choice, STEPS)
    return Calls(train, predictors[quickest], STEPS, choice.devices, quickest)


def repeated(step: Callable[[Any, Any], tuple[Any, Any]], state: Any, batch: Any) -> Callable[[], Any]:
    """Returns a call that takes one step from the state that the call before it left."""

    def call() -> Any:
        nonlocal state
        state, metrics = step(state, batch)
        return metrics

    return call


def _jax_calls(case: Case, params: Any, outputs: Callable[[Any, Any], Any]) -> Calls:
    """Calls for a JAX library's ``outputs(params, xs) -> [B, T, H]``."""
    optimizer = optax.adam(LEARNING_RATE)
    xs, labels = map(jnp.asarray, case.inputs())
    params = {"layers": params, "w": jnp.full((case.H, CLASSES), 0.01), "b": jnp.zeros(CLASSES)}

    def logits(params: Any, xs: Any) -> Any:
        return outputs(params["layers"], xs)[:, -1] @ params["w"] + params["b"]

    def loss(params: Any, batch: Any) -> Any:
        xs, labels = batch
        return optax.softmax_cross_entropy_with_integer_labels(logits(params, xs), labels).mean()

    def step(state: Any, batch: Any) -> Any:
        params, opt_state = state
        value, gradients = jax.value_and_grad(loss)(params, batch)
        updates, opt_state = optimizer.update(gradients, opt_state, params)
        return (optax.apply_updates(params, updates), opt_state), value

    state = jax.tree.map(jnp.copy, (params, optimizer.init(params)))
    return Calls(
        repeated(jax.jit(step, donate_argnums=0), state, (xs, labels)),
        functools.partial(jax.jit(logits), params, xs),
    )


def plain_calls(case: Case) -> Calls:
    """This library as others are used here: `unroll` in a jit of the user's own, one device, one step in a call."""
    import rnnjax

    cell = recurrent_layers(case)
    params = cell.init(jax.random.key(0), case.I)
    return _jax_calls(case, params, lambda params, xs: rnnjax.unroll(cell, params, xs)[0])


def tuned_calls(case: Case) -> Calls:
    """Plain use after `rnnjax.tune` for the same cell and sizes."""
    import rnnjax

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

    kind = {"BasicRNN": keras.layers.SimpleRNN, "LSTM": keras.layers.LSTM, "GRU": keras.layers.GRU}[case.cell]
    model = keras.Sequential([kind(case.H, return_sequences=True) for _ in range(case.layers)])
    model.build((None, case.T, case.I))
    rest = [variable.value for variable in model.non_trainable_variables]
    params = [variable.value for variable in model.trainable_variables]
    return _jax_calls(case, params, lambda params, xs: model.stateless_call(params, rest, xs)[0])


def torch_calls(case: Case) -> Calls:
    """PyTorch's `nn.RNN`, `nn.LSTM` or `nn.GRU` with all cores."""
    import torch

    kind = {"BasicRNN": torch.nn.RNN, "LSTM": torch.nn.LSTM, "GRU": torch.nn.GRU}[case.cell]
    layers, dense = kind(case.I, case.H, case.layers, batch_first=True), torch.nn.Linear(case.H, CLASSES)
    optimizer = torch.optim.Adam([*layers.parameters(), *dense.parameters()], LEARNING_RATE)
    arrays = case.inputs()
    xs, labels = torch.from_numpy(arrays[0]), torch.from_numpy(arrays[1]).long()

    def train() -> Any:
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(dense(layers(xs)[0][:, -1]), labels)
        loss.backward()
        optimizer.step()
        return loss.item()

    def infer() -> Any:
        with torch.inference_mode():
            return dense(layers(xs)[0][:, -1]).numpy()

    return Calls(train, infer)


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
