"""The likeliest of many, as a line of text."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from jaxtyping import Float


def likeliest(logits: Float[np.ndarray, " V"], n: int, name: Callable[[int], str]) -> str:
    """Returns the names of the n likeliest with their probabilities, parted by tabs; of equal ones, the first."""
    scores = np.exp(logits - logits.max())
    best = np.argsort(-scores, kind="stable")[:n]
    return "\t".join(f"{name(int(each))} {scores[each] / scores.sum():.4f}" for each in best)
