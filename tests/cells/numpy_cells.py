"""The equations of the cells once more, in plain float64 NumPy; of the library, only the names of parameters."""

import jax
import numpy as np

EPSILON = 1e-6  # under the root of the layer normalisation


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


ACTIVATIONS = {
    "tanh": np.tanh,
    "relu": lambda x: np.maximum(x, 0),
    "sigmoid": sigmoid,
    "softplus": lambda x: np.log1p(np.exp(x)),
    "elu": lambda x: np.where(x > 0, x, np.exp(np.minimum(x, 0)) - 1),
    "silu": lambda x: x * sigmoid(x),
    "identity": lambda x: x,
}


def randomised(cell, input_size, seed=0, scale=0.7):
    """Returns parameters of a cell with every entry drawn at random: zero biases would hide missing ones."""
    rng = np.random.default_rng(seed)
    shapes = jax.eval_shape(lambda key: cell.init(key, input_size), jax.random.key(0))
    return jax.tree.map(lambda leaf: scale * rng.standard_normal(leaf.shape), shapes)


def normalised(x):
    """Returns each row of ``x [B, N]`` with zero mean and unit variance."""
    deviation = x - x.mean(axis=1, keepdims=True)
    return deviation / np.sqrt((deviation**2).mean(axis=1, keepdims=True) + EPSILON)


def basic_rnn(p, h, x, activation):
    return activation(x @ p.w_x[:, 0] + h @ p.w_h[:, 0] + p.b[0])


def gru(p, h, x, reset, *, activation=np.tanh, gate=sigmoid):
    def projected(gate):
        return x @ p.w_x[:, gate] + p.b[gate]

    r = gate(projected(0) + h @ p.w_h[:, 0])
    z = gate(projected(1) + h @ p.w_h[:, 1])
    if reset == "after":
        n = activation(projected(2) + r * (h @ p.w_h[:, 2] + p.b_hn))
    else:
        n = activation(projected(2) + (r * h) @ p.w_h[:, 2])
    return (1 - z) * n + z * h


def slstm(p, h, c, n, x, forget):
    """Returns h, c and n after a step, as they are without a stabiliser."""
    i, f, z, o = (x @ p.w_x[:, gate] + h @ p.w_h[:, gate] + p.b[gate] for gate in range(4))
    i, f = np.exp(i), np.exp(f) if forget == "exp" else sigmoid(f)
    c, n = f * c + i * np.tanh(z), f * n + i
    return sigmoid(o) * c / n, c, n


def lstm_gates(p, h, x, layer_norm):
    """Returns the gates before their activations, ``[B, H]`` each."""
    gates = p.b.shape[0]
    projected = [x @ p.w_x[:, gate] for gate in range(gates)]
    recurrent = [h @ p.w_h[:, gate] for gate in range(gates)]
    if layer_norm:
        over_all_gates = normalised(np.concatenate(projected, axis=1))
        projected = [part * scale for part, scale in zip(np.split(over_all_gates, gates, axis=1), p.norm.x)]
        over_all_gates = normalised(np.concatenate(recurrent, axis=1))
        recurrent = [part * scale for part, scale in zip(np.split(over_all_gates, gates, axis=1), p.norm.h)]
    return [a + b + bias for a, b, bias in zip(projected, recurrent, p.b)]


def lstm(
    p,
    h,
    c,
    x,
    *,
    peephole,
    coupled_gates,
    cell_clip,
    projection_clip,
    projection_size,
    layer_norm,
    activation=np.tanh,
    gate=sigmoid,
):
    if coupled_gates:
        f, g, o = lstm_gates(p, h, x, layer_norm)
        p_f, p_o = p.peephole if peephole else (0, 0)
        f = gate(f + p_f * c)
        i = 1 - f
    else:
        i, f, g, o = lstm_gates(p, h, x, layer_norm)
        p_i, p_f, p_o = p.peephole if peephole else (0, 0, 0)
        i, f = gate(i + p_i * c), gate(f + p_f * c)
    c = f * c + i * activation(g)
    if cell_clip:
        c = np.minimum(np.maximum(c, -cell_clip), cell_clip)
    o = gate(o + p_o * c)
    h = o * activation(normalised(c) * p.norm.c + p.norm.c_bias if layer_norm else c)
    if projection_size:
        h = h @ p.w_p
    if projection_clip:
        h = np.minimum(np.maximum(h, -projection_clip), projection_clip)
    return h, c
