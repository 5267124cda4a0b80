"""Parameters of Keras, Haiku, Equinox and ONNX compute each framework's own step, written here as it is published."""

import numpy as np
import pytest
from fixtures.parameters import array
from foreign_variables import H, I, P, has_the_shapes_of_init, same, sigmoid

from rnnjax import GRU, LSTM, BasicRNN, Project, Stack, unroll
from rnnjax.interop import bidirectional_from_keras, from_equinox, from_haiku, from_keras, from_onnx

RNG = np.random.default_rng(18)
XS = RNG.normal(size=(2, 4, I)).astype(np.float32)


def drawn(**shapes):
    return {name: RNG.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


def relu(x):
    return np.maximum(x, 0)


# Each takes the variables, one step's input, and the state before it: h, or h and c; it returns the state after it.


def keras_rnn(v, x, h):
    return np.tanh(x @ v["kernel"] + h @ v["recurrent_kernel"] + v["bias"])


def keras_lstm(v, x, h, c):
    i, f, g, o = np.split(x @ v["kernel"] + h @ v["recurrent_kernel"] + v["bias"], 4, 1)
    c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
    return sigmoid(o) * np.tanh(c), c


def keras_gru_after(v, x, h):
    x_z, x_r, x_h = np.split(x @ v["kernel"] + v["bias"][0], 3, 1)
    h_z, h_r, h_h = np.split(h @ v["recurrent_kernel"] + v["bias"][1], 3, 1)
    z, r = sigmoid(x_z + h_z), sigmoid(x_r + h_r)
    return z * h + (1 - z) * np.tanh(x_h + r * h_h)


def keras_gru_before(v, x, h):
    x_z, x_r, x_h = np.split(x @ v["kernel"] + v["bias"], 3, 1)
    u_z, u_r, u_h = np.split(v["recurrent_kernel"], 3, 1)
    z, r = sigmoid(x_z + h @ u_z), sigmoid(x_r + h @ u_r)
    return z * h + (1 - z) * np.tanh(x_h + (r * h) @ u_h)


def haiku_rnn(v, x, h):
    return relu(x @ v["linear/w"] + v["linear/b"] + h @ v["linear_1/w"] + v["linear_1/b"])


def haiku_lstm(v, x, h, c):
    i, g, f, o = np.split(np.concatenate([x, h], 1) @ v["lstm/linear/w"] + v["lstm/linear/b"], 4, 1)
    c = sigmoid(f + 1) * c + sigmoid(i) * np.tanh(g)
    return sigmoid(o) * np.tanh(c), c


def haiku_gru(v, x, h):
    x_z, x_r, x_a = np.split(x @ v["w_i"], 3, 1)
    w_z, w_r, w_a = np.split(v["w_h"], 3, 1)
    b_z, b_r, b_a = np.split(v["b"], 3)
    z, r = sigmoid(x_z + h @ w_z + b_z), sigmoid(x_r + h @ w_r + b_r)
    return (1 - z) * h + z * np.tanh(x_a + (r * h) @ w_a + b_a)


def equinox_lstm(v, x, h, c):
    i, f, g, o = np.split(x @ v["weight_ih"].T + h @ v["weight_hh"].T + v["bias"], 4, 1)
    c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
    return sigmoid(o) * np.tanh(c), c


def equinox_gru(v, x, h):
    x_r, x_z, x_n = np.split(x @ v["weight_ih"].T + v["bias"], 3, 1)
    h_r, h_z, h_n = np.split(h @ v["weight_hh"].T, 3, 1)
    n = np.tanh(x_n + sigmoid(x_r + h_r) * (h_n + v["bias_n"]))
    return n + sigmoid(x_z + h_z) * (h - n)


def onnx_split(v, gates):
    """Returns W, R, Wb and Rb of the first direction, for each gate one."""
    (w,), (r,), (b,) = v["W"], v["R"], v["B"]
    return np.split(w, gates), np.split(r, gates), *np.split(np.stack(np.split(b, 2 * gates)), 2)


def onnx_rnn(v, x, h):
    (w,), (r,), (b_w,), (b_r,) = onnx_split(v, 1)
    return np.tanh(x @ w.T + h @ r.T + b_w + b_r)


def onnx_lstm(v, x, h, c, coupled=False):
    i, o, f, g = (x @ w.T + h @ r.T + b_w + b_r for w, r, b_w, b_r in zip(*onnx_split(v, 4)))
    p_i, p_o, p_f = np.split(v["P"][0], 3)
    i, f = sigmoid(i + p_i * c), sigmoid(f + p_f * c)
    c = (1 - i if coupled else f) * c + i * np.tanh(g)
    return sigmoid(o + p_o * c) * np.tanh(c), c


def onnx_lstm_coupled(v, x, h, c):
    return onnx_lstm(v, x, h, c, coupled=True)


def onnx_gru_after(v, x, h):
    (w_z, w_r, w_h), (r_z, r_r, r_h), b_w, b_r = onnx_split(v, 3)
    z, r = sigmoid(x @ w_z.T + h @ r_z.T + b_w[0] + b_r[0]), sigmoid(x @ w_r.T + h @ r_r.T + b_w[1] + b_r[1])
    return (1 - z) * np.tanh(x @ w_h.T + r * (h @ r_h.T + b_r[2]) + b_w[2]) + z * h


def onnx_gru_before(v, x, h):
    (w_z, w_r, w_h), (r_z, r_r, r_h), b_w, b_r = onnx_split(v, 3)
    z, r = sigmoid(x @ w_z.T + h @ r_z.T + b_w[0] + b_r[0]), sigmoid(x @ w_r.T + h @ r_r.T + b_w[1] + b_r[1])
    return (1 - z) * np.tanh(x @ w_h.T + (r * h) @ r_h.T + b_r[2] + b_w[2]) + z * h


def keras(gates, *bias_rows):
    return drawn(kernel=(I, gates * H), recurrent_kernel=(H, gates * H), bias=(*bias_rows, gates * H))


def onnx(gates, **others):
    return drawn(W=(1, gates * H, I), R=(1, gates * H, H), B=(1, 2 * gates * H), **others)


HAIKU_RNN = drawn(**{"linear/w": (I, H), "linear/b": (H,), "linear_1/w": (H, H), "linear_1/b": (H,)})
HAIKU_LSTM = drawn(**{"lstm/linear/w": (I + H, 4 * H), "lstm/linear/b": (4 * H,)})
HAIKU_GRU = drawn(w_i=(I, 3 * H), w_h=(H, 3 * H), b=(3 * H,))
EQUINOX_LSTM = drawn(weight_ih=(4 * H, I), weight_hh=(4 * H, H), bias=(4 * H,))
EQUINOX_GRU = drawn(weight_ih=(3 * H, I), weight_hh=(3 * H, H), bias=(3 * H,), bias_n=(H,))
ONNX_LSTM = onnx(4, P=(1, 3 * H))

WAYS = {
    "keras rnn": (from_keras, BasicRNN(H), keras(1), keras_rnn),
    "keras lstm": (from_keras, LSTM(H), keras(4), keras_lstm),
    "keras gru, reset after": (from_keras, GRU(H), keras(3, 2), keras_gru_after),
    "keras gru, reset before": (from_keras, GRU(H, reset="before"), keras(3), keras_gru_before),
    "haiku rnn": (from_haiku, BasicRNN(H, "relu"), HAIKU_RNN, haiku_rnn),
    "haiku lstm": (from_haiku, LSTM(H), HAIKU_LSTM, haiku_lstm),
    "haiku gru": (from_haiku, GRU(H, reset="before"), HAIKU_GRU, haiku_gru),
    "equinox lstm": (from_equinox, LSTM(H), EQUINOX_LSTM, equinox_lstm),
    "equinox gru": (from_equinox, GRU(H), EQUINOX_GRU, equinox_gru),
    "onnx rnn": (from_onnx, BasicRNN(H), onnx(1), onnx_rnn),
    "onnx lstm": (from_onnx, LSTM(H, peephole=True), ONNX_LSTM, onnx_lstm),
    "onnx lstm, coupled": (from_onnx, LSTM(H, peephole=True, coupled_gates=True), ONNX_LSTM, onnx_lstm_coupled),
    "onnx gru, reset after": (from_onnx, GRU(H), onnx(3), onnx_gru_after),
    "onnx gru, reset before": (from_onnx, GRU(H, reset="before"), onnx(3), onnx_gru_before),
}


@pytest.mark.parametrize("way", WAYS)
def test_parameters_compute_the_step_of_their_framework(way):
    convert, cell, variables, step = WAYS[way]
    params = convert(cell, variables)
    assert has_the_shapes_of_init(cell, params)
    state, expected = [np.zeros((len(XS), H))] * (2 if isinstance(cell, LSTM) else 1), []
    for t in range(XS.shape[1]):
        after = step(variables, XS[:, t], *state)
        state = list(after) if isinstance(after, tuple) else [after]
        expected.append(state[0])
    ys, _ = unroll(cell, params, XS)
    np.testing.assert_allclose(ys, np.stack(expected, 1), rtol=1e-5, atol=1e-6)


# One unit, inputs 1, -1, 2, a zero state.
ONE_UNIT = {
    "gru after": (
        GRU(1),
        ([0.1, 0.2, 0.3], [0.4, 0.5, 0.6], [[0.01, 0.02, 0.03], [0.04, 0.05, 0.06]]),
        (0.1613236219, -0.0136357673, 0.2468772752),
    ),
    "gru before": (
        GRU(1, reset="before"),
        ([0.1, 0.2, 0.3], [0.4, 0.5, 0.6], [0.01, 0.02, 0.03]),
        (0.1505098887, -0.0392193976, 0.2260773357),
    ),
    "lstm": (
        LSTM(1),
        ([0.1, 0.2, 0.3, 0.4], [0.5, 0.6, 0.7, 0.8], [0.01, 1, 0.03, 0.04]),
        (0.1012433074, 0.0093644887, 0.2222320237),
    ),
}


@pytest.mark.parametrize("kind", ONE_UNIT)
def test_one_unit_of_keras_has_known_values(kind):
    cell, (kernel, recurrent, bias), expected = ONE_UNIT[kind]
    variables = {"kernel": array([kernel]), "recurrent_kernel": array([recurrent]), "bias": array(bias)}
    ys, _ = unroll(cell, from_keras(cell, variables), array([[[1], [-1], [2]]]))
    np.testing.assert_allclose(ys[0, :, 0], expected, atol=1e-7)


# Names and numbers, layers, and dense layers beside them.


def below(scope, variables):
    return {f"{scope}/{name}": value for name, value in variables.items()}


def test_keras_weights_by_path_or_by_number_are_the_same():
    upper, dense = drawn(kernel=(H, 4 * H), recurrent_kernel=(H, 4 * H), bias=(4 * H,)), drawn(kernel=(H, P), bias=(P,))
    lower = keras(4)
    cell = Project(Stack([LSTM(H), LSTM(H)]), P)
    named = below("lstm/lstm_cell", lower) | below("lstm_1/lstm_cell", upper) | below("dense", dense)
    params = from_keras(cell, named | {"seed_generator/seed_generator_state": np.array([0, 1], np.uint32)})
    assert has_the_shapes_of_init(cell, params)
    assert same(params.cell, (from_keras(LSTM(H), lower), from_keras(LSTM(H), upper)))
    scopes = {"lstm/cell": lower, "lstm_1/cell": upper, "dense": dense}
    numbered = {f"layers/{scope}/vars/{n}": v for scope, named in scopes.items() for n, v in enumerate(named.values())}
    assert same(from_keras(cell, numbered | {"optimizer/vars/0": np.array(3)}), params)


@pytest.mark.parametrize("numbered", [False, True])
def test_keras_bidirectional_layers_are_pairs_of_cells(numbered):
    shapes = {"kernel": (I, H), "recurrent_kernel": (H, H), "bias": (H,)}
    upper = shapes | {"kernel": (2 * H, H)}
    scope = "layers/{}/{}_layer/cell/vars" if numbered else "net/{}/{}_simple_rnn_3/simple_rnn_cell"
    variables, cells = {}, [BasicRNN(H)] * 2
    for layer, sizes in (("bidirectional", shapes), ("bidirectional_1", upper)):
        for way in ("forward", "backward"):
            named = drawn(**sizes)
            variables |= below(scope.format(layer, way), dict(enumerate(named.values())) if numbered else named)
    params = bidirectional_from_keras(cells, cells, variables)
    values = list(variables.values())
    for layer, pair in enumerate(params):
        for way, cell in enumerate(pair):
            kernel, recurrent, bias = values[6 * layer + 3 * way :][:3]
            assert same(cell, type(cell)(kernel[:, None], recurrent[:, None], bias[None]))
    with pytest.raises(ValueError, match="dense/kernel is of neither direction of a Bidirectional; leave it out"):
        bidirectional_from_keras(cells, cells, variables | {"dense/kernel": np.ones((2 * H, P))})


def test_layers_and_a_linear_of_haiku_and_of_equinox_are_a_stack_and_a_projection():
    upper = drawn(w_i=(H, 3 * H), w_h=(H, 3 * H), b=(3 * H,))
    linear = drawn(w=(H, P), b=(P,))
    cell = Project(Stack([GRU(H, reset="before")] * 2), P)
    params = from_haiku(cell, {"net/~/gru": HAIKU_GRU, "net/~/gru_1": upper, "net/~/linear": linear})
    assert has_the_shapes_of_init(cell, params)
    np.testing.assert_array_equal(params.w, linear["w"])
    above = drawn(weight_ih=(3 * H, H), weight_hh=(3 * H, H), bias=(3 * H,), bias_n=(H,))
    module = {"cells": [EQUINOX_GRU, above], "out": drawn(weight=(P, H), bias=(P,)) | {"activation": np.tanh}}
    cell = Project(Stack([GRU(H)] * 2), P)
    params = from_equinox(cell, module)
    assert has_the_shapes_of_init(cell, params)
    np.testing.assert_array_equal(params.w, module["out"]["weight"].T)


def test_biases_that_another_framework_has_not_are_zero():
    for convert, cell, variables in [
        (from_keras, GRU(H), keras(3, 2)),
        (from_equinox, GRU(H), EQUINOX_GRU),
        (from_onnx, GRU(H), onnx(3)),
    ]:
        unbiased = {name: value for name, value in variables.items() if name not in ("bias", "bias_n", "B")}
        params = convert(cell, unbiased)
        assert has_the_shapes_of_init(cell, params)
        assert not np.any(params.b)
        assert has_the_shapes_of_init(GRU(H, use_bias=False), convert(GRU(H, use_bias=False), unbiased))


def test_each_direction_of_an_onnx_operator_is_a_cell():
    both = {name: np.concatenate([value, -value]) for name, value in onnx(4).items()}
    backward = from_onnx(LSTM(H), both, reverse=True)
    assert same(backward, from_onnx(LSTM(H), {name: value[1:] for name, value in both.items()}))
    with pytest.raises(ValueError, match="W has 2 directions; choose reverse=False or reverse=True"):
        from_onnx(LSTM(H), both)


REFUSED = {
    "keras, a projection": (lambda: from_keras(LSTM(H, projection_size=P), keras(4)), "Keras has no counterpart of"),
    "keras, one row of biases": (
        lambda: from_keras(GRU(H), keras(3)),
        "bias must have shape [2, 12] for GRU(hidden_size=4), got [12]",
    ),
    "haiku, tanh": (
        lambda: from_haiku(BasicRNN(H), HAIKU_RNN),
        "Haiku has no counterpart of BasicRNN(activation='tanh'); use BasicRNN(activation='relu')",
    ),
    "haiku, reset after": (lambda: from_haiku(GRU(H), HAIKU_GRU), "use GRU(reset='before')"),
    "equinox, no basic cell": (lambda: from_equinox(BasicRNN(H), EQUINOX_GRU), "it has one of LSTM, GRU, alone or in"),
    "onnx, peepholes for a cell without": (
        lambda: from_onnx(LSTM(H), ONNX_LSTM),
        "W, R, B, and has no use for P",
    ),
    "onnx, no directions": (lambda: from_onnx(GRU(H), {"W": np.ones(3)}), "W must have 1 or 2 directions"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_has_no_counterpart_is_refused_in_a_sentence(case):
    call, sentence = REFUSED[case]
    with pytest.raises(ValueError) as raised:
        call()
    assert sentence in str(raised.value)
    assert "\n" not in str(raised.value)
