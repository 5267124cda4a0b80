"""Which parameters of other libraries are read, and under which names; goldens and Flax's parity compare values."""

import jax.numpy as jnp
import numpy as np
import pytest
from foreign_variables import (
    FLAX_BASIC,
    TF1_BASIC,
    TF1_GRU,
    TF1_LSTM,
    TF1_UPPER,
    TORCH_LSTM,
    TORCH_UPPER,
    H,
    I,
    P,
    has_the_shapes_of_init,
    random,
    randoms,
    same,
    sigmoid,
)

from rnnjax import GRU, LSTM, BasicRNN, Dropout, Project, Residual, Stack, unroll
from rnnjax.interop import from_flax, from_tf1, from_torch

# TensorFlow 1: the cells that the goldens do not have, by their equations.


def tf1_lstm_outputs(v, x, forget_bias):
    """LSTMCell with peepholes and a projection, as tensorflow/python/ops/rnn_cell_impl.py states it."""
    c, m, ys = np.zeros((len(x), H)), np.zeros((len(x), P)), []
    for t in range(x.shape[1]):
        i, j, f, o = np.split(np.concatenate([x[:, t], m], 1) @ v["kernel"] + v["bias"], 4, axis=1)
        c = sigmoid(f + forget_bias + v["w_f_diag"] * c) * c + sigmoid(i + v["w_i_diag"] * c) * np.tanh(j)
        m = (sigmoid(o + v["w_o_diag"] * c) * np.tanh(c)) @ v["projection/kernel"]
        ys.append(m)
    return np.stack(ys, 1)


def tf1_coupled_outputs(v, x, forget_bias):
    """CoupledInputForgetGateLSTMCell with peepholes and a projection, of tensorflow/contrib/rnn."""
    c, m, ys = np.zeros((len(x), H)), np.zeros((len(x), P)), []
    for t in range(x.shape[1]):
        j, f, o = np.split(np.concatenate([x[:, t], m], 1) @ v["W_0"] + v["B"], 3, axis=1)
        f = sigmoid(f + forget_bias + v["W_F_diag"] * c)
        c = f * c + (1 - f) * np.tanh(j)
        m = (sigmoid(o + v["W_O_diag"] * c) * np.tanh(c)) @ v["W_P_0"]
        ys.append(m)
    return np.stack(ys, 1)


@pytest.mark.parametrize("forget_bias", [0.0, 1.0, 2.5])
@pytest.mark.parametrize("coupled", [False, True])
def test_tf1_lstms_with_everything_compute_their_equations(coupled, forget_bias):
    cell = LSTM(H, forget_bias=forget_bias, peephole=True, projection_size=P, coupled_gates=coupled)
    gates, peepholes = (3, ["W_F_diag", "W_O_diag"]) if coupled else (4, ["w_i_diag", "w_f_diag", "w_o_diag"])
    names = ("W_0", "B", "W_P_0") if coupled else ("kernel", "bias", "projection/kernel")
    shapes = dict(zip(names, [(I + P, gates * H), (gates * H,), (H, P)])) | dict.fromkeys(peepholes, (H,))
    # Seeded by position, so that no two peepholes are alike.
    variables = {name: random(n, *shape)[-1] for n, (name, shape) in enumerate(shapes.items(), 1)}
    x = random(2, 5, I)
    outputs = tf1_coupled_outputs if coupled else tf1_lstm_outputs
    params = from_tf1(cell, {f"rnn/cell/{name}:0": value for name, value in variables.items()})
    ys, _ = unroll(cell, params, x)
    np.testing.assert_allclose(ys, outputs(variables, x, forget_bias), rtol=1e-5, atol=1e-6)


def test_tf1_output_projection_is_read_beside_the_cell_that_it_projects():
    shapes = {"kernel": (H, P), "bias": (P,)} | {f"basic_lstm_cell/{name}": s for name, s in TF1_LSTM.items()}
    variables = randoms(shapes, "rnn/output_projection_wrapper/")
    params = from_tf1(Project(LSTM(H), P), variables)
    assert same(params.cell, from_tf1(LSTM(H), variables, scope="rnn/output_projection_wrapper/basic_lstm_cell"))
    np.testing.assert_array_equal(params.w, variables["rnn/output_projection_wrapper/kernel"])
    np.testing.assert_array_equal(params.b, variables["rnn/output_projection_wrapper/bias"])


def test_tf1_wrappers_may_or_may_not_add_a_scope():
    cell = Stack([Dropout(BasicRNN(H), input_rate=0.5), Residual(BasicRNN(H))])
    plain, scoped = {}, {}
    for layer, shapes in enumerate([TF1_BASIC, TF1_UPPER]):
        for name, value in randoms(shapes).items():
            plain[f"rnn/multi_rnn_cell/cell_{layer}/basic_rnn_cell/{name}"] = value
            scoped[f"rnn/multi_rnn_cell/cell_{layer}/a_wrapper/basic_rnn_cell/{name}"] = value
    params = from_tf1(cell, plain)
    assert has_the_shapes_of_init(cell, params)
    assert same(params, from_tf1(cell, scoped))


