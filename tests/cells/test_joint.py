import jax
import numpy as np

import rnnjax
from rnnjax.cells.joint import JointBasicRNN


def test_both_weights_are_parts_of_one_matrix():
    def numbered(key, shape, dtype):
        return np.arange(np.prod(shape), dtype=dtype).reshape(shape)

    params = JointBasicRNN(4, kernel_init=numbered).init(jax.random.key(0), 3)
    kernel = np.concatenate([params.w_x, params.w_h])[:, 0]
    np.testing.assert_array_equal(kernel, np.arange(28).reshape(7, 4))
    np.testing.assert_array_equal(params.b, np.zeros((1, 4)))


def test_glorot_weights_reach_the_bound_of_the_whole_matrix_and_no_further():
    params = JointBasicRNN(100).init(jax.random.key(0), 100)
    bound = np.sqrt(6 / 300)
    for weight in (params.w_x, params.w_h):
        assert 0.99 * bound < np.abs(weight).max() <= bound


def test_it_is_a_basic_cell_in_everything_else():
    cell = JointBasicRNN(4, activation="relu")
    params, xs = cell.init(jax.random.key(0), 3), jax.random.normal(jax.random.key(1), (2, 5, 3))
    found, expected = (rnnjax.unroll(c, params, xs)[0] for c in (cell, rnnjax.BasicRNN(4, activation="relu")))
    np.testing.assert_array_equal(found, expected)
