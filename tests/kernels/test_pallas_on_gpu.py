"""On a GPU: the kernels give the values and gradients of `Scan` at the sizes they are for."""

import functools
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cells_under_test import UpdateGateRNN, inputs, parameters

from rnnjax import GRU, LRU, LSTM, Associative, BasicRNN, Heads, MinGRU, Pallas, Scan, unroll

pytestmark = pytest.mark.skipif(jax.default_backend() != "gpu", reason="needs a GPU")
T, I = 50, 32
CASES = {
    "rnn_64": (BasicRNN(64), 16, {}),
    "rnn_640": (BasicRNN(640), 256, {}),
    "lstm_48": (LSTM(48), 5, {}),
    "lstm_64": (LSTM(64), 16, {"lengths": np.arange(16) * 3}),
    "lstm_128": (LSTM(128, peephole=True), 40, {"resets": np.arange(40 * T).reshape(40, T) % 7 == 0}),
    "gru_100": (GRU(100), 300, {"reverse": True}),
    "lstm_256": (LSTM(256), 16, {"lengths": np.arange(16) * 3, "resets": np.arange(16 * T).reshape(16, T) % 5 == 0}),
    "own_512": (UpdateGateRNN(512), 16, {}),
    "gru_768": (GRU(768), 16, {}),
    "lstm_768": (LSTM(768), 16, {}),
    "lstm_8_x_64": (Heads(LSTM(512), 8), 16, {"lengths": np.arange(16) * 3}),
    "gru_2_x_256": (Heads(GRU(512), 2), 16, {}),
}
# In float32 the weight of 768 units is too large to be multiplied by the gradients of several gates.
PAIRS = [
    pytest.param(*case, dtype, id=f"{name}-{dtype.__name__}")
    for name, case in CASES.items()
    for dtype in (jnp.float32, jnp.bfloat16, jnp.float16)
    if not (dtype == jnp.float32 and case[0].output_size == 768)
]


def found_by(method, cell, params, xs, options):
    def loss(params, xs):
        ys, last = unroll(cell, params, xs, method=method, **options)
        weighed = jnp.cos(jnp.arange(ys.size)).reshape(ys.shape) * ys
        return weighed.sum() + sum(jnp.sin(leaf).sum() for leaf in jax.tree.leaves(last)), (ys, last)

    return jax.jit(jax.grad(loss, argnums=(0, 1), has_aux=True))(params, xs)


@pytest.mark.parametrize(("cell", "batch", "options", "dtype"), PAIRS)
def test_values_and_gradients_are_those_of_scan_within_rounding(cell, batch, options, dtype):
    size = cell.output_size
    params = jax.tree.map(lambda leaf: leaf / np.sqrt(size), parameters(cell, I))
    xs = inputs(batch, T, I, dtype=dtype)
    found = functools.partial(found_by, cell=cell, options=options)
    with jax.default_matmul_precision("highest"):
        exact = found(Scan(), params=params, xs=xs.astype(jnp.float32))
    scan, kernels = (found(method, params=params, xs=xs) for method in (Scan(), Pallas()))

    def error(got):
        pairs = zip(*(map(np.float64, jax.tree.leaves(tree)) for tree in (got, exact)))
        return np.array([np.abs(a - b).max() / np.abs(b).max() for a, b in pairs])

    np.testing.assert_array_less(error(kernels), 3 * error(scan) + (1e-3 if dtype == jnp.float32 else 2e-2))


def test_two_kernels_that_could_run_at_once_end_and_are_right():
    program = Path(__file__).with_name("two_kernels.py")
    # In a process of its own, since what hangs on a GPU cannot be ended otherwise; without most of the GPU's memory,
    # which this one has.
    environment = os.environ | {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
    ended = subprocess.run(
        [sys.executable, program], env=environment, capture_output=True, text=True, timeout=180, check=False
    )
    assert ended.returncode == 0, ended.stderr
    assert float(ended.stdout.split()[-1]) < 0.05


@pytest.mark.parametrize(("cell", "length"), [(LRU(256), 1024), (MinGRU(64), 4096), (MinGRU(768), 1000)], ids=str)
def test_linear_cells_by_the_kernel_are_those_by_the_tree(cell, length):
    params, xs = parameters(cell, I), inputs(4, length, I)
    resets = np.arange(4 * length).reshape(4, length) % 301 == 0
    found = functools.partial(found_by, cell=cell, params=params, xs=xs, options={"resets": resets})
    with jax.default_matmul_precision("highest"):
        kernel, tree = (found(Associative(implementation)) for implementation in ("pallas", "associative"))
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-3), kernel, tree)
