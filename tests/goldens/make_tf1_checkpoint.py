"""Makes tests/goldens/tf1_checkpoint with TensorFlow: ``python tests/goldens/make_tf1_checkpoint.py``.

Two LSTMCells with peepholes in a MultiRNNCell and a dense layer behind them, trained by Adam for three steps and saved
by `tf.train.Saver`, with all that training leaves in a checkpoint; `outputs.npz` has inputs ``xs [B, T, I]`` and
outputs ``ys [B, T, O]``. Those here were made with TensorFlow 2.21.0 and tf_keras 2.21.0, which have TensorFlow 1's
cells.
"""

import os
import pathlib

import numpy as np

os.environ["TF_USE_LEGACY_KERAS"] = "1"
import tensorflow

FOLDER = pathlib.Path(__file__).parent / "tf1_checkpoint"
B, T, I, H, P = 2, 5, 3, 4, 2

tf = tensorflow.compat.v1
tf.disable_v2_behavior()
tf.set_random_seed(0)


def outputs(xs):
    cells = [tf.nn.rnn_cell.LSTMCell(H, use_peepholes=True) for _ in range(2)]
    ys, _ = tf.nn.dynamic_rnn(tf.nn.rnn_cell.MultiRNNCell(cells), xs, dtype=tf.float32)
    with tf.variable_scope("dense"):
        kernel, bias = tf.get_variable("kernel", [H, P]), tf.get_variable("bias", [P])
    return tf.tensordot(ys, kernel, 1) + bias


def main():
    FOLDER.mkdir(exist_ok=True)
    xs = np.random.default_rng(0).normal(size=(B, T, I)).astype(np.float32)
    ys = outputs(tf.constant(xs))
    step = tf.train.get_or_create_global_step()
    train = tf.train.AdamOptimizer(0.1).minimize(tf.reduce_mean((ys - 1) ** 2), global_step=step)
    with tf.Session() as session:
        session.run(tf.global_variables_initializer())
        for _ in range(3):
            session.run(train)
        tf.train.Saver().save(session, str(FOLDER / "model.ckpt"), global_step=3, write_meta_graph=False)
        np.savez(FOLDER / "outputs.npz", xs=xs, ys=session.run(ys))
    (FOLDER / "checkpoint").unlink()


if __name__ == "__main__":
    main()
