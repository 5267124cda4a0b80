"""Variables of other libraries, drawn at random, and what their tests compare with."""

import jax
import numpy as np

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
