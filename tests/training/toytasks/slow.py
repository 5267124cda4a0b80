"""The toy task with steps, evaluations and scores that take time: TOY_PLACE names which, TOY_SECONDS how long each.

When one begins, its name is a line of standard error. The numbers are the same however long they take.
"""

import dataclasses
import os
import sys
import time

import jax
import numpy as np

from toytasks import sign


@dataclasses.dataclass
class Config(sign.Config):
    task: str = "toytasks.slow"


def take_time(place: str) -> np.float32:
    if os.environ.get("TOY_PLACE") == place:
        print(place, file=sys.stderr, flush=True)
        time.sleep(float(os.environ["TOY_SECONDS"]))
    return np.float32(0)


class Task(sign.Task):
    def loss(self, params, carry, batch, key):
        found, carry = super().loss(params, carry, batch, key)
        place = "training" if key is not None else "evaluation"
        nothing = jax.pure_callback(lambda _: take_time(place), jax.ShapeDtypeStruct((), np.float32), batch["label"][0])
        return found | {"accuracy": found["accuracy"] + nothing}, carry

    def scores(self, params, split):
        return {"score": 1.0 + float(take_time("scores"))}
