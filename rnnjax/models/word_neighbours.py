"""Which words have similar vectors."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int


def unit_vectors(vectors: Float[np.ndarray, "V D"]) -> Float[np.ndarray, "V D"]:
    """Returns the vectors with length one; zeros stay zeros."""
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)


def nearest(
    vectors: Float[np.ndarray, "V D"], query: Float[np.ndarray, " D"], count: int, without: Sequence[int] = ()
) -> tuple[Int[np.ndarray, " count"], Float[np.ndarray, " count"]]:
    """Returns the places of the `count` vectors that are most like the query, and their cosines, the best first."""
    cosines = unit_vectors(vectors) @ (query / max(float(np.linalg.norm(query)), 1e-12))
    order = np.argsort(-cosines, kind="stable")
    best = order[~np.isin(order, without)][:count]
    return best, cosines[best]


def class_precision(
    vectors: Float[np.ndarray, "V D"], words: Sequence[str], classes: Sequence[Sequence[str]]
) -> float | None:
    """Returns, over the words of all classes, the mean share of a word's nearest words that are of its class.

    As many nearest words are taken as there are others in the class, so that 1 is perfect. Words that have no vector
    are left out; None where no class has three words.
    """
    place = {word: i for i, word in enumerate(words)}
    shares = []
    for names in classes:
        members = [place[name] for name in names if name in place]
        if len(members) < 3:
            continue
        for member in members:
            found, _ = nearest(vectors, vectors[member], len(members) - 1, [member])
            shares.append(np.isin(found, members).mean())
    return float(np.mean(shares)) if shares else None


def principal_plane(vectors: Float[np.ndarray, "V D"]) -> Float[np.ndarray, "V 2"]:
    """Returns the vectors projected on the two directions in which they differ most (principal components)."""
    centred = vectors - vectors.mean(0)
    _, _, directions = np.linalg.svd(centred, full_matrices=False)
    return centred @ directions[:2].T
