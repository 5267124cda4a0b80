"""Windows of a long text for stateful truncated BPTT.

The text is cut into B lanes, which are read side by side, each from one window of T tokens to the next. Row
``s * B + b`` of the arrays is window s of lane b, so that batch after batch, in this order, goes on where the one
before it stopped. Fields of a split:

- ``tokens`` int32 [S * B, T + 1]: what is read, and, one place on, what is to be predicted;
- ``counted`` bool [S * B, T]: which predictions count;
- ``start`` bool [S * B]: whether the lane starts here, with a fresh state.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Int

from rnnjax.data.dataset import Arrays


def training_windows(tokens: Int[np.ndarray, " N"], lanes: int, length: int) -> Arrays:
    """Returns the windows of B lanes of ``N // B`` tokens each; what fills no window of every lane is left out.

    Every prediction counts, and each lane starts at the beginning of an epoch (Zaremba et al., 2014).

    Raises:
      ValueError: if the tokens make no window for every lane.
    """
    lane = len(tokens) // lanes
    windows = (lane - 1) // length
    if windows < 1:
        raise ValueError(
            f"{len(tokens)} training tokens make no window of {length} steps in each of {lanes} lanes: "
            f"that takes {lanes * (length + 1)}"
        )
    window, lane_start = np.arange(windows)[:, None], np.arange(lanes) * lane
    first = lane_start + window * length
    return _fields(tokens, first, np.ones((*first.shape, length), bool), np.broadcast_to(window == 0, first.shape))


def evaluation_windows(tokens: Int[np.ndarray, " N"], before: int, lanes: int, length: int) -> Arrays:
    """Returns windows in which each of the N tokens is predicted, and counts, exactly once.

    Each lane but the first reads one window of the lane before it, uncounted, so that cutting the text into lanes
    costs its tokens no context worth mentioning.

    Args:
      tokens: the text.
      before: the token that is read before the first one.
      lanes: number B of lanes.
      length: number T of steps of a window.
    """
    sequence = np.concatenate([[before], tokens])  # token i of the text is predicted from entry i
    lane = -(-len(tokens) // lanes)
    window, lane_start = np.arange(-1, -(-lane // length))[:, None], np.arange(lanes) * lane
    first = lane_start + window * length
    place = first[..., None] + np.arange(length)
    lane_end = np.minimum(lane_start + lane, len(tokens))
    counted = (window[..., None] >= 0) & (place < lane_end[:, None])
    # A lane with no whole window before it starts at its own first token.
    return _fields(sequence, first, counted, (window == -1) | ((window == 0) & (lane_start < length)))


def _fields(sequence: np.ndarray, first: np.ndarray, counted: np.ndarray, start: np.ndarray) -> Arrays:
    """Returns the fields of windows that begin at ``first [S, B]``; places outside the sequence count for nothing."""
    length = counted.shape[-1]
    places = np.clip(first[..., None] + np.arange(length + 1), 0, len(sequence) - 1)
    return {
        "tokens": sequence[places].reshape(-1, length + 1).astype(np.int32),
        "counted": counted.reshape(-1, length),
        "start": start.reshape(-1),
    }
