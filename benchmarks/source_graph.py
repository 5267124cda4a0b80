"""The course's own graph on TensorFlow, to be timed on the same machine: ``python benchmarks/source_graph.py``.

Needs TensorFlow 2.15, which needs a NumPy of its own; so this file imports nothing of this project and runs in a
virtual environment of its own: ``python -m venv tf && tf/bin/pip install tensorflow==2.15.1 "numpy<2"``. Beside it
runs ``python -m rnnjax.train --config configs/mnist.py:VARIANT``, which prints its steps per second.
"""

# TensorFlow lives in an environment of its own.
# pyright: reportMissingImports=false, reportMissingModuleSource=false

import argparse
import statistics
import sys
import time

import numpy as np

# units, layers, batch size
VARIANTS = {"rnn150": (150, 1, 150), "rnn31": (31, 1, 128), "rnn31x3": (31, 3, 128)}


def main(arguments: list[str]) -> None:
    """Prints the milliseconds of a training step: the median over rounds of the mean of a round."""
    parser = argparse.ArgumentParser(description="Times the course's MNIST graph on TensorFlow.")
    parser.add_argument("variants", nargs="*", default=list(VARIANTS), help=", ".join(VARIANTS))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=100, help="of a round")
    options = parser.parse_args(arguments)
    import tensorflow as tf

    for variant in options.variants:
        step = training_step(tf, *VARIANTS[variant])
        times = [seconds(step, options.steps) / options.steps * 1e3 for _ in range(options.rounds + 1)][1:]
        figures = f"{statistics.median(times):.2f} ms a step ({min(times):.2f} to {max(times):.2f})"
        print(f"{variant}: {figures}, TensorFlow {tf.__version__}", flush=True)


def seconds(step, count: int) -> float:
    """Returns the time of some steps."""
    begin = time.perf_counter()
    for _ in range(count):
        step()
    return time.perf_counter() - begin


def training_step(tf, units: int, layers: int, batch: int):
    """Returns a function that takes one step of Adam on a batch of 28 rows of 28 pixels, fed from the host."""
    v1 = tf.compat.v1
    v1.disable_eager_execution()
    v1.reset_default_graph()
    xs, labels = v1.placeholder(tf.float32, [None, 28, 28]), v1.placeholder(tf.int32, [None])
    cells = [v1.nn.rnn_cell.BasicRNNCell(units) for _ in range(layers)]
    cell = cells[0] if layers == 1 else v1.nn.rnn_cell.MultiRNNCell(cells)
    _, states = v1.nn.dynamic_rnn(cell, xs, dtype=tf.float32)
    last = states if layers == 1 else states[-1]
    weight = v1.get_variable("w", [units, 10])
    logits = last @ weight + v1.get_variable("b", [10], initializer=v1.zeros_initializer())
    loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels=labels, logits=logits))
    update = v1.train.AdamOptimizer(1e-3).minimize(loss)
    session = v1.Session()
    session.run(v1.global_variables_initializer())
    rng = np.random.default_rng(0)
    feed = {xs: rng.random((batch, 28, 28), np.float32), labels: rng.integers(0, 10, batch).astype(np.int32)}
    return lambda: session.run(update, feed)


if __name__ == "__main__":
    main(sys.argv[1:])
