"""Flax modules over the pure functions."""

from rnnjax.nn.rnn import RNN, Bidirectional

__all__ = ["RNN", "Bidirectional"]
