"""The digest of a checkpoint's item, by which it is seen that nothing of it has changed."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils


def digest(about: dict[str, Any], item: Any) -> str:
    """Returns the SHA-256 of what a checkpoint states about itself and of all arrays of one of its items."""
    content = {name: value for name, value in about.items() if name != "sha256"}
    found = hashlib.sha256(json.dumps(content, sort_keys=True).encode())
    for leaf in jax.tree.leaves(item):
        if jax.numpy.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            leaf = jax.random.key_data(leaf)
        values = _whole_array(leaf)
        # The same bytes may be another array.
        found.update(f"{values.dtype} {values.shape}".encode())
        found.update(values.tobytes())
    return found.hexdigest()


def _whole_array(leaf: Any) -> np.ndarray:
    """Returns an array's values, gathered from all processes if each has only a part; then all must call this."""
    if isinstance(leaf, np.ndarray) or leaf.is_fully_addressable or leaf.is_fully_replicated:
        return np.asarray(leaf)
    return multihost_utils.process_allgather(leaf, tiled=True)
