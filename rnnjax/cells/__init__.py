"""Recurrent cells: pure functions of parameters, state and inputs."""

from rnnjax.cells.attention import Bahdanau, Luong, attending
from rnnjax.cells.basic import BasicRNN
from rnnjax.cells.cell import Cell, GatedCell, GatedParams, HiddenState
from rnnjax.cells.gru import GRU, GRUParams
from rnnjax.cells.heads import Heads
from rnnjax.cells.lstm import LSTM, LSTMNorm, LSTMParams, LSTMState
from rnnjax.cells.randomness import TimedKey
from rnnjax.cells.weight_drop import WeightDrop
from rnnjax.cells.wrapper import Wrapper
from rnnjax.cells.wrappers import Dropout, LearnedParams, LearnedState, Project, ProjectParams, Residual, Stack
from rnnjax.cells.zoneout import Zoneout

__all__ = [
    "GRU",
    "LSTM",
    "Bahdanau",
    "BasicRNN",
    "Cell",
    "Dropout",
    "GRUParams",
    "GatedCell",
    "GatedParams",
    "Heads",
    "HiddenState",
    "LSTMNorm",
    "LSTMParams",
    "LSTMState",
    "LearnedParams",
    "LearnedState",
    "Luong",
    "Project",
    "ProjectParams",
    "Residual",
    "Stack",
    "TimedKey",
    "WeightDrop",
    "Wrapper",
    "attending",
    "Zoneout",
]
