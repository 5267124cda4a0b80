"""What is refused of other libraries' parameters, by name."""

import dataclasses

import numpy as np
import pytest
from foreign_variables import (
    FLAX_BASIC,
    FLAX_UPPER,
    TF1_BASIC,
    TF1_GRU,
    TF1_LSTM,
    TF1_UPPER,
    TORCH_LSTM,
    TORCH_UPPER,
    H,
    I,
    P,
    random,
    randoms,
)

from rnnjax import GRU, LSTM, BasicRNN, LearnedState, Project, Residual, Stack
from rnnjax.interop import bidirectional_from_torch, from_flax, from_tf1, from_torch

# What is refused: each case is a call and what its one sentence must say.

PEEPHOLES = dict.fromkeys(("w_i_diag", "w_f_diag", "w_o_diag"), (H,))
BOTH_WAYS = TORCH_LSTM | {f"{name}_reverse": shape for name, shape in TORCH_LSTM.items()}
TWO_LAYERS = TORCH_LSTM | TORCH_UPPER

REFUSED = {
    "tf1, missing": (
        lambda: from_tf1(LSTM(H, peephole=True), randoms(TF1_LSTM, "rnn/lstm_cell/")),
        "reads kernel, bias, w_i_diag, w_f_diag, w_o_diag, but there is no w_i_diag, w_f_diag, w_o_diag among "
        "rnn/lstm_cell/kernel, rnn/lstm_cell/bias",
    ),
    "tf1, left over": (
        lambda: from_tf1(LSTM(H), randoms(TF1_LSTM | PEEPHOLES, "rnn/lstm_cell/")),
        "LSTM(hidden_size=4) reads kernel, bias, and has no use for rnn/lstm_cell/w_i_diag, rnn/lstm_cell/w_f_diag, "
        "rnn/lstm_cell/w_o_diag",
    ),
    "tf1, misshapen": (
        lambda: from_tf1(LSTM(H + 1), randoms(TF1_LSTM, "lstm_cell/")),
        "lstm_cell/kernel must have shape [7, 20] for LSTM(hidden_size=5), got [7, 16]",
    ),
    "tf1, a kernel with no room for inputs": (
        lambda: from_tf1(BasicRNN(H), {"kernel": random(H, H), "bias": random(H)}),
        "kernel must have shape [5, 4] for BasicRNN(hidden_size=4), got [4, 4]",
    ),
    "tf1, an upper layer that does not fit the lower": (
        lambda: from_tf1(Stack([BasicRNN(H)] * 2), randoms(TF1_BASIC, "cell_0/") | randoms(TF1_BASIC, "cell_1/")),
        "cell_1/kernel must have shape [8, 4] for BasicRNN(hidden_size=4), got [7, 4]",
    ),
    "tf1, inputs that a residual cannot add": (
        lambda: from_tf1(Residual(BasicRNN(H)), randoms(TF1_BASIC)),
        "kernel must have shape [8, 4] for BasicRNN(hidden_size=4), got [7, 4]",
    ),
    "tf1, no such GRU": (
        lambda: from_tf1(GRU(H), randoms(TF1_GRU)),
        "TensorFlow 1 has no counterpart of GRU(reset='after'); use GRU(reset='before')",
    ),
    "tf1, no cell without biases": (
        lambda: from_tf1(LSTM(H, use_bias=False), randoms(TF1_LSTM)),
        "TensorFlow 1 has no counterpart of LSTM(use_bias=False); use LSTM(use_bias=True)",
    ),
    "tf1, no such LSTM": (
        lambda: from_tf1(LSTM(H, layer_norm=True), randoms(TF1_LSTM)),
        "TensorFlow 1 has no counterpart of LSTM(layer_norm=True); use LSTM(layer_norm=False)",
    ),
    "tf1, no such cell": (
        lambda: from_tf1(LearnedState(BasicRNN(H)), randoms(TF1_BASIC)),
        "TensorFlow 1 has no counterpart of LearnedState; it has one of BasicRNN, LSTM, GRU, alone or in Stack, "
        "Project and wrappers",
    ),
    "tf1, too few layers": (
        lambda: from_tf1(Stack([BasicRNN(H)] * 3), randoms(TF1_BASIC, "cell_0/") | randoms(TF1_UPPER, "cell_1/")),
        "a Stack of 3 layers needs variables in as many scopes whose names differ in a number only, "
        "such as cell_0, cell_1; they are in cell_0, cell_1",
    ),
    "tf1, one layer for two": (
        lambda: from_tf1(Stack([BasicRNN(H)] * 2), randoms(TF1_BASIC, "cell_0/")),
        "a Stack of 2 layers needs",
    ),
    "tf1, two layers for one": (
        lambda: from_tf1(BasicRNN(H), randoms(TF1_BASIC, "cell_0/") | randoms(TF1_UPPER, "cell_1/")),
        'cell_1/bias; choose scope="cell_0" or scope="cell_1", or convert to Stack([cell] * 2)',
    ),
    "tf1, a layer too many of its variables": (
        lambda: from_tf1(
            Stack([BasicRNN(H)] * 2),
            randoms(TF1_BASIC, "cell_0/") | randoms(TF1_UPPER, "cell_1/") | {"cell_1/bias_2": random(H)},
        ),
        "has no use for cell_1/bias_2",
    ),
    "tf1, no projection": (
        lambda: from_tf1(Project(LSTM(H), P), randoms({f"rnn/lstm/cell/{n}": s for n, s in TF1_GRU.items()})),
        "Project(size=2) needs one dense layer beside its cell, with kernel of 4 inputs and 2 outputs and bias, "
        "but there are 0 among",
    ),
    "tf1, a projection without a bias": (
        lambda: from_tf1(Project(LSTM(H), P), randoms(TF1_LSTM, "a/lstm_cell/") | {"a/kernel": random(H, P)}),
        "Project(size=2) reads kernel, bias, but there is no bias among a/kernel",
    ),
    "no such scope": (
        lambda: from_tf1(BasicRNN(H), randoms(TF1_BASIC, "rnn/"), scope="lstm"),
        "there are no variables below scope 'lstm'; there are rnn/kernel, rnn/bias",
    ),
    "a variable's name for a scope": (
        lambda: from_tf1(BasicRNN(H), randoms(TF1_BASIC, "rnn/"), scope="rnn/kernel"),
        "there are no variables below scope 'rnn/kernel'; there are rnn/kernel, rnn/bias",
    ),
    "nothing": (lambda: from_tf1(BasicRNN(H), {}), "there are no variables; there are none"),
    "torch, two directions": (
        lambda: from_torch(LSTM(H), randoms(BOTH_WAYS, "rnn.")),
        "rnn.weight_ih_l0_reverse belongs to a second direction; choose reverse=False or reverse=True",
    ),
    "torch, another number of bidirectional layers": (
        lambda: bidirectional_from_torch([LSTM(H)] * 2, [LSTM(H)] * 2, randoms(BOTH_WAYS)),
        "there are cells for 2 layers, but layers [0] in weight_ih_l0",
    ),
    "torch, layers of one direction for two": (
        lambda: bidirectional_from_torch(LSTM(H), LSTM(H), randoms(TORCH_LSTM)),
        "there is no variable of layer=0, reverse=True among weight_ih_l0",
    ),
    "torch, an upper layer that reads one direction": (
        lambda: bidirectional_from_torch(
            [LSTM(H)] * 2, [LSTM(H)] * 2, randoms(TWO_LAYERS | {f"{n}_reverse": s for n, s in TWO_LAYERS.items()})
        ),
        "weight_ih_l1 must have shape [16, 8] for LSTM(hidden_size=4), got [16, 4]",
    ),
    "torch, one direction": (
        lambda: from_torch(LSTM(H), randoms(TORCH_LSTM), reverse=True),
        "there is no variable of layer=None, reverse=True among weight_ih_l0, weight_hh_l0, bias_ih_l0, bias_hh_l0",
    ),
    "torch, no such layer": (
        lambda: from_torch(LSTM(H), randoms(TORCH_LSTM), layer=1),
        "there is no variable of layer=1, reverse=None among weight_ih_l0",
    ),
    "torch, a second layer": (
        lambda: from_torch(LSTM(H), randoms(TWO_LAYERS)),
        "; choose layer=0 or layer=1, or convert to Stack([cell] * 2)",
    ),
    "torch, half of the biases": (
        lambda: from_torch(LSTM(H), {k: v for k, v in randoms(TORCH_LSTM).items() if k != "bias_hh_l0"}),
        "but there is no bias_hh among weight_ih_l0, weight_hh_l0, bias_ih_l0",
    ),
    "torch, biases of one layer of two": (
        lambda: from_torch(Stack([LSTM(H)] * 2), {k: v for k, v in randoms(TWO_LAYERS).items() if k != "bias_ih_l1"}),
        "but there is no bias_ih among weight_ih_l1, weight_hh_l1, bias_hh_l1",
    ),
    "torch, projected": (
        lambda: from_torch(LSTM(H), randoms(TORCH_LSTM | {"weight_hh_l0": (4 * H, P), "weight_hr_l0": (P, H)})),
        "has no use for weight_hr_l0",
    ),
    "torch, not projected": (
        lambda: from_torch(LSTM(H, projection_size=P), randoms(TORCH_LSTM)),
        "but there is no weight_hr among",
    ),
    "torch, another cell": (
        lambda: from_torch(GRU(H), randoms(TORCH_LSTM)),
        "weight_ih_l0 must have shape [12, 3] for GRU(hidden_size=4), got [16, 3]",
    ),
    "torch, no such LSTM": (
        lambda: from_torch(LSTM(H, layer_norm=True), randoms(TORCH_LSTM)),
        "PyTorch has no counterpart of LSTM(layer_norm=True); use LSTM(layer_norm=False)",
    ),
    "torch, biases that the cell has not": (
        lambda: from_torch(LSTM(H, use_bias=False), randoms(TORCH_LSTM)),
        "has no use for bias_ih_l0, bias_hh_l0",
    ),
    "torch, other gates": (
        lambda: from_torch(LSTM(H, gate_activation="relu"), randoms(TORCH_LSTM)),
        "PyTorch has no counterpart of LSTM(gate_activation='relu'); use LSTM(gate_activation='sigmoid')",
    ),
    "flax, no cell without biases": (
        lambda: from_flax(BasicRNN(H, use_bias=False), FLAX_BASIC),
        "Flax has no counterpart of BasicRNN(use_bias=False); use BasicRNN(use_bias=True)",
    ),
    "torch, no such GRU": (
        lambda: from_torch(GRU(H, reset="before"), randoms(TORCH_LSTM)),
        "PyTorch has no counterpart of GRU(reset='before'); use GRU(reset='after')",
    ),
    "torch, the rest of a model": (
        lambda: from_torch(LSTM(H), randoms(TORCH_LSTM, "rnn.") | {"fc.weight": random(P, H)}),
        'rnn.bias_hh_l0, fc.weight; choose scope="rnn", or convert to Project(cell, 2)',
    ),
    "flax, missing": (
        lambda: from_flax(BasicRNN(H), {"params": {"cell": {**FLAX_BASIC, "i": {"kernel": random(I, H)}}}}),
        "BasicRNN(hidden_size=4) reads i/kernel, h/kernel, i/bias, but there is no i/bias among cell/i/kernel, "
        "cell/h/kernel",
    ),
    "flax, another cell": (lambda: from_flax(LSTM(H), FLAX_BASIC), "but there is no ii/kernel, if/kernel,"),
    "flax, no such LSTM": (
        lambda: from_flax(LSTM(H, projection_size=P), FLAX_BASIC),
        "Flax has no counterpart of LSTM(projection_size=2); use LSTM(projection_size=None)",
    ),
    "flax, an order that names do not tell": (
        lambda: from_flax(Stack([BasicRNN(H)] * 2), {"upper": FLAX_UPPER, "lower": FLAX_BASIC}),
        "differ in a number only, such as cell_0, cell_1; they are in upper, lower",
    ),
    "flax, two dense layers": (
        lambda: from_flax(
            Project(BasicRNN(H), P),
            {"cell": FLAX_BASIC, **{f"Dense_{n}": {"kernel": random(H, P), "bias": random(P)} for n in range(2)}},
        ),
        "but there are 2 among",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_match_is_refused_by_name(case):
    call, sentence = REFUSED[case]
    with pytest.raises(ValueError) as raised:
        call()
    assert sentence in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_subclass_of_a_cell_computes_something_else_and_has_no_counterpart():
    @dataclasses.dataclass(frozen=True)
    class Mine(BasicRNN):
        pass

    with pytest.raises(ValueError, match="no counterpart of Mine"):
        from_tf1(Mine(H), randoms(TF1_BASIC))


def test_long_lists_of_names_are_cut():
    variables = randoms({f"layer_{n}/kernel": (1,) for n in range(20)})
    with pytest.raises(ValueError, match=r"layer_11/kernel and 8 more$"):
        from_tf1(BasicRNN(H), variables, scope="rnn")


def test_what_is_not_a_dict_of_floating_point_arrays_is_refused():
    with pytest.raises(TypeError, match="variables must be a dict of arrays by name, got list"):
        from_torch(LSTM(H), [random(3)])
    with pytest.raises(TypeError, match="kernel must be floating point, got int32"):
        from_tf1(BasicRNN(H), {"kernel": np.ones((I + H, H), np.int32), "bias": random(H)})
