"""What a task says whose data is not there: where it was looked for, and what to do."""

import copy

import pytest

from rnnjax.config import DataConfig
from rnnjax.config_group import freeze
from rnnjax.data.locate import Store, locate
from rnnjax.errors import DataError
from rnnjax.tasks import build_task, classify, forecast, language_model, mnist, navigation, tag, translate, word2vec
from rnnjax.tasks.language_model import TextConfig
from rnnjax.tasks.own_data import SequencesConfig

EMBEDDED, TEXT = "the `embedded` variant of the config", "--config.data.name=text"
PUBLISHED = {
    "mnist": (mnist.Config(), "mnist", "put it there"),
    "char_lm": (language_model.Config(), "tinyshakespeare", TEXT),
    "ptb": (language_model.Config(data=TextConfig(name="ptb", tokens="words")), "ptb", TEXT),
    "word2vec": (word2vec.Config(), "ptb", TEXT),
    "navigation": (navigation.Config(), "yoochoose", "RecSys 2015"),
    "multi30k": (translate.Config(data=DataConfig(name="multi30k_de_en")), "multi30k", "get it from https://"),
    "tatoeba": (translate.Config(data=DataConfig(name="tatoeba_en_ko")), "tatoeba", "get it from https://"),
}
OWN = {
    "classify": (classify.Config(data=SequencesConfig()), "train.csv"),
    "tag": (tag.Config(data=SequencesConfig()), "train.csv"),
    "forecast": (forecast.Config(), "train.csv"),
    "text": (language_model.Config(data=TextConfig(name="text")), "train.txt"),
    "pairs": (translate.Config(data=DataConfig(name="tsv")), "train.tsv"),
    "sessions": (navigation.Config(data=DataConfig(name="sessions")), "give the file itself"),
}


@pytest.fixture
def bare(tmp_path, monkeypatch):
    """An empty folder, on a machine that has no data and no network."""
    monkeypatch.delenv("RNNJAX_DATA", raising=False)
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "tfds"))
    monkeypatch.setattr("rnnjax.data.text._URL", (tmp_path / "nothing").as_uri())
    monkeypatch.setattr("rnnjax.data.mnist_builder.MIRRORS", ("http://127.0.0.1:9/",))
    (tmp_path / "empty").mkdir()
    return tmp_path / "empty"


def said_of(config, path):
    """What is said of a task's data at a path, or in no place that is named."""
    config = copy.deepcopy(config)
    config.data.path = path
    with pytest.raises(DataError) as error:
        build_task(freeze(config))
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("name", PUBLISHED)
def test_of_a_folder_without_the_data_its_name_and_what_to_do_are_said(name, bare, monkeypatch):
    config, folder, advice = PUBLISHED[name]
    said = said_of(config, str(bare))
    assert f"is not in {bare / folder} or {bare} (--config.data.path): " in said
    assert advice in said
    assert EMBEDDED in said
    monkeypatch.setenv("RNNJAX_DATA", str(bare))
    said = said_of(config, None)
    assert f"is not in {bare / folder} or {bare} (RNNJAX_DATA)" in said
    assert EMBEDDED in said


@pytest.mark.parametrize("name", PUBLISHED)
def test_without_any_folder_the_variant_that_needs_none_is_named(name, bare):
    config, folder, _ = PUBLISHED[name]
    said = said_of(config, None)
    stored = bare.parent / "tfds" / f"rnnjax_{folder}"
    assert f"is not in {stored}/" in said or "looked for nowhere, as no folder is named" in said
    assert EMBEDDED in said


@pytest.mark.parametrize("name", OWN)
def test_of_data_of_your_own_the_folder_is_named_and_what_must_be_in_it(name, bare):
    config, wanted = OWN[name]
    said = said_of(config, str(bare))
    assert str(bare) in said
    assert wanted in said
    assert "embedded" not in said


@pytest.fixture
def places(bare, monkeypatch):
    """A data set of two files in every place."""
    path, variable, stored = bare / "path", bare / "variable", bare.parent / "tfds" / "rnnjax_made"
    for folder in (path, variable / "made", stored):
        folder.mkdir(parents=True)
        for file in ("a.txt", "b.txt"):
            (folder / file).touch()
    monkeypatch.setenv("RNNJAX_DATA", str(variable))
    return path, variable / "made", stored


def test_the_order_is_the_path_the_variable_the_store_and_the_download(places, monkeypatch):
    path, variable, stored = places
    files, store = ["a.txt", "b.txt"], Store("b.txt", lambda: (stored / "b.txt").touch())
    found = locate(str(path), "made", files, store=store)
    assert found == (path, (path / "a.txt", path / "b.txt"), "--config.data.path", False)
    assert locate(str(path / "b.txt"), "made", files).folder == path
    assert locate(None, "made", files, store=store).folder == variable
    monkeypatch.delenv("RNNJAX_DATA")
    (stored / "b.txt").unlink()
    found = locate(None, "made", files, store=store)
    assert (found.folder, found.stored) == (stored, True)
    assert (stored / "b.txt").exists()


def test_a_folder_that_is_named_with_a_part_of_the_data_is_not_passed_over(places):
    _, variable, _ = places
    (variable / "b.txt").unlink()
    with pytest.raises(DataError, match=rf"b\.txt of made is missing in {variable} \(RNNJAX_DATA\): put it there"):
        locate(None, "made", ["a.txt", "b.txt"], store=Store("b.txt"))


def test_where_one_file_is_enough_a_path_may_name_it_whatever_it_is_called(places):
    path, variable, _ = places
    assert locate(str(path / "b.txt"), "made", ["a*"], any_file=True).files == (path / "b.txt",)
    assert locate(None, "made", ["none*", "b*"], any_file=True).files == (variable / "b.txt",)
