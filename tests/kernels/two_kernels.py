"""Two kernels that could run at once, in one program and in two that two threads start, beside `Scan`.

python tests/kernels/two_kernels.py [interpreted]
"""

import functools
import sys
import threading

import jax
import jax.numpy as jnp
import numpy as np

from rnnjax import LSTM, Pallas, Scan, bidirectional, init_bidirectional


def gradient(method, cell, params, xs):
    def loss(params):
        ys, states = bidirectional(cell, cell, params, xs, method=method)
        return jnp.square(ys).mean() + sum(jnp.square(leaf).mean() for leaf in jax.tree.leaves(states))

    return jax.grad(loss)(params)


def error(got, expected):
    """Returns the largest difference, as a share of an array's largest number."""
    pairs = zip(jax.tree.leaves(got), jax.tree.leaves(expected))
    return max(float(np.abs(a - b).max() / np.abs(b).max()) for a, b in pairs)


def main(interpret=False):
    size, batch, steps, repeats, threads = (4, 2, 3, 1, 1) if interpret else (512, 16, 200, 50, 2)
    cell = LSTM(size)
    params = init_bidirectional(jax.random.key(0), cell, cell, 8)
    xs = jax.random.normal(jax.random.key(1), (batch, steps, 8), jnp.float32 if interpret else jnp.bfloat16)
    by_kernels, by_scan = (jax.jit(functools.partial(gradient, method, cell)) for method in (Pallas(interpret), Scan()))
    found = {}

    def repeat(number):
        for _ in range(repeats):
            found[number] = by_kernels(params, xs)
        jax.block_until_ready(found[number])

    running = [threading.Thread(target=repeat, args=(number,)) for number in range(threads)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    expected = by_scan(params, xs)
    print("error", max(error(each, expected) for each in found.values()))


if __name__ == "__main__":
    main(interpret="interpreted" in sys.argv[1:])
