"""Windows of a long text for stateful truncated BPTT.

The text is cut into B lanes of equal length, which are read in parallel, window after window of T tokens. Row
``s * B + b`` of the arrays is window s of lane b, so that each batch, in this order, continues where the previous one
ended. Fields of a split:

- ``tokens`` int32 [S * B, T + 1]: the inputs, and shifted by one the targets;
- ``counted`` bool [S * B, T]: which predictions count;
- ``start`` bool [S * B]: whether the lane starts here, from the initial state.
"""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Int

from rnnjax.data.dataset import Arrays


def training_windows(tokens: Int[np.ndarray, " N"], lanes: int, length: int) -> Arrays:
    """Returns the windows of B lanes of ``N // B`` tokens each; tokens that do not fill a window are left out.

    Every prediction counts, and each lane starts at the beginning of an epoch (Zaremba et al., 2014).

    Raises:
      ValueError: if there are too few tokens for one window in every lane.
    """
    lane = len(tokens) // lanes
    # One less, since the last window needs a token more for its targets.
    windows = (lane - 1) // length
    if windows < 1:
        raise ValueError(
            f"{len(tokens)} training tokens make no window of {length} steps in each of {lanes} lanes: "
            f"that takes {lanes * (length + 1)}"
        )
    # [S, 1] and [B], so that `first` is [S, B].
    window, lane_start = np.arange(windows)[:, None], np.arange(lanes) * lane
    first = lane_start + window * length
    return _fields(tokens, first, np.ones((*first.shape, length), bool), np.broadcast_to(window == 0, first.shape))


def evaluation_windows(tokens: Int[np.ndarray, " N"], before: int, lanes: int, length: int) -> Arrays:
    """Returns windows in which each of the N tokens is predicted, and counts, exactly once.

    Each lane but the first begins with one window of the lane before it, which does not count, so that its first
    tokens are predicted with context, too.

    Args:
      tokens: the text.
      before: the token that is read before the first one.
      lanes: number B of lanes.
      length: number T of steps in a window.
    """
    sequence = np.concatenate([[before], tokens])  # token i of the text is predicted from entry i
    lane = math.ceil(len(tokens) / lanes)
    # Window -1 is that of the lane before, which is read and not counted.
    window, lane_start = np.arange(-1, math.ceil(lane / length))[:, None], np.arange(lanes) * lane
    first = lane_start + window * length
    position = first[..., None] + np.arange(length)  # [S, B, T]
    # Lanes are as long as N / B rounded up, so that the last ones may have fewer tokens, or none.
    lane_end = np.minimum(lane_start + lane, len(tokens))
    counted = (window[..., None] >= 0) & (position < lane_end[:, None])
    # A lane with no whole window before it starts at its own first token.
    return _fields(sequence, first, counted, (window == -1) | ((window == 0) & (lane_start < length)))


def _fields(sequence: np.ndarray, first: np.ndarray, counted: np.ndarray, start: np.ndarray) -> Arrays:
    """Returns the fields of windows that begin at ``first [S, B]``; positions outside the sequence must not count."""
    length = counted.shape[-1]
    positions = np.clip(first[..., None] + np.arange(length + 1), 0, len(sequence) - 1)
    return {
        # [S, B, T + 1] as [S * B, T + 1]: a batch is the same window of all lanes.
        "tokens": sequence[positions].reshape(-1, length + 1).astype(np.int32),
        "counted": counted.reshape(-1, length),
        "start": start.reshape(-1),
    }
