import functools

import jax
import jax.numpy as jnp
import numpy as np
from fixtures.parameters import drawn_parameters

import rnnjax
from rnnjax.models.scheduled_sampling import ScheduledSampling, true_tokens_shifted

B, T, E, V = 3, 5, 4, 6
CELL = rnnjax.GRU(5)
SAMPLING = ScheduledSampling(CELL, V)
PARAMS = drawn_parameters(lambda key: SAMPLING.init(key, E))
TOKENS = np.random.default_rng(0).integers(0, V, (B, T))


@functools.partial(jax.jit, static_argnames="cell")
def run(params, tokens, probability, key, cell=SAMPLING):
    params = params._replace(probability=probability)
    return rnnjax.unroll(cell, params, params.embedding[tokens], key=key)[0]


def test_with_probability_zero_it_is_teacher_forcing_in_values_and_gradients():
    def forced(params):
        ys, _ = rnnjax.unroll(CELL, params.cell, params.embedding[TOKENS])
        return (params.readout(ys) ** 2).sum()

    def sampled(params):
        return (run(params, TOKENS, 0.0, jax.random.key(1)) ** 2).sum()

    for a, b in zip(*(jax.tree.leaves(jax.jit(jax.value_and_grad(f))(PARAMS)) for f in (forced, sampled))):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_without_a_key_it_is_teacher_forcing():
    np.testing.assert_allclose(
        run(PARAMS, TOKENS, 1.0, None), run(PARAMS, TOKENS, 0.0, jax.random.key(0)), rtol=1e-5, atol=1e-6
    )


def test_with_probability_one_only_the_first_token_is_read():
    other = np.where(np.arange(T) > 0, (TOKENS + 1) % V, TOKENS)
    key = jax.random.key(1)
    np.testing.assert_array_equal(run(PARAMS, TOKENS, 1.0, key), run(PARAMS, other, 1.0, key))
    first = np.where(np.arange(T) == 0, (TOKENS + 1) % V, TOKENS)
    assert not np.allclose(run(PARAMS, TOKENS, 1.0, key), run(PARAMS, first, 1.0, key))


def test_the_token_read_is_drawn_from_the_last_logits():
    # One token is certain, so the draw is that token whatever the key.
    certain = PARAMS._replace(readout=PARAMS.readout._replace(b=np.float32(1e3) * (np.arange(V) == 2)))
    own = run(certain, TOKENS, 1.0, jax.random.key(5))
    right = run(certain, np.where(np.arange(T) > 0, 2, TOKENS), 0.0, jax.random.key(6))
    np.testing.assert_allclose(own, right, rtol=1e-5, atol=1e-5)


def test_the_share_of_own_tokens_is_the_probability_and_never_the_first():
    xs = jnp.zeros((40, 500, E))
    zs = SAMPLING.inputs(PARAMS._replace(probability=0.3), xs, key=jax.random.key(0))
    assert not np.asarray(zs.sampled[0]).any()
    assert abs(float(zs.sampled[1:].mean()) - 0.3) < 0.02


def test_dropout_inside_is_still_drawn_from_the_key():
    dropped = ScheduledSampling(rnnjax.Dropout(CELL, input_rate=0.5), V)
    one, again, other = (run(PARAMS, TOKENS, 0.0, jax.random.key(seed), dropped) for seed in (0, 0, 1))
    np.testing.assert_array_equal(one, again)
    assert not np.allclose(one, other)
    assert not np.allclose(one, run(PARAMS, TOKENS, 0.0, jax.random.key(0)))


def test_a_decoder_reads_the_first_token_then_every_target_but_the_last():
    np.testing.assert_array_equal(true_tokens_shifted(jnp.array([[5, 6, 7], [8, 9, 2]]), 1), [[1, 5, 6], [1, 8, 9]])
