import copy

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from fixtures.parameters import drawn_parameters

from rnnjax.config import DataConfig
from rnnjax.data.word_vectors import read_word_vectors
from rnnjax.errors import ConfigError, DataError
from rnnjax.tasks import build_task, word2vec
from rnnjax.tasks.word2vec import Config, neighbour_line, probes, word_vectors


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "own.txt"
    days = ["monday", "tuesday", "wednesday"]
    path.write_text(" ".join(f"on {days[i % 3]} we met {i % 7} of them" for i in range(120)))
    return str(path)


@pytest.fixture(scope="module")
def task(text):
    config = Config(data=DataConfig(name="text", path=text), size=4, row_length=16, noise=5, probes="monday,nowhere")
    return build_task(config)


@pytest.fixture(scope="module")
def params(task):
    return drawn_parameters(task.init)


@pytest.fixture(scope="module")
def loss(task):
    """The loss of rows of the training text, under a key or in evaluation."""
    compiled = jax.jit(lambda *arguments: task.loss(*arguments)[0]["loss"])
    return lambda params, rows, key: compiled(params, None, batch(task, np.array(rows)), key)


def batch(task, rows):
    return {name: jnp.asarray(values[rows]) for name, values in task.data.splits["train"].items()}


def test_a_text_is_cut_into_nine_tenths_for_training_and_the_rest(task):
    rows = {split: np.count_nonzero(fields["text"] >= 0) for split, fields in task.data.splits.items()}
    assert rows["train"] == pytest.approx(18 * rows["validation"], rel=0.15)
    assert rows["train"] == pytest.approx(18 * rows["test"], rel=0.15)


def test_the_embedded_text_has_the_words_of_python():
    data, vocabulary = word2vec.load(Config(data=DataConfig(name="embedded")))
    assert np.count_nonzero(data.splits["train"]["text"] >= 0) > 40_000
    assert {"lambda", "statement", "__init__"} <= set(vocabulary.words)


def test_a_text_of_few_words_is_refused(tmp_path):
    path = tmp_path / "short.txt"
    path.write_text("antidisestablishmentarianism floccinaucinihilipilification words\n" * 30)
    with pytest.raises(DataError, match=r"short\.txt has 90 words; give a text of 100 or more"):
        word2vec.load(Config(data=DataConfig(name="text", path=str(path))))


def test_evaluation_draws_the_same_for_a_row_in_any_batch(loss, params):
    params = jax.tree.map(lambda leaf: leaf + 0.1 * jnp.arange(leaf.size).reshape(leaf.shape) / leaf.size, params)
    whole, turned = loss(params, [0, 1, 2, 3], None), loss(params, [3, 1, 0, 2], None)
    np.testing.assert_allclose(turned.value, whole.value[np.array([3, 1, 0, 2])], rtol=1e-6)
    np.testing.assert_array_equal(turned.weight, whole.weight[np.array([3, 1, 0, 2])])


def test_training_draws_by_its_key(loss, params):
    one, same, other = (loss(params, [0, 1, 2, 3], jax.random.key(seed)) for seed in (0, 0, 1))
    np.testing.assert_array_equal(one.weight, same.weight)
    assert not np.array_equal(one.weight, other.weight)


def test_vectors_neighbours_and_a_picture_are_left_behind(task, params, tmp_path, caplog):
    with caplog.at_level("INFO"):
        task.plots(params, tmp_path / "plots")
    assert {file.name for file in (tmp_path / "plots").iterdir()} == {"vectors.txt", "neighbours.txt", "words.png"}
    words, vectors = read_word_vectors(tmp_path / "plots" / "vectors.txt")
    np.testing.assert_array_equal(vectors, word_vectors(params))
    assert "monday" in words
    lines = (tmp_path / "plots" / "neighbours.txt").read_text().splitlines()
    assert [line.split(":")[0] for line in lines] == ["monday"]
    assert f"nearest to {lines[0]}" in caplog.messages


def test_classes_are_scored_where_the_vocabulary_has_them(task, params):
    assert 0 <= task.scores(params, "test")["class_precision"] <= 1


def test_neighbours_of_words_and_sums():
    words = ["king", "man", "woman", "queen", "boat"]
    vectors = np.array([[1, 1, 0], [1, 0, 0], [0, 0, 1], [0, 1, 1], [-1, -1, -1]], np.float32)
    assert neighbour_line("king - man + woman", vectors, words, 1).startswith("king - man + woman: queen ")
    assert neighbour_line("king", vectors, words, 2) == "king: man 0.71, queen 0.50"
    with pytest.raises(ConfigError, match="'prince' is not one of the 5 words"):
        neighbour_line("king - prince", vectors, words)
    for wrong in ("", "king man", "king -"):
        with pytest.raises(ConfigError):
            neighbour_line(wrong, vectors, words)


def test_words_are_asked_for_from_a_prompt_or_lines(task, params):
    lines = list(task.generate(params, lines=["monday", "we"]))
    assert [line.split(":")[0] for line in lines] == ["monday", "we"]
    assert list(task.generate(params, prompt="we")) == lines[1:]


def test_without_probes_frequent_words_are_shown(text):
    words = [f"w{i}" for i in range(300)]
    assert probes(Config(), words) == words[100:110]
    assert probes(Config(probes="w7,none"), words) == ["w7"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data": DataConfig(name="mnist")}, "data.name must be one of ptb, text, embedded"),
        ({"data": DataConfig(name="embedded", path="here")}, "leave data.path out"),
        ({"data": DataConfig(name="text")}, "texts of your own need --config.data.path"),
        ({"window": 0}, "window must be at least 1, got 0"),
        ({"row_length": 1}, "row_length must be from 2 to 10000"),
        ({"subsample": -1.0}, "subsample must not be negative"),
    ],
)
def test_a_config_that_cannot_be_meant_is_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        Config(**copy.deepcopy(changes)).check()
