"""A task that is opened without data has the model that it has with them."""

import json

import jax
import pytest

from rnnjax.config import CellConfig, DataConfig
from rnnjax.config_group import freeze
from rnnjax.errors import ConfigError, DataError
from rnnjax.tasks import build_task, hihello, language_model, mnist, navigation, open_task, sequences, time_series
from rnnjax.training.directory.model_file import leaves_by_path, model_file, model_from_json, shapes

CELL = CellConfig(kind="GRU", hidden_size=4)
CONFIGS = {
    "mnist": mnist.Config(cell=CELL, data=DataConfig(name="embedded")),
    "hihello": hihello.Config(cell=CELL),
    "time_series": time_series.Config(cell=CELL, windows=10, window=5),
    "sequences": sequences.Config(cell=CELL, data=sequences.SequencesConfig(name="adding", length=4, examples=8)),
    "navigation": navigation.Config(cell=CELL, data=DataConfig(name="embedded")),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_an_opened_task_has_the_parameters_and_predictions_of_one_with_data(name):
    config = freeze(CONFIGS[name])
    built = build_task(config)
    kept = model_from_json(json.loads(json.dumps(model_file(built).as_json())))
    opened = open_task(config, kept.kept)
    assert not opened.data.splits
    assert leaves_by_path(shapes(opened)) == leaves_by_path(shapes(built)) == kept.params
    assert kept.inputs == built.inputs
    sizes = {"B": 2, "T": 3}
    inputs = {
        field: jax.ShapeDtypeStruct([sizes.get(size, size) for size in shape], dtype)
        for field, (shape, dtype, _) in kept.inputs.items()
    }
    assert jax.eval_shape(opened.predict, shapes(opened), inputs).shape[0] == 2
    again = build_task(config, kept.kept)
    assert again.data.checksum == built.data.checksum


def text_config(path, text, **fields):
    path.write_text(text)
    data = language_model.TextConfig(name="text", path=str(path), **fields)
    return freeze(language_model.Config(batch_size=2, window=4, cell=CELL, embedding_size=4, data=data))


def test_another_text_is_read_by_the_vocabulary_that_was_kept(tmp_path):
    kept = build_task(text_config(tmp_path / "one.txt", "abcdefgh" * 40)).kept
    task = build_task(text_config(tmp_path / "other.txt", "hgfe" * 80), kept)
    assert task.kept == kept == {"tokens": "characters", "vocabulary": "abcdefgh"}
    assert task.data.splits["train"]["tokens"].min() == 4
    with pytest.raises(DataError, match=r"third.txt: the character 'x' is not in the text .*; leave it out"):
        build_task(text_config(tmp_path / "third.txt", "abcx" * 80), kept)
    with pytest.raises(
        ConfigError, match=r"the vocabulary is of characters, but data.tokens is 'words'; give the same"
    ):
        build_task(text_config(tmp_path / "words.txt", "a b c d\n" * 80, tokens="words"), kept)
