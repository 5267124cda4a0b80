"""Whether the first feature of a sequence sums to more than zero: learnable, with every part of a real task."""

import dataclasses
import os

import jax.numpy as jnp
import numpy as np
import optax

from rnnjax.config import TrainConfig, build_cell
from rnnjax.data.dataset import DataSet, content_checksum
from rnnjax.models import SequenceClassifier
from rnnjax.tasks.task import Task


@dataclasses.dataclass
class Config(TrainConfig):
    task: str = "toytasks.sign"
    examples: int = 67
    length: int = 4


def build(config: Config) -> Task:
    rng = np.random.default_rng(int(os.environ.get("SIGN_DATA", "0")))

    def split(examples: int) -> dict[str, np.ndarray]:
        x = rng.normal(size=(examples, config.length, 3)).astype(np.float32)
        return {"x": x, "label": (x[:, :, 0].sum(1) > 0).astype(np.int32)}

    splits = {"train": split(config.examples), "validation": split(21), "test": split(10)}
    data = DataSet("sign", splits, "made in the test", content_checksum(splits))
    model = SequenceClassifier(build_cell(config.cell), 2, jnp.dtype(config.dtype))

    def values(params, carry, batch, key):
        rngs = None if key is None else {"dropout": key}
        logits = model.apply(params, batch["x"], rngs=rngs, deterministic=key is None)
        loss = optax.softmax_cross_entropy_with_integer_labels(logits, batch["label"])
        return {"loss": loss, "accuracy": (logits.argmax(-1) == batch["label"]).astype(jnp.float32)}, carry

    def generate(params, request):
        """Says what was asked for, then each line of the standard input as it comes, and draws a picture."""
        yield f"{request.prompt} {request.length} {request.temperature} {request.top_k} {request.top_p}"
        yield f"{request.seed} {request.beam_size} {request.n_best} {len(params['params'])}"
        if request.plots is not None:
            (request.plots / "picture.png").write_bytes(b"")
        for line in request.lines:
            yield line.upper()

    return Task(data, lambda key: model.init(key, jnp.zeros((1, config.length, 3))), values, generate=generate)
