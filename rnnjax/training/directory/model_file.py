"""What a run keeps in `model.json`, so that its model can be opened without its data and compared with another."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax

from rnnjax.files import is_object
from rnnjax.leaf_paths import by_path, in_model
from rnnjax.tasks.task import Field, Kept, Task

_DIGEST = "sha256"
_FORMAT = 1  # of the file; a later one is raised with every change that this version could not read
_MOST_SHOWN = 4  # parameters in a message

Leaf = tuple[str, tuple[int, ...]]  # dtype and shape of a parameter


class ModelFile(NamedTuple):
    """The content of `model.json`.

    Attributes:
      kept: what the model needs of the data, as `Task.kept`.
      inputs: what the model reads, as `Task.inputs`.
      params: dtype and shape of every parameter, by its path.
    """

    kept: Kept
    inputs: Mapping[str, Field]
    params: Mapping[str, Leaf]

    def as_json(self) -> dict[str, Any]:
        """Returns the content as an object to be written to a file, with its digest."""
        content = {"format": _FORMAT, **self._asdict()}
        return content | {_DIGEST: _digest(content)}


def model_file(task: Task) -> ModelFile:
    """Returns what a run of a task keeps."""
    return ModelFile(task.kept, task.inputs, leaves_by_path(shapes(task)))


def model_from_json(value: Any) -> ModelFile | None:
    """Returns the content that `ModelFile.as_json` wrote; None if the value is not one, or has changed since."""
    if not is_object(value) or value.get("format") != _FORMAT:
        return None
    digest = _digest({name: part for name, part in value.items() if name != _DIGEST})
    if value.get(_DIGEST, digest) != digest:  # the first runs that kept such a file had none
        return None
    try:
        inputs = {name: Field(tuple(shape), *rest) for name, (shape, *rest) in value["inputs"].items()}
        params = {path: (dtype, tuple(shape)) for path, (dtype, shape) in value["params"].items()}
        return ModelFile(dict(value["kept"]), inputs, params)
    except (LookupError, TypeError, ValueError, AttributeError):
        return None


def _digest(content: Mapping[str, Any]) -> str:
    """Returns the SHA-256 of an object, whose fields are read back in the order in which they were written."""
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def shapes(task: Task) -> Any:
    """Returns the parameters of a task as shapes and dtypes; none are made."""
    return jax.eval_shape(task.init, jax.random.key(0))


def parameter_count(params: Any) -> int:
    """Returns how many numbers there are in parameters, or in their shapes."""
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params))


def model_size(params: Any, frozen: str) -> str:
    """Returns a phrase for the log: how many parameters there are, and how many of them the config freezes.

    Args:
      params: the parameters, or their shapes.
      frozen: as `TrainConfig.frozen`.
    """
    paths = {in_model(path): leaf for path, leaf in by_path(params).items()}
    left = parameter_count([leaf for path, leaf in paths.items() if frozen and re.fullmatch(frozen, path)])
    return f"{parameter_count(params):,} parameters" + (f" ({left:,} of them frozen)" if left else "")


def leaves_by_path(params: Any) -> dict[str, Leaf]:
    """Returns dtype and shape of every parameter by its path, such as ``recurrent.rnn.w_h``."""
    return {in_model(path): (str(leaf.dtype), tuple(leaf.shape)) for path, leaf in by_path(params).items()}


def difference(there: Mapping[str, Leaf], here: Mapping[str, Leaf]) -> str | None:
    """Returns a phrase about the parameters in which two models differ; None if they do not."""
    both = [path for path in there if path in here and there[path] != here[path]]
    phrases = [f"{path} is {_shape(there[path])} there and {_shape(here[path])} here" for path in both]
    for where, one, other in (("there", there, here), ("here", here, there)):
        alone = [path for path in one if path not in other]
        phrases += [f"only {where}: {_first(alone, ', ')}"] if alone else []
    return _first(phrases, "; ") or None


def _first(texts: Sequence[str], between: str) -> str:
    """Returns the first of some texts, with dots behind them if there are more."""
    return between.join([*texts[:_MOST_SHOWN], *(["..."] if len(texts) > _MOST_SHOWN else [])])


def _shape(leaf: Leaf) -> str:
    dtype, shape = leaf
    return f"{dtype} {list(shape)}"
