import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from fixtures.parameters import array

import rnnjax
from rnnjax import unroll
from rnnjax.cells.attention import Bahdanau, Luong
from rnnjax.models import encoder_decoder
from rnnjax.models.decoding import beam_search, greedy
from rnnjax.models.encoder_decoder import EncoderDecoder

H, V, W, E = 4, 7, 6, 3
MODELS = {
    "plain": EncoderDecoder(V, W, E, rnnjax.LSTM(H), rnnjax.LSTM(H), reverse=True),
    "stack": EncoderDecoder(
        V,
        W,
        E,
        rnnjax.Stack((rnnjax.GRU(H), rnnjax.GRU(H))),
        rnnjax.Stack((rnnjax.GRU(H), Luong(rnnjax.GRU(H), 2 * H))),
        backward=rnnjax.Stack((rnnjax.GRU(H), rnnjax.GRU(H))),
    ),
    "context": EncoderDecoder(V, W, E, rnnjax.GRU(H), rnnjax.GRU(H), backward=rnnjax.LSTM(H), context=True),
    "attention": EncoderDecoder(V, W, E, rnnjax.GRU(H), Bahdanau(rnnjax.LSTM(H), 2 * H), backward=rnnjax.GRU(5 - 1)),
}
SOURCE = np.array([[4, 5, 6, 3, 4], [6, 5, 0, 0, 0], [5, 0, 0, 0, 0]])
LENGTHS = jax.device_put(np.array([5, 2, 1]))
TARGET = np.array([[4, 5, 3, 2], [5, 2, 0, 0], [2, 0, 0, 0]])


@functools.cache
def parameters(model):
    params = jax.eval_shape(model.init, jax.random.key(0))
    leaves, structure = jax.tree.flatten(params)
    rng = np.random.default_rng(0)
    return jax.tree.unflatten(structure, [array(0.6 * rng.standard_normal(leaf.shape)) for leaf in leaves])


@functools.cache
def compiled(model):
    return jax.jit(model.logits)


def logits(model, source=SOURCE, lengths=LENGTHS, target=TARGET, **options):
    return compiled(model)(parameters(model), source, lengths, target, **options)


@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
def test_logits_have_a_row_for_every_target_token(model):
    found = logits(model)
    assert found.shape == (3, 4, W)
    assert found.dtype == jnp.float32


def test_parameters_are_of_float32_with_64_bits_enabled_too():
    with jax.enable_x64(True):
        params = jax.eval_shape(MODELS["attention"].init, jax.random.key(0))
    assert {leaf.dtype.name for leaf in jax.tree.leaves(params)} == {"float32"}


@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
def test_padding_of_the_source_changes_nothing(model):
    padding = np.arange(5) >= np.asarray(LENGTHS)[:, None]
    np.testing.assert_array_equal(logits(model), logits(model, np.where(padding, 6, SOURCE)))


