"""Which words have similar vectors."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int


def unit_vectors(vectors: Float[np.ndarray, "V D"]) -> Float[np.ndarray, "V D"]:
    """Returns the vectors scaled to length one; zero vectors stay zero."""
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)


def nearest(
    vectors: Float[np.ndarray, "V D"], query: Float[np.ndarray, " D"], count: int, without: Sequence[int] = ()
) -> tuple[Int[np.ndarray, " count"], Float[np.ndarray, " count"]]:
    """Returns the indices and the cosines of the vectors that are most similar to a query, the most similar first.

    Args:
      vectors: the vectors ``[V, D]``.
      query: a vector ``[D]``.
      count: number of vectors to return.
      without: indices of vectors to leave out.
    """
    cosines = unit_vectors(vectors) @ (query / max(float(np.linalg.norm(query)), 1e-12))
    order = np.argsort(-cosines, kind="stable")
    best = order[~np.isin(order, without)][:count]
    return best, cosines[best]


def class_precision(
    vectors: Float[np.ndarray, "V D"], words: Sequence[str], classes: Sequence[Sequence[str]]
) -> float | None:
    """Returns the mean share of a word's nearest words that are of the same class, over the words of all classes.

    The nearest words are as many as there are others in the class, so that 1 is perfect. Words without a vector are
    left out; the result is None if no class has three words.
    """
    indices = {word: i for i, word in enumerate(words)}
    shares = []
    for names in classes:
        members = [indices[name] for name in names if name in indices]
        if len(members) < 3:
            continue
        for member in members:
            neighbours, _ = nearest(vectors, vectors[member], len(members) - 1, [member])
            shares.append(np.isin(neighbours, members).mean())
    return float(np.mean(shares)) if shares else None


def principal_plane(vectors: Float[np.ndarray, "V D"]) -> Float[np.ndarray, "V 2"]:
    """Returns the vectors projected on their first two principal components."""
    centred = vectors - vectors.mean(0)
    _, _, directions = np.linalg.svd(centred, full_matrices=False)
    return centred @ directions[:2].T
