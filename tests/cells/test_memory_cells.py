"""Cells with a memory follow their equations, written once more in NumPy, and say what is wrong with one's own."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy_cells import randomised, sigmoid

from rnnjax import (
    Association,
    Associative,
    Chunkwise,
    GatedDeltaNet,
    HiddenState,
    LinearParams,
    MemoryCell,
    Scan,
    unroll,
)

B, T, I, H, N, K = 2, 6, 3, 4, 2, 2
RNG = np.random.default_rng(1)
XS, S0 = RNG.standard_normal((B, T, I)), RNG.standard_normal((B, N, K, K))


def delta(p, s, x, negative, decays):
    """One step, as in the paper: S (a (1 - rate k k^T)) + rate v k^T, of matrices that lie the other way around."""
    silu = lambda a: a * sigmoid(a)  # noqa: E731
    unit = lambda a: a / np.sqrt((a**2).sum(-1, keepdims=True) + 1e-6)  # noqa: E731
    q, k, v = (silu(x @ p.w_x[:, gate] + p.b[gate]).reshape(B, N, K) for gate in range(3))
    step, rate = (x @ p.w_head[:, gate] + p.b_head[gate] for gate in range(2))
    rate = (1 + negative) * sigmoid(rate)[..., None, None]
    a = np.exp(-np.exp(p.log_a) * np.log1p(np.exp(step)))[..., None, None] if decays else 1
    k = unit(k)
    keys = np.einsum("bnk,bnl->bnkl", k, k)
    s = s @ (a * (np.eye(K) - rate * keys)) + rate * np.einsum("bnv,bnk->bnvk", v, k)
    return s, np.einsum("bnvk,bnk->bnv", s, unit(q)).reshape(B, H) / np.sqrt(K)


@pytest.mark.parametrize("options", [{}, {"negative": True}, {"decays": False}], ids=str)
def test_its_steps_are_those_of_the_paper(options):
    with jax.enable_x64(True):
        cell, s = GatedDeltaNet(H, N, **options), S0
        params = randomised(cell, I)
        given = jax.device_put(params), XS, HiddenState(S0.swapaxes(-1, -2))
        found = [jax.jit(lambda *given, m=m: unroll(cell, *given, method=m))(*given) for m in (Scan(), Chunkwise(4))]
        for t in range(T):
            s, y = delta(params, s, XS[:, t], options.get("negative", False), options.get("decays", True))
            for ys, _ in found:
                np.testing.assert_allclose(ys[:, t], y, rtol=1e-9)
        for _, state in found:
            np.testing.assert_allclose(state.h.swapaxes(-1, -2), s, rtol=1e-9)


@dataclasses.dataclass(frozen=True)
class Lookup(MemoryCell):
    """Inputs are a key and a value, and the rate is 1: what is written to a key is what is read by it."""

    def init(self, key, input_size):
        return ()

    def inputs(self, params, xs, *, key=None):
        return xs

    def association(self, params, zs):
        key, value = zs[..., None, :4], zs[..., None, 4:]
        return Association(key, key, value, rate=jnp.ones(key.shape[:-1]))


@pytest.mark.parametrize("method", [Scan(), Chunkwise(), Chunkwise(3)])
def test_the_delta_rule_replaces_what_a_key_finds_and_leaves_what_others_find(method):
    cell, keys, values = Lookup(4), np.eye(4)[[0, 1, 0, 2]], np.arange(16.0).reshape(4, 4)
    xs = np.concatenate([keys, values], -1, dtype=np.float32)[None]
    ys, state = unroll(cell, (), xs, method=method)
    np.testing.assert_allclose(ys[0], values, atol=1e-5)
    np.testing.assert_allclose(state.h[0, 0], [values[2], values[1], values[3], np.zeros(4)], atol=1e-5)


def test_it_starts_with_the_decay_as_published():
    p = GatedDeltaNet(64, 64).init(jax.random.key(0), 8)
    a, steps = np.exp(p.log_a), np.log1p(np.exp(p.b_head[0]))
    assert 1 <= a.min() < 2
    assert 14 < a.max() <= 16
    assert 9e-4 < steps.min() < 2e-3
    assert 5e-2 < steps.max() < 0.11


@dataclasses.dataclass(frozen=True)
class Wrong(MemoryCell):
    """An association whose field `wrong` is something else."""

    wrong: str = "query"
    what: str = "shape"
    gate_count = 3

    def init(self, key, input_size):
        return LinearParams(jnp.ones((input_size, 3, self.hidden_size)), jnp.ones((3, self.hidden_size)))

    def association(self, params, zs):
        right = Association(*self.by_head(zs), zs[..., 0, :1, None], zs[..., 0, :1])
        return tuple(right) if self.what == "tuple" else right._replace(**{self.wrong: zs[..., 0, :3]})


@pytest.mark.parametrize("method", [Scan(), Chunkwise()])
@pytest.mark.parametrize(
    ("cell", "error", "sentence"),
    [
        (Wrong(4, what="tuple"), TypeError, "association of Wrong must return a rnnjax.Association, got tuple"),
        (Wrong(4), ValueError, r"query of Wrong must end in the axes \[1, 4\], got the shape .*3\]"),
        (Wrong(4, wrong="log_decay"), ValueError, r"log_decay of Wrong must end in the axes \[1, 4\], got the shape"),
        (Wrong(4, wrong="rate"), ValueError, r"rate of Wrong must end in the axes \[1\], got the shape"),
    ],
)
def test_what_is_wrong_with_an_association_is_one_sentence(cell, error, sentence, method):
    with pytest.raises(error, match=sentence):
        unroll(cell, cell.init(jax.random.key(0), I), jnp.ones((B, T, I)), method=method)


def test_wrong_options_and_methods_are_refused():
    with pytest.raises(ValueError, match="heads must divide the hidden size 5, got 2"):
        GatedDeltaNet(5, 2)
    with pytest.raises(TypeError, match="negative must be True or False, got 'no'"):
        GatedDeltaNet(4, 2, negative="no")
    cell = GatedDeltaNet(4)
    with pytest.raises(ValueError, match=r"GatedDeltaNet is not one here; use Chunkwise\(\) or Scan\(\)"):
        unroll(cell, cell.init(jax.random.key(0), I), jnp.ones((B, T, I)), method=Associative())
