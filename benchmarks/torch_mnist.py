"""The job of `configs/mnist.py` written for PyTorch, as a process that `benchmarks.whole_job` times.

It reads the original files, trains on the same 55,000 images in shuffled batches, the odd last one left out, evaluates
on the 5,000 of validation after every epoch, tests at the end, and prints its figures as one line of JSON. It does not
import JAX, which such a job would not wait for.
"""

import argparse
import gzip
import json
import sys
import time
from pathlib import Path

import numpy as np
import torch  # pyright: ignore[reportMissingImports]

VALIDATION_SIZE = 5000
KINDS = {"BasicRNN": torch.nn.RNN, "LSTM": torch.nn.LSTM, "GRU": torch.nn.GRU}


class Classifier(torch.nn.Module):
    """Recurrent layers over the rows of images, and a dense layer on the last output."""

    def __init__(self, kind, hidden_size, layers):
        super().__init__()
        self.layers = KINDS[kind](28, hidden_size, layers, batch_first=True)
        self.dense = torch.nn.Linear(hidden_size, 10)

    def forward(self, images):
        """Returns the logits [B, 10] of images uint8 [B, 28, 28]."""
        return self.dense(self.layers(images.float() / 255)[0][:, -1])


def main(arguments):
    """Runs the job with the arguments after its name."""
    parser = argparse.ArgumentParser("python -m benchmarks.torch_mnist", description=__doc__)
    parser.add_argument("--kind", choices=KINDS, default="BasicRNN")
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--data", type=Path, required=True, help="folder of the four original files")
    for name, size in {"hidden-size": 150, "layers": 1, "batch-size": 150, "epochs": 5, "seed": 0}.items():
        parser.add_argument(f"--{name}", type=int, default=size)
    options = parser.parse_args(arguments)
    torch.manual_seed(options.seed)
    images, labels = read(options.data, "train", 16), read(options.data, "train", 8).long()
    train, validation = (slice(VALIDATION_SIZE, None), slice(VALIDATION_SIZE))
    model = Classifier(options.kind, options.hidden_size, options.layers)
    optimizer = torch.optim.Adam(model.parameters(), options.learning_rate)
    seconds = steps = 0
    measured = {}
    for _ in range(options.epochs):
        began = time.perf_counter()
        steps += train_epoch(model, optimizer, images[train], labels[train], options.batch_size)
        seconds += time.perf_counter() - began
        measured["validation"] = accuracy(model, images[validation], labels[validation])
    measured["test"] = accuracy(model, read(options.data, "t10k", 16), read(options.data, "t10k", 8).long())
    print(json.dumps({"step_seconds": seconds / steps, **measured}))


def read(folder, part, header):
    """Returns the images (header of 16 bytes) or labels (8) of the files "train" or "t10k"."""
    name = f"{part}-images-idx3-ubyte.gz" if header == 16 else f"{part}-labels-idx1-ubyte.gz"
    values = np.frombuffer(bytearray(gzip.decompress((folder / name).read_bytes())), np.uint8, offset=header)
    return torch.from_numpy(values.reshape(-1, 28, 28) if header == 16 else values)


def train_epoch(model, optimizer, images, labels, batch_size):
    """Takes the steps of an epoch; returns how many."""
    order = torch.randperm(len(images), device=images.device)[: len(images) // batch_size * batch_size].reshape(
        -1, batch_size
    )
    for rows in order:
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(model(images[rows]), labels[rows])
        loss.backward()
        optimizer.step()
    loss.item()
    return len(order)


@torch.inference_mode()
def accuracy(model, images, labels):
    """Returns the share of images whose class the model finds, in batches of 1,000."""
    right = sum((model(part).argmax(-1) == truth).sum() for part, truth in zip(images.split(1000), labels.split(1000)))
    return int(right) / len(labels)


if __name__ == "__main__":
    main(sys.argv[1:])
