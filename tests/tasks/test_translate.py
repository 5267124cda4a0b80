import dataclasses
import functools
import math
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from fixtures.parameters import drawn_parameters

from rnnjax.config import CellConfig, DataConfig
from rnnjax.data.bucketing import padding_waste
from rnnjax.errors import ConfigError
from rnnjax.tasks import build_task, translate
from rnnjax.tasks.translate import Config, SamplingConfig, VocabularyConfig, sampling_probability, token_metrics

BATCH = 8


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    path = tmp_path_factory.mktemp("pairs") / "pairs.tsv"
    words = ["red", "dog", "big", "house", "sees"]
    rng = np.random.default_rng(0)
    lines = {" ".join(rng.choice(words, rng.integers(1, 8))) for _ in range(150)}
    path.write_text("".join(f"{line}\t{line.upper()}\n" for line in sorted(lines)))
    return str(path)


@functools.cache
def task(path, probability=0.0):
    fields = {
        "data": DataConfig(name="tsv", path=path),
        "vocabulary": VocabularyConfig(kind="word", source_size=20, target_size=20),
        "cell": CellConfig(kind="GRU", hidden_size=5),
        "embedding_size": 4,
        "batch_size": BATCH,
        "max_length": 8,
        "max_buckets": 3,
        "sampling": SamplingConfig(probability, ramp_steps=10),
    }
    config = Config(**fields)
    config.check()
    return build_task(config)


@functools.cache
def params_of(path):
    return drawn_parameters(task(path).init)


def batch_of(task, rows=BATCH):
    return {name: jnp.asarray(values[:rows]) for name, values in task.data.splits["train"].items()}


def test_the_loss_is_that_of_the_valid_tokens_computed_by_hand():
    logits = jnp.log(jnp.array([[[0.5, 0.25, 0.25], [0.1, 0.1, 0.8], [1.0, 1e-9, 1e-9]], [[0.2, 0.6, 0.2]] * 3]))
    target, lengths = jnp.array([[0, 1, 1], [1, 0, 0]]), jnp.array([2, 1])
    found = token_metrics(logits, target, lengths, 0.0)
    np.testing.assert_allclose(found["loss"].value, [-(math.log(0.5) + math.log(0.1)) / 2, -math.log(0.6)], rtol=1e-5)
    assert found["loss"].weight.tolist() == found["accuracy"].weight.tolist() == [2, 1]
    assert found["accuracy"].value.tolist() == [0.5, 1]
    assert found["exact_match"].tolist() == [0, 1]


def test_label_smoothing_spreads_probability_over_all_tokens():
    logits = jnp.asarray(np.random.default_rng(0).standard_normal((2, 3, 4)), jnp.float32)
    target, lengths = jnp.array([[0, 1, 1], [3, 2, 0]]), jnp.array([3, 3])
    found = token_metrics(logits, target, lengths, 0.1)["loss"].value
    wanted = 0.9 * jax.nn.one_hot(target, 4) + 0.1 / 4
    np.testing.assert_allclose(found, -(wanted * jax.nn.log_softmax(logits)).sum(-1).mean(-1), rtol=1e-5)


def test_nothing_in_the_padding_changes_a_value_or_a_gradient(pairs):
    made = task(pairs)
    params, batch = params_of(pairs), batch_of(made)

    @jax.jit
    @jax.value_and_grad
    def loss(params, batch):
        value, weight = made.loss(params, None, batch, None)[0]["loss"]
        return (value * weight).sum()

    filled = dict(batch)
    for name in ("source", "target"):
        valid = jnp.arange(batch[name].shape[1]) < batch[f"{name}_length"][:, None]
        filled[name] = jnp.where(valid, batch[name], 5)
    jax.tree.map(np.testing.assert_array_equal, loss(params, batch), loss(params, filled))


def test_sampling_rises_with_the_training_steps(pairs):
    config = SamplingConfig(probability=0.4, ramp_steps=10)
    assert [float(sampling_probability(config, jnp.array(step))) for step in (0, 5, 10, 99)] == pytest.approx(
        [0, 0.2, 0.4, 0.4]
    )
    made = task(pairs, probability=0.4)
    assert made.carry.shape == (BATCH,)
    params, batch = params_of(pairs), batch_of(made)
    values = jax.jit(made.loss)
    forced = task(pairs)
    at_first, carry = values(params, made.carry, batch, jax.random.key(0))
    expected, _ = jax.jit(forced.loss)(params, None, batch, None)
    np.testing.assert_allclose(at_first["loss"].value, expected["loss"].value, rtol=1e-4)
    assert carry.tolist() == [1] * BATCH
    later, _ = values(params, carry + 20, batch, jax.random.key(0))
    assert not np.allclose(later["loss"].value, expected["loss"].value, rtol=1e-3)


def test_buckets_leave_little_padding_and_hold_whole_batches(pairs):
    made = task(pairs)
    train = made.data.splits["train"]
    lengths = {name: train[f"{name}_length"] for name in ("source", "target")}
    one = made.buckets.widths[-1:]
    assert padding_waste(lengths, made.buckets.widths) < 0.5 * padding_waste(lengths, one)
    assert (np.bincount(made.buckets.of["train"]) >= BATCH).all()
    assert one[0] == {name: train[name].shape[1] for name in ("source", "target")}


