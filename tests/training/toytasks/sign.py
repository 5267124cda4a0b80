"""Whether the first feature of a sequence sums to more than zero: learnable, with every part of a real task."""

import dataclasses
import os

import jax.numpy as jnp
import numpy as np
import optax

from rnnjax.config import TrainConfig, build_cell
from rnnjax.data.dataset import DataSet, content_checksum
from rnnjax.models import SequenceClassifier
from rnnjax.tasks import task


@dataclasses.dataclass
class Config(TrainConfig):
    task: str = "toytasks.sign"
    examples: int = 67
    length: int = 4


class Task(task.Task):
    def __init__(self, config, data):
        super().__init__(config, data)
        self.model = SequenceClassifier(build_cell(config.cell), 2, jnp.dtype(config.dtype))

    @staticmethod
    def read(config, kept):
        rng = np.random.default_rng(int(os.environ.get("SIGN_DATA", "0")))

        def split(examples: int) -> dict[str, np.ndarray]:
            x = rng.normal(size=(examples, config.length, 3)).astype(np.float32)
            return {"x": x, "label": (x[:, :, 0].sum(1) > 0).astype(np.int32)}

        # Neither of those evaluated fills its batches, and both have as many of them: one program is compiled for both.
        splits = {"train": split(config.examples), "validation": split(21), "test": split(20)}
        return DataSet("sign", splits, "made in the test", content_checksum(splits))

    def init(self, key):
        return self.model.init(key, jnp.zeros((1, self.config.length, 3)))

    def loss(self, params, carry, batch, key):
        logits = self.apply(params, batch["x"], key=key)
        loss = optax.softmax_cross_entropy_with_integer_labels(logits, batch["label"])
        return {"loss": loss, "accuracy": (logits.argmax(-1) == batch["label"]).astype(jnp.float32)}, carry

    def generate(
        self,
        params,
        *,
        prompt=None,
        length=300,
        temperature=1.0,
        top_k=None,
        top_p=None,
        seed=0,
        beam_size=4,
        n_best=1,
        lines=(),
        plots=None,
    ):
        """Says what was asked for, then each line of the standard input as it comes, and draws a picture."""
        yield f"{prompt} {length} {temperature} {top_k} {top_p}"
        yield f"{seed} {beam_size} {n_best} {len(params['params'])}"
        if plots is not None:
            plots.mkdir(exist_ok=True)
            (plots / "picture.png").write_bytes(b"")
        for line in lines:
            yield line.upper()