def test_tf1_names_may_have_any_scope_and_an_output_number_behind():
    plain = randoms(TF1_GRU)
    expected = from_tf1(GRU(H, reset="before"), plain)
    for before in ("", "gru_cell/", "model/encoder/rnn/gru_cell/"):
        for behind in ("", ":0"):
            renamed = {f"{before}{name}{behind}": value for name, value in plain.items()}
            assert same(from_tf1(GRU(H, reset="before"), renamed), expected)


def test_layers_are_ordered_by_number_and_not_by_name():
    layers = [TF1_BASIC] + [TF1_UPPER] * 10
    variables = {
        f"cell_{layer}/{name}": np.full(shape, layer, np.float32)
        for layer, shapes in reversed(list(enumerate(layers)))
        for name, shape in shapes.items()
    }
    params = from_tf1(Stack([BasicRNN(H)] * 11), variables)
    assert [float(layer.b[0, 0]) for layer in params] == list(range(11))


def test_tf1_optimiser_slots_and_averages_are_not_read():
    variables = randoms(TF1_BASIC, "rnn/basic_rnn_cell/")
    slots = {f"{name}/{slot}": value for name, value in variables.items() for slot in ("Adam", "Adam_1", "Momentum")}
    assert same(from_tf1(BasicRNN(H), variables | slots), from_tf1(BasicRNN(H), variables))


def tf1_checkpoint():
    """All variables of a checkpoint: an LSTM, the dense layer behind it, and what Adam and an average left beside."""
    weights = randoms(TF1_LSTM, "model/rnn/basic_lstm_cell/") | {"model/dense/kernel": random(H, P)}
    weights |= {"model/dense/bias": random(P)}
    slots = {f"{scope}{name}/{slot}": value for name, value in weights.items() for scope, slot in SLOTS}
    scalars = {"global_step": np.array(7), "beta1_power": np.float32(0.9), "train/beta2_power": np.float32(0.9)}
    return weights | slots | scalars


SLOTS = [("", "Adam"), ("", "Adam_1"), ("train/", "Adam"), ("", "ExponentialMovingAverage")]


def test_a_whole_tf1_checkpoint_is_the_cell_and_its_dense_layer():
    variables = tf1_checkpoint()
    params = from_tf1(Project(LSTM(H), P), variables)
    assert same(params.cell, from_tf1(LSTM(H), randoms(TF1_LSTM)))
    np.testing.assert_array_equal(params.w, variables["model/dense/kernel"])
    np.testing.assert_array_equal(params.b, variables["model/dense/bias"])


ADVISED = {
    "tf1": (from_tf1, tf1_checkpoint(), Project(LSTM(H), P)),
    "a stack in tf1": (
        from_tf1,
        randoms(TF1_BASIC, "rnn/cell_0/") | randoms(TF1_UPPER, "rnn/cell_1/") | {"d/kernel": random(H, P)},
        None,
    ),
    "torch": (from_torch, randoms(TORCH_LSTM, "net.rnn.") | {"net.fc.weight": random(P, H)}, Project(LSTM(H), P)),
    "layers of torch": (from_torch, randoms(TORCH_LSTM | TORCH_UPPER, "rnn."), Stack([LSTM(H)] * 2)),
    "flax": (from_flax, {"cell": FLAX_BASIC, "Dense_0": {"kernel": random(H, P)}}, Project(BasicRNN(H), P)),
}


@pytest.mark.parametrize("case", ADVISED)
def test_what_an_error_advises_works_when_it_is_followed(case):
    convert, variables, other = ADVISED[case]
    cell = {"torch": LSTM(H), "layers of torch": LSTM(H), "tf1": LSTM(H)}.get(case, BasicRNN(H))
    cell = Stack([cell] * 2) if "stack" in case else cell
    with pytest.raises(ValueError, match="; choose ") as raised:
        convert(cell, variables)
    chosen, _, converted = str(raised.value).partition("; choose ")[2].partition(", or convert to ")
    for arguments in chosen.split(" or "):
        assert has_the_shapes_of_init(cell, eval(f"convert(cell, variables, {arguments})")) or "1" in arguments
    assert (eval(converted) if converted else None) == other
    if converted:
        assert has_the_shapes_of_init(other, convert(other, variables))


def test_a_scope_chooses_among_variables():
    variables = randoms(TF1_BASIC, "bidirectional_rnn/fw/") | randoms(TF1_BASIC, "bidirectional_rnn/bw/")
    chosen = from_tf1(BasicRNN(H), variables, scope="bidirectional_rnn/bw")
    assert same(chosen, from_tf1(BasicRNN(H), randoms(TF1_BASIC)))


# PyTorch: the variations in names; the goldens have the rest.


def test_torch_single_step_modules_have_names_without_layers():
    plain = randoms(TORCH_LSTM)
    single = {f"cell.{name.removesuffix('_l0')}": value for name, value in plain.items()}
    assert same(from_torch(LSTM(H), single), from_torch(LSTM(H), plain))


