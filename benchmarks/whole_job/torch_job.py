"""The job of `configs/mnist.py` written for PyTorch, as a process that `benchmarks.whole_job` times.

It reads the original files, trains on the same 55,000 images in shuffled batches, the odd last one left out, evaluates
on the 5,000 of validation after every epoch, tests at the end, and prints its figures as one line of JSON. It does not
import JAX, which such a job would not wait for.
"""

from __future__ import annotations

import gzip
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.pytorch import Classifier, torch_module, train_epoch

VALIDATION_SIZE = 5000


def main(kind: str, hidden: int, layers: int, learning_rate: float, batch_size: int, epochs: int, data: str) -> None:
    """Runs the job.

    Args:
      kind: of the cell.
      hidden, layers: its units, and how many of it.
      learning_rate, batch_size, epochs: of the training.
      data: folder of the four original files.
    """
    torch_module().manual_seed(0)
    folder = Path(data)
    images, labels = read(folder, "train", 16), read(folder, "train", 8).long()
    train, validation = (slice(VALIDATION_SIZE, None), slice(VALIDATION_SIZE))
    model = Classifier(kind, (28, hidden, layers, 10), learning_rate)
    seconds = steps = 0
    measured = {}
    for _ in range(epochs):
        began = time.perf_counter()
        steps += train_epoch(model, images[train], labels[train], batch_size)
        seconds += time.perf_counter() - began
        measured["validation"] = accuracy(model, images[validation], labels[validation])
    measured["test"] = accuracy(model, read(folder, "t10k", 16), read(folder, "t10k", 8).long())
    print(json.dumps({"step_seconds": seconds / steps, **measured}))


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
    main(**json.loads(sys.argv[1]))
