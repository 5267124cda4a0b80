"""PyTorch, which need not be installed: its module and device, and the classifier of sequences as its users write it.

Importing this imports no JAX, which a job of PyTorch's alone would not wait for; nor does `rnnjax` stand above.
"""

from __future__ import annotations

import functools
from typing import Any


@functools.cache
def torch_module() -> Any:
    """Returns PyTorch.

    Raises:
      ConfigError: if it is not installed.
    """
    try:
        import torch  # pyright: ignore[reportMissingImports]
    except ImportError:
        from rnnjax.errors import ConfigError

        raise ConfigError('this benchmark needs PyTorch; install it with: pip install "rnnjax[bench]"') from None
    return torch


def torch_device() -> str:
    """Returns PyTorch's name of the device that JAX is on.

    Raises:
      ConfigError: if PyTorch has no such device.
    """
    import jax

    from rnnjax.errors import require

    if jax.default_backend() != "gpu":
        return "cpu"
    require(torch_module().cuda.is_available(), "this PyTorch has no GPU")
    return "cuda"


def recurrent(cell: str) -> Any:
    """Returns PyTorch's module of a cell: `nn.RNN`, `nn.LSTM` or `nn.GRU`."""
    return getattr(torch_module().nn, "RNN" if cell == "BasicRNN" else cell)


class Classifier:
    """Recurrent layers, a dense layer on the last output, cross-entropy and Adam.

    Args:
      cell: "BasicRNN", "LSTM" or "GRU".
      sizes: input features, hidden units, layers and classes.
      learning_rate: of Adam.
      device: PyTorch's name of it.
    """

    def __init__(self, cell: str, sizes: tuple[int, int, int, int], learning_rate: float, device: str = "cpu"):
        torch, (features, hidden, layers, classes) = torch_module(), sizes
        self._layers = recurrent(cell)(features, hidden, layers, batch_first=True).to(device)
        self._dense = torch.nn.Linear(hidden, classes).to(device)
        parameters = [*self._layers.parameters(), *self._dense.parameters()]
        self._optimizer = torch.optim.Adam(parameters, learning_rate)

    def logits(self, xs: Any) -> Any:
        """Returns the logits ``[B, classes]`` of sequences ``[B, T, I]``."""
        return self._dense(self._layers(xs)[0][:, -1])

    def train(self, xs: Any, labels: Any) -> Any:
        """Takes a training step; returns the loss before it."""
        self._optimizer.zero_grad()
        loss = torch_module().nn.functional.cross_entropy(self.logits(xs), labels)
        loss.backward()
        self._optimizer.step()
        return loss


def train_epoch(model: Classifier, images: Any, labels: Any, batch_size: int) -> int:
    """Takes the steps of an epoch of images uint8 ``[N, 28, 28]``, in a new order; returns how many."""
    order = torch_module().randperm(len(images), device=images.device)
    batches = order[: len(images) // batch_size * batch_size].reshape(-1, batch_size)
    for rows in batches:
        loss = model.train(images[rows].float() / 255, labels[rows])
    loss.item()  # waits for the device
    return len(batches)
