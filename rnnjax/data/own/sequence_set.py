"""Labelled sequences of numbers, padded to one length."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

from rnnjax.data.dataset import content_checksum
from rnnjax.errors import DataError
from rnnjax.memory import require_memory

NO_LABEL = ""  # of a step whose label is not known


class SequenceSet(NamedTuple):
    """Sequences with a label each, or one a step.

    Attributes:
      file: where they were read.
      names: of the features.
      ids: of the sequences, as text.
      values: the features, NaN where they are missing and past a sequence's end.
      lengths: steps of each sequence.
      labels: as text, of each sequence or of each of its steps, where `NO_LABEL` stands for none.
      ends: the time of each sequence's last step; None if there are no times.
    """

    file: Path
    names: tuple[str, ...]
    ids: Sequence[str]
    values: Float[np.ndarray, "N T I"]
    lengths: Int[np.ndarray, " N"]
    labels: Shaped[np.ndarray, "N ..."]
    ends: Float[np.ndarray, " N"] | None = None

    def part(self, rows: Int[np.ndarray, " n"]) -> SequenceSet:
        """Returns some of the sequences."""
        ends = None if self.ends is None else self.ends[rows]
        ids = [self.ids[row] for row in rows]
        return self._replace(
            ids=ids, values=self.values[rows], lengths=self.lengths[rows], labels=self.labels[rows], ends=ends
        )

    def steps(self) -> Bool[np.ndarray, "N T"]:
        """Returns which steps there are: within the length, with at least one feature that is not missing."""
        within = np.arange(self.values.shape[1]) < self.lengths[:, None]
        return within & ~np.isnan(self.values).all(-1)

    def checksum(self) -> str:
        """Returns a digest of the content, whatever file it is in."""
        content = {"values": self.values, "lengths": self.lengths, "labels": np.char.encode(self.labels, "utf-8")}
        return content_checksum({"all": content})

    def checked(self) -> SequenceSet:
        """Returns the sequences themselves.

        Raises:
          DataError: if one of them has no step.
        """
        empty = np.flatnonzero(~self.steps().any(1))
        if len(empty):
            raise DataError(
                f"{self.file}: all values of sequence {self.ids[empty[0]]!r} are missing: leave the sequence out"
            )
        return self


def padded_sequences(
    rows: Shaped[np.ndarray, "R ..."], lengths: Int[np.ndarray, " N"], fill: float | str
) -> Shaped[np.ndarray, "N T ..."]:
    """Returns sequences that lie one behind the other as one array, each padded at its end to the longest.

    Args:
      rows: the steps of all sequences.
      lengths: steps of each sequence, `R` in all.
      fill: what is padded with.
    """
    longest = int(lengths.max())
    size = 8 * len(lengths) * longest * int(np.prod(rows.shape[1:]))
    require_memory(size, "the padded sequences", "cut the longest ones, or leave them out")
    table = np.full((len(lengths), longest, *rows.shape[1:]), fill, rows.dtype)
    table[np.arange(longest) < lengths[:, None]] = rows
    return table
