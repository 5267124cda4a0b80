"""What every loader in this package returns: named splits of arrays, with their source."""

import dataclasses
import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from rnnjax.errors import DataError

Arrays = Mapping[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class DataSet:
    """A data set held in memory.

    Attributes:
      name: short name, such as `"mnist"`.
      splits: split name -> field name -> array; all fields of a split have the same leading axis. To be read only.
      source: a phrase that says where the data came from, for the log and `summary.json`.
      checksum: hex digest of the content, independent of the source.
      kept: what a model needs to know of it, such as its vocabulary: values that JSON can hold.
      raw: what the arrays were made of, where whole splits are scored by that, such as sentences.
    """

    name: str
    splits: Mapping[str, Arrays]
    source: str
    checksum: str
    kept: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    raw: Any = None


class _NoSplits(dict):
    def __missing__(self, split: str) -> Arrays:
        raise DataError(f"there is no {split} split, since a run is opened without its data: use what `kept` has of it")


NO_DATA = DataSet("none", _NoSplits(), "no data", "")


def content_checksum(splits: Mapping[str, Arrays]) -> str:
    """Returns the SHA-256 of all splits: names, dtypes, shapes and values, independent of the order of names."""
    digest = hashlib.sha256()
    for split, fields in sorted(splits.items()):
        for field, values in sorted(fields.items()):
            # Little-endian, so that the digest does not depend on the machine.
            values = np.ascontiguousarray(values, dtype=values.dtype.newbyteorder("<"))
            digest.update(f"{split}/{field} {values.dtype.str} {values.shape}\n".encode())
            digest.update(values.data)
    return digest.hexdigest()
