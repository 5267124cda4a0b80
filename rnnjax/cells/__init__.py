"""Recurrent cells: pure functions of parameters, state and inputs."""

from rnnjax.cells import serialised as _serialised  # noqa: F401  (tells jax.export of their types)
from rnnjax.cells.attention import Bahdanau, Luong, attending
from rnnjax.cells.basic import BasicRNN
from rnnjax.cells.cell import Cell
from rnnjax.cells.delta_net import GatedDeltaNet, GatedDeltaNetParams
from rnnjax.cells.diagonal_cell import DiagonalCell, DiagonalParams
from rnnjax.cells.gated_cell import GatedCell, GatedParams
from rnnjax.cells.gated_residual import GatedResidual, GatedResidualParams
from rnnjax.cells.gru import GRU, GRUParams
from rnnjax.cells.heads import Heads
from rnnjax.cells.hidden_cell import HiddenState
from rnnjax.cells.ind_rnn import IndRNN
from rnnjax.cells.linear_attention import GatedLinearAttention
from rnnjax.cells.linear_cell import LinearCell, LinearParams
from rnnjax.cells.lru import LRU, LRUParams
from rnnjax.cells.lstm import LSTM, LSTMNorm, LSTMParams, LSTMState
from rnnjax.cells.memory_cell import Association, MemoryCell
from rnnjax.cells.min_gru import MinGRU, MinLSTM
from rnnjax.cells.pairs import Complex
from rnnjax.cells.para_rnn import ParaGRU, ParaLSTM, ParaLSTMParams
from rnnjax.cells.qrnn import QRNN
from rnnjax.cells.randomness import TimedKey
from rnnjax.cells.rg_lru import RGLRU, RGLRUParams
from rnnjax.cells.slstm import SLSTM, SLSTMState
from rnnjax.cells.weight_drop import WeightDrop
from rnnjax.cells.wrapper import Wrapper
from rnnjax.cells.wrappers import Dropout, LearnedParams, LearnedState, Project, ProjectParams, Residual, Stack
from rnnjax.cells.zoneout import Zoneout

__all__ = [
    "GRU",
    "LRU",
    "LRUParams",
    "LSTM",
    "Association",
    "Bahdanau",
    "BasicRNN",
    "Cell",
    "Complex",
    "DiagonalCell",
    "DiagonalParams",
    "Dropout",
    "GRUParams",
    "GatedCell",
    "GatedDeltaNet",
    "GatedDeltaNetParams",
    "GatedLinearAttention",
    "GatedParams",
    "GatedResidual",
    "GatedResidualParams",
    "Heads",
    "HiddenState",
    "IndRNN",
    "LSTMNorm",
    "LSTMParams",
    "LSTMState",
    "LearnedParams",
    "LearnedState",
    "LinearCell",
    "LinearParams",
    "Luong",
    "MemoryCell",
    "MinGRU",
    "MinLSTM",
    "ParaGRU",
    "ParaLSTM",
    "ParaLSTMParams",
    "Project",
    "ProjectParams",
    "QRNN",
    "RGLRU",
    "RGLRUParams",
    "Residual",
    "SLSTM",
    "SLSTMState",
    "Stack",
    "TimedKey",
    "WeightDrop",
    "Wrapper",
    "attending",
    "Zoneout",
]
