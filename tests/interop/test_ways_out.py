"""What is written for another framework reads back as it was, and what it cannot express is refused in a sentence."""

import jax
import numpy as np
import pytest
from fixtures.parameters import drawn_parameters
from foreign_variables import H, I, P, same

from rnnjax import (
    GRU,
    LSTM,
    BasicRNN,
    Dropout,
    LearnedState,
    Project,
    Residual,
    Stack,
    WeightDrop,
    init_bidirectional,
)
from rnnjax.cells.joint import JointBasicRNN
from rnnjax.interop import (
    bidirectional_from_torch,
    bidirectional_to_torch,
    from_flax,
    from_keras,
    from_torch,
    to_flax,
    to_keras,
    to_torch,
)


def parameters(cell, size=I):
    return drawn_parameters(lambda key: cell.init(key, size))


BOTH = {
    "rnn": BasicRNN(H, "relu"),
    "lstm": LSTM(H),
    "gru": GRU(H),
    "without biases": GRU(H, use_bias=False),
    "of TensorFlow's initial weights": JointBasicRNN(H),
    "a stack": Stack([LSTM(H)] * 3),
    "with a dense layer": Project(Stack([Dropout(GRU(H), output_rate=0.5), WeightDrop(GRU(H), 0.5)]), P),
}
WRITTEN = [(from_torch, to_torch, name) for name in BOTH] + [(from_keras, to_keras, name) for name in BOTH]
MORE = {
    "torch, a projection": (from_torch, to_torch, Stack([LSTM(H, projection_size=P)] * 2)),
    "flax, rnn": (from_flax, to_flax, BasicRNN(H, "gelu")),
    "flax, gru": (from_flax, to_flax, GRU(H)),
    "flax, a stack": (from_flax, to_flax, Project(Stack([LSTM(H)] * 2), P)),
    "keras, reset before": (from_keras, to_keras, GRU(H, reset="before")),
    "keras, several kinds": (from_keras, to_keras, Stack([GRU(H), LSTM(H + 1, activation="relu")])),
}
CASES = {f"{to.__name__}, {name}": (read, to, BOTH[name]) for read, to, name in WRITTEN} | MORE


@pytest.mark.parametrize("case", CASES)
def test_what_is_written_reads_back_as_it_was(case):
    read, write, cell = CASES[case]
    params = parameters(cell)
    written = write(cell, params)
    values = jax.tree.leaves(written)
    assert all(type(value) is np.ndarray and value.dtype == np.float32 for value in values)
    assert same(read(cell, written), params)


@pytest.mark.parametrize("forward", [LSTM(H, projection_size=P), [GRU(H)] * 2])
def test_both_directions_are_written_for_torch(forward):
    params = drawn_parameters(lambda key: init_bidirectional(key, forward, forward, I))
    written = bidirectional_to_torch(forward, forward, params)
    assert same(bidirectional_from_torch(forward, forward, written), params)


REFUSED = {
    "torch, peepholes": (
        to_torch,
        LSTM(H, peephole=True),
        "PyTorch has no counterpart of LSTM(peephole=True); use ",
    ),
    "torch, clipping": (
        to_torch,
        LSTM(H, cell_clip=3.0),
        "PyTorch has no counterpart of LSTM(cell_clip=3.0); use ",
    ),
    "torch, relu": (to_torch, LSTM(H, activation="relu"), "LSTM(activation='relu'); use activation='tanh'"),
    "torch, reset before": (to_torch, GRU(H, reset="before"), "use GRU(reset='after')"),
    "torch, a residual": (to_torch, Residual(GRU(I)), "PyTorch has no counterpart of Residual; it has one of BasicRNN"),
    "torch, several sizes": (
        to_torch,
        Stack([GRU(H), GRU(P)]),
        "these are GRU(hidden_size=4), GRU(hidden_size=2): write them one by one, each for its own module",
    ),
    "flax, no biases": (to_flax, LSTM(H, use_bias=False), "Flax has no counterpart of LSTM(use_bias=False); use"),
    "keras, a projection": (
        to_keras,
        LSTM(H, projection_size=P),
        "Keras has no counterpart of LSTM(projection_size=",
    ),
    "keras, a learned state": (to_keras, LearnedState(GRU(H)), "Keras has no counterpart of LearnedState"),
    "keras, a dense layer within": (to_keras, Stack([Project(GRU(H), P), GRU(H)]), "with one Project around all"),
    "keras, gelu": (to_keras, GRU(H, activation="gelu"), "use activation='tanh' or 'relu'"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_another_framework_has_not_is_refused_in_a_sentence(case):
    write, cell, sentence = REFUSED[case]
    with pytest.raises(ValueError) as raised:
        write(cell, parameters(cell))
    assert sentence in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("cell", [BasicRNN(H), LSTM(H, projection_size=P), GRU(H)])
def test_torch_loads_what_is_written_and_computes_the_same(cell):
    torch = pytest.importorskip("torch")
    from rnnjax import unroll

    stack = Stack([cell, cell])
    params = parameters(stack)
    kind = {BasicRNN: torch.nn.RNN, LSTM: torch.nn.LSTM, GRU: torch.nn.GRU}[type(cell)]
    options = {"proj_size": P} if cell.output_size == P else {}
    module = kind(I, H, num_layers=2, batch_first=True, **options)
    module.load_state_dict({name: torch.from_numpy(value.copy()) for name, value in to_torch(stack, params).items()})
    xs = np.random.default_rng(0).normal(size=(2, 5, I)).astype(np.float32)
    expected = module(torch.from_numpy(xs))[0].detach().numpy()
    np.testing.assert_allclose(unroll(stack, params, xs)[0], expected, rtol=1e-5, atol=1e-6)