def test_torch_modules_in_a_list_are_a_stack():
    whole = randoms(TORCH_LSTM) | randoms(TORCH_UPPER)
    apart = {f"layers.{name[-1]}.{name.removesuffix(name[-3:])}": value for name, value in whole.items()}
    assert {"layers.0.weight_ih", "layers.1.weight_ih"} < apart.keys()
    stack = Stack([LSTM(H), LSTM(H)])
    assert same(from_torch(stack, apart), from_torch(stack, whole))


@pytest.mark.parametrize("cell", [BasicRNN(H), LSTM(H), GRU(H)])
def test_torch_modules_without_biases_have_zero_biases(cell):
    gates = {BasicRNN: 1, LSTM: 4, GRU: 3}[type(cell)]
    weights = randoms({"weight_ih_l0": (gates * H, I), "weight_hh_l0": (gates * H, H)})
    params = from_torch(cell, weights)
    assert has_the_shapes_of_init(cell, params)
    zeros = np.zeros(gates * H, np.float32)
    assert same(params, from_torch(cell, weights | {"bias_ih_l0": zeros, "bias_hh_l0": zeros}))


@pytest.mark.parametrize("kind", [BasicRNN, LSTM, GRU])
def test_torch_modules_without_biases_are_cells_without_biases(kind):
    gates = {BasicRNN: 1, LSTM: 4, GRU: 3}[kind]
    weights = randoms({"weight_ih_l0": (gates * H, I), "weight_hh_l0": (gates * H, H)})
    cell = kind(H, use_bias=False)
    params = from_torch(cell, weights)
    assert has_the_shapes_of_init(cell, params)
    np.testing.assert_array_equal(params.w_h, from_torch(kind(H), weights).w_h)


@pytest.mark.parametrize("bias", [True, False])
def test_a_torch_linear_beside_the_module_is_a_projection(bias):
    dense = {"fc.weight": random(P, H)} | ({"fc.bias": random(P)} if bias else {})
    params = from_torch(Project(LSTM(H), P), randoms(TORCH_LSTM, "rnn.") | dense)
    assert has_the_shapes_of_init(Project(LSTM(H), P), params)
    assert same(params.cell, from_torch(LSTM(H), randoms(TORCH_LSTM)))
    np.testing.assert_array_equal(params.w, dense["fc.weight"].T)
    np.testing.assert_array_equal(params.b, dense.get("fc.bias", np.zeros(P)))


class Tensor:
    """What is used of PyTorch's tensors, which refuse NumPy while they require a gradient."""

    def __init__(self, value, ready=False):
        self.value, self.ready, self.shape = value, ready, value.shape

    def detach(self):
        return Tensor(self.value, ready=True)

    def cpu(self):
        return self

    def double(self):
        return Tensor(self.value.astype(np.float64), self.ready)

    def numpy(self):
        assert self.ready
        return self.value

    def __array__(self, *args, **kwargs):
        raise RuntimeError("Can't call numpy() on Tensor that requires grad.")


def test_torch_tensors_are_accepted_as_they_are():
    plain = randoms(TORCH_LSTM)
    assert same(from_torch(LSTM(H), {name: Tensor(value) for name, value in plain.items()}), from_torch(LSTM(H), plain))


# Flax: the variations in names; the parity tests have the rest.


def test_flax_variables_may_be_wrapped_nested_or_flat():
    expected = from_flax(BasicRNN(H), FLAX_BASIC)
    flat = {f"cell/{layer}/{name}": value for layer, leaves in FLAX_BASIC.items() for name, value in leaves.items()}
    for variables in ({"params": FLAX_BASIC}, {"params": {"RNN_0": {"cell": FLAX_BASIC}}}, {"a": FLAX_BASIC}, flat):
        assert same(from_flax(BasicRNN(H), variables), expected)


def test_one_layer_may_be_a_stack_of_one():
    assert same(from_flax(Stack([BasicRNN(H)]), {"cell": FLAX_BASIC}), (from_flax(BasicRNN(H), FLAX_BASIC),))


# All of them.


def test_parameters_are_made_in_the_type_of_the_cell():
    cell = Project(LSTM(H, param_dtype=jnp.bfloat16), P)
    params = from_torch(cell, randoms(TORCH_LSTM, "rnn.") | {"fc.weight": random(P, H)})
    assert has_the_shapes_of_init(cell, params)
    # One rounding, after the two biases were added.
    b = randoms(TORCH_LSTM)
    b = (b["bias_ih_l0"] + b["bias_hh_l0"]).astype(jnp.bfloat16)
    np.testing.assert_array_equal(params.cell.b, b.reshape(4, H))


@pytest.mark.parametrize("dtype", [np.float16, np.float64, jnp.bfloat16])
def test_arrays_of_any_float_type_are_accepted(dtype):
    variables = {name: value.astype(dtype) for name, value in randoms(TF1_BASIC).items()}
    assert has_the_shapes_of_init(BasicRNN(H), from_tf1(BasicRNN(H), variables))
