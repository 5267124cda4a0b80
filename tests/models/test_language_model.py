import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from fixtures.parameters import drawn_parameters
from flax.errors import InvalidRngError

import rnnjax
from rnnjax.models.language_model import LanguageModel, continue_tokens

STACK = rnnjax.Stack((rnnjax.LSTM(5), rnnjax.GRU(4)))
TOKENS = np.random.default_rng(0).integers(0, 7, (2, 6))


def language_model(cell=STACK, **options):
    model = LanguageModel(cell, 7, 4, **options)
    # Every parameter random: a bias of zero hides one that is missing.
    return model, drawn_parameters(lambda key: model.init(key, jnp.asarray(TOKENS)), scale=1)


MODEL, VARIABLES = language_model()


@functools.partial(jax.jit, static_argnames=("model", "deterministic"))
def apply(model, variables, tokens, state=None, key=None, deterministic=False):
    rngs = None if key is None else {"dropout": key}
    return model.apply(variables, tokens, state, deterministic=deterministic, rngs=rngs)


@pytest.mark.parametrize("tied", [False, True])
def test_logits_are_a_softmax_layer_on_the_outputs_for_embedded_tokens(tied):
    model, variables = language_model(tied=tied)
    params = variables["params"]

    @jax.jit
    def by_parts(params):
        embedding = params["embedding"]["embedding"]
        ys, state = rnnjax.unroll(STACK, params["recurrent"]["rnn"], embedding[TOKENS])
        if tied:
            return ys @ embedding.T + params["bias"], state
        return ys @ params["softmax"]["kernel"] + params["softmax"]["bias"], state

    logits, state = apply(model, variables, TOKENS)
    expected, expected_state = by_parts(params)
    assert ("softmax" in params) is not tied
    assert logits.shape == (2, 6, 7)
    np.testing.assert_allclose(logits, expected, rtol=1e-5, atol=1e-5)
    for found, wanted in zip(jax.tree.leaves(state), jax.tree.leaves(expected_state), strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)


def test_tied_weights_need_outputs_of_the_embeddings_size():
    with pytest.raises(ValueError, match="embedding's size 4, got 5"):
        language_model(rnnjax.LSTM(5), tied=True)


def test_no_prediction_depends_on_what_comes_later():
    xs = np.random.default_rng(3).standard_normal((2, 6, 4)).astype(np.float32)

    def losses(xs):
        logits, _ = MODEL.apply(VARIABLES, xs, method="predict")
        return -jax.nn.log_softmax(logits)[..., 0]

    jacobian = np.abs(jax.jit(jax.jacrev(losses))(xs))  # [B, T, B, T, E]
    for t in range(6):
        assert not jacobian[:, t, :, t + 1 :].any()
        assert jacobian[:, t, [0, 1], : t + 1].any(-1).sum() >= 2 * (t + 1), "nor forgets what came before"
    assert not jacobian[0, :, 1].any()
    assert not jacobian[1, :, 0].any()


def test_reading_on_from_the_state_is_reading_in_one_piece():
    whole, end = apply(MODEL, VARIABLES, TOKENS)
    first, state = apply(MODEL, VARIABLES, TOKENS[:, :3], MODEL.cell.initial_state(2))
    second, last = apply(MODEL, VARIABLES, TOKENS[:, 3:], state)
    np.testing.assert_allclose(np.concatenate([first, second], 1), whole, rtol=1e-5, atol=1e-5)
    for found, wanted in zip(jax.tree.leaves(last), jax.tree.leaves(end), strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)


def test_dropout_needs_the_rng():
    model, variables = language_model(output_dropout=0.5)
    with pytest.raises(InvalidRngError, match="dropout"):
        model.apply(variables, TOKENS)
    plain, _ = apply(model, variables, TOKENS, deterministic=True)
    np.testing.assert_allclose(plain, apply(MODEL, VARIABLES, TOKENS)[0], rtol=1e-5, atol=1e-6)
    drawn = [apply(model, variables, TOKENS, key=jax.random.key(seed))[0] for seed in (0, 0, 1)]
    np.testing.assert_array_equal(drawn[0], drawn[1])
    assert not np.allclose(drawn[0], drawn[2])
    assert not np.allclose(drawn[0], plain)


@pytest.mark.promotes_types
def test_in_bfloat16_logits_and_state_are_float32():
    model, _ = language_model(dtype=jnp.bfloat16)
    logits, state = apply(model, VARIABLES, TOKENS)
    assert {leaf.dtype for leaf in jax.tree.leaves((logits, state))} == {jnp.dtype("float32")}
    exact, _ = apply(MODEL, VARIABLES, TOKENS)
    np.testing.assert_allclose(logits, exact, atol=0.3)
    assert not np.array_equal(logits, exact)


# Generation


def generated(seed=0, prompt=TOKENS, length=12, **options):
    return continue_tokens(MODEL, VARIABLES, prompt, jax.random.key(seed), length=length, **options).tolist()


def test_generation_is_the_same_under_the_same_key_and_not_under_another():
    assert generated(0) == generated(0)
    assert generated(0) != generated(1)
    assert np.shape(generated()) == (2, 12)


def test_greedy_generation_takes_the_likeliest_after_everything_so_far():
    greedy = generated(temperature=0, length=4)
    logits, _ = apply(MODEL, VARIABLES, np.concatenate([TOKENS, greedy], 1))
    np.testing.assert_array_equal(logits[:, TOKENS.shape[1] - 1 : -1].argmax(-1), greedy)
    assert generated(temperature=1.0, top_k=1, length=4) == greedy
    assert generated(temperature=1.0, top_p=1e-6, length=4) == greedy


@pytest.mark.parametrize(
    ("prompt", "length", "sentence"),
    [
        (TOKENS[:, :0], 3, r"prompt must have shape \[B, P\], with one token at least, got \[2, 0\]"),
        (TOKENS[0], 3, r"prompt must have shape \[B, P\], with one token at least, got \[6\]"),
        (TOKENS, 0, "length must be at least 1, got 0"),
    ],
)
def test_nothing_to_go_on_from_and_nothing_to_generate_are_refused(prompt, length, sentence):
    with pytest.raises(ValueError, match=sentence):
        generated(prompt=prompt, length=length)


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("shape", [(0, 3), (2, 0), (0, 0)])
def test_no_texts_and_no_tokens_have_no_logits(shape, tied):
    model, variables = language_model(tied=tied)
    logits, state = model.apply(variables, jnp.zeros(shape, jnp.int32), deterministic=True)
    assert logits.shape == (*shape, 7)
    assert jax.tree.leaves(state)[0].shape == (shape[0], 5)


def test_no_prompts_are_continued_by_nothing():
    assert generated(prompt=np.zeros((0, 2), np.int32)) == []
