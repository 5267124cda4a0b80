"""Parameters and states as arguments and results of exported functions: `jax.export` knows their types by name."""

from jax.export import register_namedtuple_serialization

from rnnjax.cells.attention import Attending, AttentionParams, FeedingState, Memory, ScoreParams
from rnnjax.cells.delta_net import GatedDeltaNetParams
from rnnjax.cells.diagonal_cell import DiagonalParams
from rnnjax.cells.gated_cell import GatedParams
from rnnjax.cells.gated_residual import GatedResidualParams
from rnnjax.cells.gru import GRUParams
from rnnjax.cells.hidden_cell import HiddenState
from rnnjax.cells.linear_cell import LinearParams
from rnnjax.cells.lru import LRUParams
from rnnjax.cells.lstm import LSTMNorm, LSTMParams, LSTMState
from rnnjax.cells.pairs import Complex
from rnnjax.cells.para_rnn import ParaLSTMParams
from rnnjax.cells.rg_lru import RGLRUParams
from rnnjax.cells.slstm import SLSTMState
from rnnjax.cells.wrappers import LearnedParams, ProjectParams

for kind in (
    Attending,
    AttentionParams,
    Complex,
    DiagonalParams,
    FeedingState,
    GRUParams,
    GatedDeltaNetParams,
    GatedParams,
    GatedResidualParams,
    HiddenState,
    LRUParams,
    LSTMNorm,
    LSTMParams,
    LSTMState,
    LearnedParams,
    LinearParams,
    Memory,
    ParaLSTMParams,
    ProjectParams,
    RGLRUParams,
    SLSTMState,
    ScoreParams,
):
    register_namedtuple_serialization(kind, serialized_name=f"rnnjax.{kind.__name__}")
