"""The job of `configs/mnist.py` written for PyTorch, as a process that `benchmarks.whole_job` times.

It reads the original files, trains on the same 55,000 images in shuffled batches, the odd last one left out, evaluates
on the 5,000 of validation after every epoch, tests at the end, and prints its figures as one line of JSON. It does not
import JAX, which such a job would not wait for.
"""

from __future__ import annotations

import argparse
import gzip
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.pytorch import Classifier, torch_module, train_epoch

VALIDATION_SIZE = 5000


def main(arguments: Sequence[str]) -> None:
    """Runs the job with the arguments after its name."""
    options = parse(arguments)
    torch_module().manual_seed(options.seed)
    images, labels = read(options.data, "train", 16), read(options.data, "train", 8).long()
    train, validation = (slice(VALIDATION_SIZE, None), slice(VALIDATION_SIZE))
    model = Classifier(options.kind, (28, options.hidden_size, options.layers, 10), options.learning_rate)
    seconds = steps = 0
    measured = {}
    for _ in range(options.epochs):
        began = time.perf_counter()
        steps += train_epoch(model, images[train], labels[train], options.batch_size)
        seconds += time.perf_counter() - began
        measured["validation"] = accuracy(model, images[validation], labels[validation])
    measured["test"] = accuracy(model, read(options.data, "t10k", 16), read(options.data, "t10k", 8).long())
    print(json.dumps({"step_seconds": seconds / steps, **measured}))


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Returns the job's options."""
    parser = argparse.ArgumentParser("python -m benchmarks.whole_job.torch_job", description=__doc__)
    parser.add_argument("--kind", choices=["BasicRNN", "LSTM", "GRU"], default="BasicRNN")
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--data", type=Path, required=True, help="folder of the four original files")
    for name, size in {"hidden-size": 150, "layers": 1, "batch-size": 150, "epochs": 5, "seed": 0}.items():
        parser.add_argument(f"--{name}", type=int, default=size)
    return parser.parse_args(arguments)


def read(folder: Path, part: str, header: int) -> Any:
    """Returns the images (header of 16 bytes) or labels (8) of the files "train" or "t10k"."""
    name = f"{part}-images-idx3-ubyte.gz" if header == 16 else f"{part}-labels-idx1-ubyte.gz"
    values = np.frombuffer(bytearray(gzip.decompress((folder / name).read_bytes())), np.uint8, offset=header)
    return torch_module().from_numpy(values.reshape(-1, 28, 28) if header == 16 else values)


def accuracy(model: Classifier, images: Any, labels: Any) -> float:
    """Returns the share of images whose class the model finds, in batches of 1,000."""
    with torch_module().inference_mode():
        parts = zip(images.split(1000), labels.split(1000))
        right = sum((model.logits(part.float() / 255).argmax(-1) == truth).sum() for part, truth in parts)
    return int(right) / len(labels)


if __name__ == "__main__":
    main(sys.argv[1:])
