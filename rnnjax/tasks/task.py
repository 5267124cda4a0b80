"""What is trained: data, model, loss and metrics."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

from jaxtyping import Array, PRNGKeyArray

from rnnjax.data.dataset import DataSet

Batch = dict[str, Array]
Values = dict[str, Array]


@dataclasses.dataclass(frozen=True)
class Task:
    """A task, as the training loop sees it.

    Attributes:
      data: its data set, with splits `train`, `validation` and `test`.
      init: returns fresh parameters from a PRNG key.
      values: ``(params, carry, batch, key) -> (values, carry)``: one value an example, ``[B]``, for every metric by its
        name; `loss` is what training makes small. `key` is None in evaluation.
      best_metric: the validation metric that says which parameters are the best.
      higher_is_better: whether the best is the highest.
      carry: recurrent state before the first batch; None where each batch starts afresh.
      plots: if given, ``plots(params, directory)`` draws pictures of the trained model into a directory.
    """

    data: DataSet
    init: Callable[[PRNGKeyArray], Any]
    values: Callable[[Any, Any, Batch, PRNGKeyArray | None], tuple[Values, Any]]
    best_metric: str = "accuracy"
    higher_is_better: bool = True
    carry: Any = None
    plots: Callable[[Any, Path], None] | None = None
