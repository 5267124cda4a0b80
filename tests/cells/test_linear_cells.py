"""Linear cells follow their equations, written once more as loops in NumPy, and start as published."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy_cells import randomised, sigmoid

from rnnjax import LRU, QRNN, RGLRU, Associative, Complex, GatedLinearAttention, HiddenState, MinGRU, MinLSTM, unroll

T, B, I, H, O = 5, 2, 4, 3, 2
RNG = np.random.default_rng(1)
XS, H0, IMAG = RNG.standard_normal((T, B, I)), *RNG.standard_normal((2, B, H))
MATRICES = RNG.standard_normal((B, 2, 2, 2))


def projected(p, x):
    return [x @ p.w_x[:, gate] + p.b[gate] for gate in range(p.w_x.shape[1])]


def positive(x):
    return np.where(x >= 0, x + 0.5, sigmoid(x))


def min_gru(p, h, x, candidate=lambda x: x):
    z, n = projected(p, x)
    h = (1 - sigmoid(z)) * h + sigmoid(z) * candidate(n)
    return h, h


def min_lstm(p, h, x, candidate=lambda x: x):
    f, i, n = projected(p, x)
    f, i = sigmoid(f), sigmoid(i)
    h = f / (f + i) * h + i / (f + i) * candidate(n)
    return h, h


def rg_lru(p, h, x):
    x = x @ p.w_in[:, 0] + p.b_in[0]
    r, i = projected(p, x)
    a = sigmoid(p.decay) ** (8 * sigmoid(r))
    h = a * h + np.sqrt(1 - a**2) * (sigmoid(i) * x)
    return h, h


def qrnn(p, c, x, pooling):
    n, f, *others = projected(p, x)
    admit = sigmoid(others[1]) if pooling == "ifo" else 1 - sigmoid(f)
    c = sigmoid(f) * c + admit * np.tanh(n)
    return c, c if pooling == "f" else sigmoid(others[0]) * c


def lru(p, h, x):
    h = np.exp(-np.exp(p.nu) + 1j * np.exp(p.theta)) * h + np.exp(p.gamma) * (x @ (p.w_x[:, 0] + 1j * p.w_x[:, 1]))
    y = (h @ (p.w_y[0] + 1j * p.w_y[1])).real
    return h, y if p.d is None else y + p.d * x


def linear_attention(p, state, x):
    q, k, v, a = (gate.reshape(B, 2, 2) for gate in projected(p, x))
    keep = sigmoid(a) ** (1 / 16)
    state = keep[..., None] * state + k[..., None] * v[:, :, None]
    return state, (q[:, :, None] @ state)[:, :, 0].reshape(B, 4) / np.sqrt(2)


CASES = {
    "min_gru": (MinGRU(H), min_gru),
    "min_gru_positive": (MinGRU(H, positive=True), lambda *args: min_gru(*args, positive)),
    "min_lstm": (MinLSTM(H), min_lstm),
    "min_lstm_positive": (MinLSTM(H, positive=True), lambda *args: min_lstm(*args, positive)),
    "rg_lru": (RGLRU(H, project_inputs=True), rg_lru),
    "qrnn_f": (QRNN(H, pooling="f"), lambda *args: qrnn(*args, "f")),
    "qrnn_fo": (QRNN(H), lambda *args: qrnn(*args, "fo")),
    "qrnn_ifo": (QRNN(H, pooling="ifo"), lambda *args: qrnn(*args, "ifo")),
    "lru": (LRU(H, size=O), lru),
    "lru_with_skip": (LRU(H, size=I), lru),
    "linear_attention": (GatedLinearAttention(4, heads=2), linear_attention),
}


@pytest.mark.parametrize("name", CASES)
def test_a_linear_cell_follows_its_equations(name):
    cell, step = CASES[name]
    params = randomised(cell, I)
    is_lru = name.startswith("lru")
    start = MATRICES if name == "linear_attention" else H0
    h, expected = (H0 + 1j * IMAG if is_lru else start), []
    for x in XS:
        h, y = step(params, h, x)
        expected.append(y)
    with jax.enable_x64(True):
        state = Complex(jnp.array(H0), jnp.array(IMAG)) if is_lru else HiddenState(jnp.array(start))
        run = jax.jit(lambda *args: unroll(cell, *args, time_major=True, method=Associative()))
        ys, last = run(*jax.device_put((params, XS)), state)
    np.testing.assert_allclose(ys, np.stack(expected), rtol=1e-10, atol=1e-12)
    got = np.asarray(last[0]) + 1j * np.asarray(last[1]) if is_lru else last.h
    np.testing.assert_allclose(got, h, rtol=1e-10, atol=1e-12)


def test_lru_starts_uniform_on_the_ring_and_keeps_the_size_of_states():
    cell = LRU(1000, size=4, smallest_radius=0.5, largest_radius=0.9, largest_phase=1.0)
    p = cell.init(jax.random.key(0), I)
    radius, phase = np.exp(-np.exp(p.nu)), np.exp(p.theta)
    assert radius.min() >= 0.5
    assert max(radius.max() / 0.9, phase.max()) <= 1
    quartiles = np.quantile(radius**2, [0.25, 0.5, 0.75])  # of area on the ring
    np.testing.assert_allclose(quartiles, 0.25 + 0.56 * np.array([0.25, 0.5, 0.75]), atol=0.03)
    np.testing.assert_allclose(np.exp(p.gamma), np.sqrt(1 - radius**2), rtol=1e-4)
    np.testing.assert_allclose([p.w_x.var() * 2 * I, p.w_y.var() * 1000], 1, atol=0.05)
    assert all(np.isfinite(leaf).all() for leaf in LRU(50).init(jax.random.key(0), 1) if leaf is not None)


def test_rg_lru_starts_with_the_decay_as_published():
    p = RGLRU(64).init(jax.random.key(0), 64)
    decays = sigmoid(np.asarray(p.decay, float)) ** 8
    assert 0.9 <= decays.min() < 0.92
    assert 0.98 < decays.max() <= 0.9991
    np.testing.assert_allclose(np.var(p.w_x) * 64, 1, atol=0.1)


def test_gates_that_are_closed_share_as_their_logarithms_say():
    cell = MinLSTM(1)
    params = randomised(cell, 1)._replace(w_x=np.zeros((1, 3, 1)), b=np.array([[-200.0], [-201.0], [1.0]]))
    ys, _ = unroll(cell, jax.tree.map(np.float32, params), np.zeros((1, 1, 1), np.float32))
    np.testing.assert_allclose(ys[0, 0, 0], 1 / (1 + np.e), rtol=1e-5)


def test_a_recurrence_gate_that_is_closed_has_a_finite_gradient():
    cell = RGLRU(1)
    params = jax.tree.map(jnp.float32, randomised(cell, 1)._replace(b=np.array([[-200.0], [0.0]])))
    gradient = jax.jit(jax.grad(lambda params: unroll(cell, params, jnp.ones((1, 3, 1)))[0].sum()))(params)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))


@pytest.mark.parametrize(
    ("make", "error", "sentence"),
    [
        (lambda: QRNN(H, pooling="of"), ValueError, """pooling must be "f", "fo" or "ifo", got 'of'"""),
        (lambda: LRU(H, smallest_radius=0.9, largest_radius=0.5), ValueError, "smallest_radius < largest_radius <= 1"),
        (lambda: LRU(H, largest_phase=0.0), ValueError, "largest_phase must be positive, got 0.0"),
        (lambda: RGLRU(H).init(jax.random.key(0), I), ValueError, r"of its size 3, got 4; .*project_inputs=True"),
        (lambda: GatedLinearAttention(5, heads=2), ValueError, "heads must divide the hidden size 5, got 2"),
        (lambda: GatedLinearAttention(4, sharpness=0.0), ValueError, "sharpness must be positive, got 0.0"),
        (lambda: MinGRU(0), ValueError, "hidden_size must be at least 1, got 0"),
        (lambda: MinGRU(H, dtype=int), TypeError, "dtype must be a floating-point type, got int"),
    ],
)
def test_options_that_do_not_fit_are_refused_in_one_sentence(make, error, sentence):
    with pytest.raises(error, match=sentence):
        make()
