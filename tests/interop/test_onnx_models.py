"""ONNX models compute what `unroll` does, in onnxruntime, for batches and lengths that were not known before."""

import numpy as np
import pytest
from fixtures.parameters import drawn_parameters
from foreign_variables import H, I, P, same

from rnnjax import GRU, LRU, LSTM, BasicRNN, Project, Residual, Stack, unroll
from rnnjax.interop import from_onnx, onnx_weights, to_onnx

onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnx")

RNG = np.random.default_rng(0)
OPERATORS = {
    "rnn": BasicRNN(H, "relu"),
    "lstm": LSTM(H, peephole=True, activation="softplus"),
    "coupled": LSTM(H, coupled_gates=True),
    "gru after": GRU(H),
    "gru before": GRU(H, reset="before"),
    "without biases": GRU(H, use_bias=False),
    "stack": Project(Stack([GRU(H), Stack([LSTM(H + 1), BasicRNN(P)])]), P),
}
TRACED = {
    "projected": LSTM(H, projection_size=P, layer_norm=True),
    "others": Stack([LRU(H), Residual(GRU(H))]),
}


def computed(session, inputs, states):
    names = [each.name for each in session.get_inputs()]
    return session.run(None, dict(zip(names, [*inputs, *states])))


@pytest.mark.parametrize("name", OPERATORS | TRACED)
def test_a_model_computes_what_unroll_does_for_any_batch_and_length(name):
    if name in TRACED:
        pytest.importorskip("jax2onnx")
    import jax

    cell = (OPERATORS | TRACED)[name]
    params = drawn_parameters(lambda key: cell.init(key, I))
    model = to_onnx(cell, params)
    session = onnxruntime.InferenceSession(model.SerializeToString())
    assert [each.name for each in session.get_inputs()][:2] == ["xs", "lengths"]
    for batch, length in ((3, 4), (2, 7)):
        xs = RNG.normal(size=(batch, length, I)).astype(np.float32)
        lengths = np.array([length, 0, 2][:batch], np.int32)
        state = jax.tree.map(lambda leaf: RNG.normal(size=leaf.shape).astype(leaf.dtype), cell.initial_state(batch))
        ys, *states = computed(session, [xs, lengths], jax.tree.leaves(state))
        expected_ys, expected = unroll(cell, params, xs, state, lengths=lengths)
        np.testing.assert_allclose(ys, expected_ys, rtol=1e-4, atol=1e-5)
        for got, leaf in zip(states, jax.tree.leaves(expected), strict=True):
            np.testing.assert_allclose(got, leaf, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["lstm", "coupled", "gru after", "gru before"])
def test_the_weights_of_a_models_operators_read_back_as_they_were(name):
    cell = OPERATORS[name]
    params = drawn_parameters(lambda key: cell.init(key, I))
    weights = onnx_weights(to_onnx(cell, params))
    assert same(from_onnx(cell, weights), params)