def test_generate_answers_every_line_in_its_place(pairs, tmp_path):
    made = task(pairs)
    params = params_of(pairs)
    lines = ["red dog", "", "big zebra", "   ", "house", "red dog", " ".join(["dog"] * 30)]
    found = list(made.generate(params, lines=lines, beam_size=1, plots=tmp_path))
    assert len(found) == len(lines)
    assert found[1] == found[3] == ""
    assert found[0] == found[5]
    assert found[2] == next(made.generate(params, lines=["big <unk>"], beam_size=1))
    assert sorted(path.name for path in tmp_path.glob("*.png"))


def test_generate_reads_lines_only_when_they_are_asked_for(pairs):
    made = task(pairs)

    def lines():
        yield "red dog"
        raise AssertionError("read too early")

    answers = made.generate(params_of(pairs), lines=lines(), beam_size=1)
    next(answers)


def test_the_n_best_come_with_their_scores_the_best_first(pairs):
    made = task(pairs)
    params = params_of(pairs)
    found = list(made.generate(params, lines=["red dog", "", "house"], n_best=3))
    assert len(found) == 3 + 1 + 3
    assert found[3] == ""
    scores = [float(line.split("\t")[0]) for line in found[:3]]
    assert scores == sorted(scores, reverse=True)
    assert len(set(found[:3])) == 3
    with pytest.raises(ConfigError, match="--n-best must be from 1 to the beam size, 4, got 5"):
        next(made.generate(params, n_best=5))


def test_scores_are_of_the_whole_split(pairs, monkeypatch):
    made = task(pairs)
    params = params_of(pairs)
    found = made.scores(params, "test")
    assert found.keys() == {"bleu", "chrf", "exact_match", "padding_waste"}
    values = jax.jit(made.loss)(params, None, {k: jnp.asarray(v) for k, v in made.data.splits["test"].items()}, None)
    assert found["exact_match"] == pytest.approx(float(values[0]["exact_match"].mean()))


def test_bleu_chrf_and_exact_match_of_right_and_wrong_text():
    right = ["the cat sat on the mat", "a dog"]
    assert translate.translation_scores(right, right, "tsv") == pytest.approx(
        {"bleu": 100, "chrf": 100, "exact_match": 1}
    )
    half = translate.translation_scores(["the cat sat on the mat", "x"], right, "tsv")
    assert half["exact_match"] == 0.5
    assert 0 < half["bleu"] < 100
    # Multi30k's tokens are not split again: this token would otherwise be three words, two of them right.
    assert (
        translate.translation_scores(["a b c d e-f"], ["a b c d e-g"], "multi30k_de_en")["bleu"]
        < translate.translation_scores(["a b c d e - f"], ["a b c d e - g"], "multi30k_de_en")["bleu"]
    )


def test_without_sacrebleu_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "sacrebleu.metrics.bleu", None)
    with pytest.raises(ConfigError, match=r"rnnjax\[translate\]"):
        translate.translation_scores(["a"], ["a"], "tsv")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"attention": "cosine"}, "attention must be one of none, bahdanau, luong"),
        ({"score": "cosine"}, "score must be one of"),
        ({"score": "dot"}, '"dot" needs a memory of the query'),
        ({"reverse_source": True}, "leave reverse_source out"),
        ({"label_smoothing": 1.0}, r"label_smoothing must be in \[0, 1\)"),
        ({"max_length": 1}, "max_length must be from 2 to 100000, got 1"),
        ({"beam_size": 1001}, "beam_size must be at most 1000, got 1001"),
        ({"beam_size": 0}, "beam_size must be at least 1"),
        ({"data": DataConfig(name="klingon")}, "data.name must be one of"),
        ({"data": DataConfig(name="dates", path="x")}, "dates are generated"),
        ({"vocabulary": VocabularyConfig(kind="syllable")}, "vocabulary.kind must be one of"),
        ({"sampling": SamplingConfig(probability=2.0)}, "sampling.probability must be from 0 to 1"),
    ],
)
def test_what_cannot_be_meant_is_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        Config(**options).check()


@pytest.mark.parametrize(
    "options",
    [
        {"attention": "none", "bidirectional": False, "reverse_source": True},
        {"attention": "luong", "score": "general", "input_feeding": False},
        {"attention": "luong", "score": "dot", "bidirectional": False},
        {"cell": CellConfig(kind="LSTM", hidden_size=5, layers=2, dropout={"input_rate": 0.2, "output_rate": 0.2})},
    ],
)
def test_every_kind_of_model_can_be_built(options):
    config = dataclasses.replace(Config(), **options)
    config.check()
    params = jax.eval_shape(translate.build_model(config, 9, 9).init, jax.random.key(0))
    assert params.readout.w.shape[1] == 9


def test_every_variant_is_a_config():
    from configs.translate import VARIANTS

    for config in VARIANTS.values():
        config.check()
