"""The network that a training step is measured with: recurrent layers, a dense layer on the last output, Adam."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import rnnjax
from benchmarks.command import at_least_one
from rnnjax.data.dataset import DataSet
from rnnjax.models import SequenceClassifier
from rnnjax.tasks.task import Task

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


def shape(text: str) -> tuple[int, ...]:
    """Returns the four sizes of a case, for `argparse`."""
    sizes = tuple(at_least_one(part) for part in text.split(","))
    if len(sizes) != 4:
        raise argparse.ArgumentTypeError(f"expected T,B,I,H, got {text!r}")
    return sizes


def recurrent_layers(case: Case) -> Any:
    """Returns this library's cell, or a stack of such cells."""
    cell = getattr(rnnjax, case.cell)(case.H)
    return cell if case.layers == 1 else rnnjax.Stack((cell,) * case.layers)


def classifier(case: Case) -> tuple[SequenceClassifier, Task]:
    """Returns this library's model and its task, of which every split is the same batch of `xs` and `labels`."""
    model = SequenceClassifier(recurrent_layers(case), CLASSES)

    class Classifier(Task):
        def init(self, key: Any) -> Any:
            return model.init(key, jnp.zeros((1, case.T, case.I)))

        def loss(self, params: Any, carry: None, batch: Any, key: Any) -> Any:
            return {"loss": cross_entropy(model.apply(params, batch["xs"]), batch["labels"])}, carry

    xs, labels = case.inputs()
    splits = {name: {"xs": xs, "labels": labels} for name in ("train", "validation", "test")}
    return model, Classifier(None, DataSet("", splits, "", ""))


def cross_entropy(logits: Any, labels: Any) -> Any:
    """Returns the loss of every example."""
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels)


def plain_step(logits: Callable[[Any, Any], Any]) -> Callable[[Any, Any], tuple[Any, Any]]:
    """Returns a step of Adam as JAX's users write it, from a state and ``(xs, labels)`` to the next state and the loss.

    The state is the parameters, of which ``logits(params, xs)`` makes logits, and that of `optax.adam`.
    """

    def step(state: Any, batch: Any) -> tuple[Any, Any]:
        params, opt_state = state
        xs, labels = batch
        value, gradients = jax.value_and_grad(lambda params: cross_entropy(logits(params, xs), labels).mean())(params)
        updates, opt_state = optax.adam(LEARNING_RATE).update(gradients, opt_state, params)
        return (optax.apply_updates(params, updates), opt_state), value

    return step


def plain_state(params: Any) -> Any:
    """Returns the state before the first `plain_step`, whose memory is its own."""
    return jax.tree.map(jnp.copy, (params, optax.adam(LEARNING_RATE).init(params)))


def repeated(step: Callable[..., tuple[Any, Any]], state: Any, *batch: Any) -> Callable[[], Any]:
    """Returns a call that takes a step, compiled, from the state that the call before it left, which is donated."""
    compiled = jax.jit(step, donate_argnums=0)

    def call() -> Any:
        nonlocal state
        state, made = compiled(state, *batch)
        return made

    return call
