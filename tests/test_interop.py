"""What is read, under which names, and what is refused; values are compared in the goldens and in Flax's parity."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnnjax import GRU, LSTM, BasicRNN, Dropout, LearnedState, Project, Residual, Stack, unroll
from rnnjax.interop import from_flax, from_tf1, from_torch

I, H, P = 3, 4, 2


def random(*shape):
    return np.random.default_rng(shape).normal(size=shape).astype(np.float32)


def randoms(shapes, prefix=""):
    return {prefix + name: random(*shape) for name, shape in shapes.items()}


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


TF1_BASIC = {"kernel": (I + H, H), "bias": (H,)}
TF1_UPPER = {"kernel": (H + H, H), "bias": (H,)}
TF1_LSTM = {"kernel": (I + H, 4 * H), "bias": (4 * H,)}
TF1_GRU = {"gates/kernel": (I + H, 2 * H), "gates/bias": (2 * H,), "candidate/kernel": (I + H, H)}
TF1_GRU |= {"candidate/bias": (H,)}
TORCH_LSTM = {"weight_ih_l0": (4 * H, I), "weight_hh_l0": (4 * H, H), "bias_ih_l0": (4 * H,), "bias_hh_l0": (4 * H,)}
TORCH_UPPER = {
    name.replace("l0", "l1"): (4 * H, H) if "weight" in name else shape for name, shape in TORCH_LSTM.items()
}
FLAX_BASIC = {"i": {"kernel": random(I, H), "bias": random(H)}, "h": {"kernel": random(H, H)}}
FLAX_UPPER = {"i": {"kernel": random(H, H), "bias": random(H)}, "h": {"kernel": random(H, H)}}


def same(a, b):
    return jax.tree.structure(a) == jax.tree.structure(b) and all(
        np.array_equal(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b))
    )


def has_the_shapes_of_init(cell, params):
    fresh = jax.eval_shape(lambda: cell.init(jax.random.key(0), I))
    like = jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), fresh)
    return jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), params) == like


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


def test_a_scope_chooses_among_variables():
    variables = randoms(TF1_BASIC, "bidirectional_rnn/fw/") | randoms(TF1_BASIC, "bidirectional_rnn/bw/")
    variables["global_step"] = np.array(7)
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
    "tf1, no such LSTM": (
        lambda: from_tf1(LSTM(H, layer_norm=True), randoms(TF1_LSTM)),
        "TensorFlow 1 has no counterpart of LSTM(layer_norm=True); use LSTM(layer_norm=False)",
    ),
    "tf1, no such cell": (
        lambda: from_tf1(LearnedState(BasicRNN(H)), randoms(TF1_BASIC)),
        "TensorFlow 1 has no counterpart of LearnedState, but of BasicRNN, LSTM, GRU, Stack, Residual, Dropout, "
        "Project",
    ),
    "tf1, too few layers": (
        lambda: from_tf1(Stack([BasicRNN(H)] * 3), randoms(TF1_BASIC, "cell_0/") | randoms(TF1_UPPER, "cell_1/")),
        "a Stack of 3 layers needs variables in as many scopes that differ by a number alone, such as cell_0, cell_1; "
        "they are in cell_0, cell_1",
    ),
    "tf1, one layer for two": (
        lambda: from_tf1(Stack([BasicRNN(H)] * 2), randoms(TF1_BASIC, "cell_0/")),
        "a Stack of 2 layers needs",
    ),
    "tf1, two layers for one": (
        lambda: from_tf1(BasicRNN(H), randoms(TF1_BASIC, "cell_0/") | randoms(TF1_UPPER, "cell_1/")),
        "; choose cell_0/kernel, cell_1/kernel with scope= (a layer of PyTorch's with layer=), or convert to a Stack",
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
        "Project(size=2) needs one dense layer beside its cell, with kernel and bias, but there are 0 among",
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
        "rnn.weight_ih_l0_reverse is of a second direction; choose reverse=False or reverse=True",
    ),
    "torch, one direction": (
        lambda: from_torch(LSTM(H), randoms(TORCH_LSTM), reverse=True),
        "there is nothing of layer=None, reverse=True among weight_ih_l0, weight_hh_l0, bias_ih_l0, bias_hh_l0",
    ),
    "torch, no such layer": (
        lambda: from_torch(LSTM(H), randoms(TORCH_LSTM), layer=1),
        "there is nothing of layer=1, reverse=None among weight_ih_l0",
    ),
    "torch, a second layer": (
        lambda: from_torch(LSTM(H), randoms(TWO_LAYERS)),
        "; choose weight_ih_l0, weight_ih_l1 with scope= (a layer of PyTorch's with layer=), or convert to a Stack",
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
    "torch, no such GRU": (
        lambda: from_torch(GRU(H, reset="before"), randoms(TORCH_LSTM)),
        "PyTorch has no counterpart of GRU(reset='before'); use GRU(reset='after')",
    ),
    "torch, the rest of a model": (
        lambda: from_torch(LSTM(H), randoms(TORCH_LSTM, "rnn.") | {"fc.weight": random(P, H)}),
        "among rnn.weight_ih_l0, rnn.weight_hh_l0, rnn.bias_ih_l0, rnn.bias_hh_l0, fc.weight; choose rnn.weight_ih_l0",
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
        "differ by a number alone, such as cell_0, cell_1; they are in upper, lower",
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
