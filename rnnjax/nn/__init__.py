"""Flax Linen modules over the pure functions; those of Flax NNX are in `rnnjax.nn.nnx`."""

from rnnjax.nn.one_hot import OneHotRNN, unroll_one_hot
from rnnjax.nn.rnn import RNN, Bidirectional

__all__ = ["RNN", "Bidirectional", "OneHotRNN", "unroll_one_hot"]
