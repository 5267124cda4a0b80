import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from fixtures.parameters import drawn_parameters
from flax.errors import InvalidRngError

import rnnjax
from rnnjax.models.next_item import NextItem, SharedNextItem
from rnnjax.models.next_item_baselines import Successors, items_again, popular_items, recall_and_mrr

ITEMS = np.array([[0, 3, 3, 1], [2, -1, 6, 9]])


def variables_of(model):
    return drawn_parameters(lambda key: model.init(key, jnp.asarray(ITEMS)))


@functools.partial(jax.jit, static_argnames=("model", "deterministic"))
def apply(model, variables, key=None, deterministic=False):
    rngs = None if key is None else {"dropout": key}
    return model.apply(variables, jnp.asarray(ITEMS), rngs=rngs, deterministic=deterministic)


def test_the_model_is_a_cell_over_one_hot_items_and_a_dense_layer_in_value_and_gradient():
    cell = rnnjax.LSTM(5)
    model = NextItem(cell, 7)
    variables = variables_of(model)

    def one_hot_model(variables):
        params = variables["params"]
        ys, _ = rnnjax.unroll(cell, params["OneHotRNN_0"]["rnn"], jax.nn.one_hot(ITEMS, 7))
        return ys[:, -1] @ params["Dense_0"]["kernel"] + params["Dense_0"]["bias"]

    def loss(run):
        return jax.jit(jax.value_and_grad(lambda variables: jax.nn.log_softmax(run(variables))[:, 2].sum()))

    found, wanted = loss(lambda v: model.apply(v, jnp.asarray(ITEMS)))(variables), loss(one_hot_model)(variables)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_shared_vectors_read_and_score_and_clicked_items_get_their_places_logit():
    cell = rnnjax.GRU(5)
    model = SharedNextItem(cell, 7, 3)
    variables = variables_of(model)
    params = jax.tree.map(np.asarray, variables["params"])
    vectors, again = params["Embed_0"]["embedding"], params["again"]
    xs = np.where(((ITEMS >= 0) & (ITEMS < 7))[..., None], vectors[ITEMS % 7], 0)
    ys, _ = jax.jit(functools.partial(rnnjax.unroll, cell))(params["RNN_0"]["rnn"], xs)
    wanted = np.asarray(ys)[:, -1] @ params["Dense_0"]["kernel"] + params["Dense_0"]["bias"]
    wanted = wanted @ vectors.T + params["bias"]
    wanted[0, [0, 3, 1]] += [again[0], again[1] + again[2], again[3]]
    wanted[1, [2, 6]] += [again[0], again[2]]
    np.testing.assert_allclose(apply(model, variables), wanted, rtol=1e-5, atol=1e-6)


def test_dropout_needs_the_rng():
    model = SharedNextItem(rnnjax.GRU(5), 7, 3, dropout=0.5)
    variables = variables_of(model)
    with pytest.raises(InvalidRngError, match="dropout"):
        apply(model, variables)
    plain = apply(model, variables, deterministic=True)
    assert not np.allclose(plain, apply(model, variables, key=jax.random.key(1)))


# Baselines: windows of a training split with two sessions, the first of two windows.
TRAIN = np.array([[0, 1, 2], [1, 2, 0], [3, 2, 3]])
FOLLOWING, SESSION = np.array([0, 3, 2]), np.array([0, 0, 1])


def test_popular_items_are_the_first():
    np.testing.assert_array_equal(popular_items(TRAIN, 2), [[0, 1]] * 3)


def test_items_again_are_the_last_first_and_then_the_popular():
    np.testing.assert_array_equal(items_again(np.array([[4, 1, 4], [-1, 2, -1]]), 4), [[4, 1, 0, 2], [2, 0, 1, 3]])
    np.testing.assert_array_equal(items_again(np.array([[4, 1, 3]]), 2), [[3, 1]])


def test_successors_count_every_step_of_a_session_once():
    # The steps are 0>1, 1>2, 2>0, 0>3 and 3>2, 2>3, 3>2.
    found = Successors(TRAIN, FOLLOWING, SESSION)(np.array([[0, 0, 0], [0, 0, 1], [0, 0, 2], [0, 0, 3], [0, 0, 9]]), 3)
    np.testing.assert_array_equal(found, [[1, 3, 0], [2, 0, 1], [0, 3, 1], [2, 0, 1], [0, 1, 2]])


def test_successors_are_in_the_order_of_their_frequency():
    items = np.array([[0, 5], [0, 5], [0, 5], [0, 5]])
    found = Successors(items, np.array([1, 2, 2, 7]), np.arange(4))(np.array([[0, 5]]), 3)
    np.testing.assert_array_equal(found, [[2, 1, 7]])


def test_recall_and_mrr_by_hand():
    lists = np.array([[4, 1, 2], [0, 1, 2], [0, 1, 2], [0, 1, -1]])
    recall, mrr = recall_and_mrr(lists, np.array([4, 2, 5, -1]))
    assert recall == pytest.approx(2 / 4)
    assert mrr == pytest.approx((1 + 1 / 3) / 4)
