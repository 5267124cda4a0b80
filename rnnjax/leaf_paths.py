"""The paths by which the leaves of a pytree, such as parameters, are named, and patterns of them."""

from __future__ import annotations

import re
from typing import Any

import jax


def by_path(tree: Any) -> dict[str, Any]:
    """Returns the leaves of a pytree by their paths, such as ``params.rnn.w_h``."""
    return {path_of(keys): leaf for keys, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def path_of(keys: Any) -> str:
    """Returns the path of a leaf from its keys in the pytree."""
    return jax.tree_util.keystr(keys, simple=True, separator=".")


def in_model(path: str) -> str:
    """Returns the path of a parameter without Flax's collection of all parameters: ``rnn.w_h``."""
    return path.removeprefix("params.")


def matches(pattern: str, path: str) -> bool:
    """Says whether a regular expression matches the whole path of a parameter; an empty one matches none."""
    return bool(pattern) and re.fullmatch(pattern, path) is not None


def is_pattern(text: str) -> bool:
    """Says whether a text is a regular expression."""
    try:
        re.compile(text)
    except re.error:
        return False
    return True
