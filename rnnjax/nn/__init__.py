"""Flax modules over the pure functions, and cells that attend to a memory or read their own predictions."""

from rnnjax.nn.attention import Bahdanau, Luong, attending
from rnnjax.nn.one_hot import OneHotRNN, unroll_one_hot
from rnnjax.nn.rnn import RNN, Bidirectional
from rnnjax.nn.scheduled_sampling import ScheduledSampling

__all__ = [
    "RNN",
    "Bahdanau",
    "Bidirectional",
    "Luong",
    "OneHotRNN",
    "ScheduledSampling",
    "attending",
    "unroll_one_hot",
]