def test_a_sentence_by_itself_is_as_in_a_padded_batch():
    model = MODELS["plain"]
    alone = logits(model, SOURCE[1:2, :2], LENGTHS[1:2], TARGET[1:2])
    np.testing.assert_allclose(logits(model)[1:2], alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
def test_no_token_is_predicted_from_itself_or_later_ones(model):
    before = np.asarray(logits(model))
    for t in range(4):
        after = np.asarray(logits(model, target=np.where(np.arange(4) >= t, (TARGET + 1) % W, TARGET)))
        np.testing.assert_array_equal(before[:, : t + 1], after[:, : t + 1])
        if t < 3:
            assert (before[:, t + 1] != after[:, t + 1]).any()


@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
def test_decoder_steps_are_teacher_forcing_step_by_step(model):
    @jax.jit
    def steps(params):
        encoded = model.encode(params, SOURCE, LENGTHS)
        read = jnp.pad(TARGET[:, :-1].T, ((1, 0), (0, 0)), constant_values=model.first)
        return jax.lax.scan(model.decoder_step(params, encoded), encoded.state, read)[1]

    found = steps(parameters(model)).swapaxes(0, 1)
    np.testing.assert_allclose(found, logits(model), rtol=1e-4, atol=1e-5)


def test_the_context_is_the_encoders_whole_final_state_and_is_read_at_every_step():
    model = MODELS["context"]
    params = parameters(model)
    xs = params.source_embedding[SOURCE]
    _, ends = rnnjax.bidirectional(model.encoder, model.backward, params.encoder, xs, lengths=LENGTHS)
    context = jnp.concatenate(jax.tree.leaves(ends), axis=-1)
    assert context.shape == (3, 3 * H)
    np.testing.assert_allclose(model.encode(params, SOURCE, LENGTHS).context, context, rtol=1e-5, atol=1e-6)
    state = rnnjax.HiddenState(jnp.tanh(params.bridge(context)))
    read = jnp.pad(TARGET[:, :-1], ((0, 0), (1, 0)), constant_values=model.first)
    for t in range(4):
        x = jnp.concatenate([params.target_embedding[read[:, t]], context], axis=-1)
        state, y = model.decoder(params.decoder, state, x)
        np.testing.assert_allclose(logits(model)[:, t], params.readout(y), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["attention", "context"])
def test_a_beam_of_one_is_greedy_and_a_wider_one_no_worse(name):
    model, limits = MODELS[name], {"length": 5, "first": 1, "end": 2}

    @functools.partial(jax.jit, static_argnums=0)
    def search(beam_size):
        params = parameters(model)
        encoded = model.encode(params, SOURCE, LENGTHS)
        step = model.decoder_step(params, encoded, beam=True)
        if not beam_size:
            return greedy(step, encoded.state, **limits)
        return beam_search(step, encoded.state, beam_size=beam_size, **limits)

    best, one, wide = search(0), search(1), search(30)
    np.testing.assert_array_equal(best.tokens, one.tokens[:, 0])
    assert (wide.scores[:, 0] >= best.scores - 1e-5).all()


def test_no_sources_have_no_logits():
    found = logits(MODELS["plain"], SOURCE[:0], LENGTHS[:0], TARGET[:0])
    assert found.shape == (0, TARGET.shape[1], W)


def test_a_reversed_source_is_read_backwards():
    model = MODELS["plain"]
    forward = EncoderDecoder(V, W, E, rnnjax.LSTM(H), rnnjax.LSTM(H))
    turned = np.array([[4, 3, 6, 5, 4], [5, 6, 0, 0, 0], [5, 0, 0, 0, 0]])
    expected = compiled(forward)(parameters(model), turned, LENGTHS, TARGET)
    np.testing.assert_allclose(logits(model), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["attention", "context"])
def test_scheduled_sampling_with_probability_zero_is_teacher_forcing(name):
    model = MODELS[name]
    found = logits(model, sampling=0.0, key=jax.random.key(0))
    np.testing.assert_allclose(found, logits(model), rtol=1e-4, atol=1e-5)
    assert not np.allclose(logits(model, sampling=1.0, key=jax.random.key(0)), found, atol=1e-3)


def test_alignment_is_over_the_valid_source_only():
    model = MODELS["attention"]
    weights = np.asarray(jax.jit(model.alignment)(parameters(model), SOURCE, LENGTHS, TARGET))
    assert weights.shape == (3, 4, 5)
    assert not weights[1, :, 2:].any()
    np.testing.assert_allclose(weights[2, :, 0], 1, rtol=1e-6)
    np.testing.assert_allclose(weights.sum(-1), 1, rtol=1e-5)
    with pytest.raises(ValueError, match="has no attention"):
        MODELS["plain"].alignment(parameters(MODELS["plain"]), SOURCE, LENGTHS, TARGET)


@pytest.mark.promotes_types
def test_in_bfloat16_logits_are_float32_and_close():
    model = MODELS["attention"]
    half = EncoderDecoder(V, W, E, model.encoder, model.decoder, backward=model.backward, dtype=jnp.bfloat16)
    found = compiled(half)(parameters(model), SOURCE, LENGTHS, TARGET)
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, logits(model), atol=0.15)


@pytest.mark.promotes_types
@pytest.mark.parametrize("name", ["plain", "context"])
def test_in_bfloat16_the_decoder_reads_bfloat16(name, monkeypatch):
    half = dataclasses.replace(MODELS[name], dtype=jnp.bfloat16)
    read = []

    def recorded(cell, params, xs, *others, **options):
        read.append(xs.dtype)
        return unroll(cell, params, xs, *others, **options)

    monkeypatch.setattr(encoder_decoder, "unroll", recorded)
    jax.eval_shape(half.logits, parameters(half), SOURCE, LENGTHS, TARGET)
    assert set(read) == {jnp.dtype(jnp.bfloat16)}


def test_misuse_is_named():
    with pytest.raises(ValueError, match="leave reverse out"):
        EncoderDecoder(V, W, E, rnnjax.GRU(H), rnnjax.GRU(H), backward=rnnjax.GRU(H), reverse=True)
    with pytest.raises(ValueError, match="target_size must be at least 1, got 0"):
        EncoderDecoder(V, 0, E, rnnjax.GRU(H), rnnjax.GRU(H))
