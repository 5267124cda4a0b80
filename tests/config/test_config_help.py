"""What `--help` says of a config."""

import dataclasses
import re

import pytest

from rnnjax import sweep, train
from rnnjax.cell_config import CellConfig, cell_classes
from rnnjax.config_help import described, sentences
from rnnjax.errors import ConfigError
from rnnjax.tasks import hihello, language_model, mnist, navigation, sequences, time_series, translate, word2vec

TASKS = (hihello, language_model, mnist, navigation, sequences, time_series, translate, word2vec)
CONFIGS = ("char_lm", "hihello", "mnist", "navigation", "ptb", "sequences", "time_series", "translate", "word2vec")


def said(capsys, *arguments):
    train.main([*arguments, "--help"])
    return capsys.readouterr().out


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.__name__)
def test_every_field_of_every_task_has_a_type_and_a_sentence(task):
    for field in described(task.Config()):
        assert field.sentence, field.name
        assert field.kind, field.name


@pytest.mark.parametrize("kind", sorted(cell_classes()))
def test_every_option_of_every_cell_has_a_type_and_a_sentence(kind):
    for field in described(CellConfig(kind)):
        assert field.sentence, field.name
        assert field.kind, field.name


@pytest.mark.parametrize("config", CONFIGS)
def test_the_variants_of_a_file_are_listed_with_the_one_it_begins_with(config, capsys):
    (line,) = re.findall("^Variants of .*$", said(capsys, "--config", f"configs/{config}.py"), re.MULTILINE)
    names = re.sub(r" \(the default\)", "", line.partition(": ")[2]).split(", ")
    assert line.count("(the default)") == 1
    assert len(names) >= 3
    for name in names:
        assert "--config.epochs=" in said(capsys, "--config", f"configs/{config}.py:{name}")


def test_fields_are_listed_with_value_type_and_sentence(capsys):
    lines = said(capsys, "--config", "configs/mnist.py:lstm150", "--config.cell.cell_clip=3").splitlines()
    for line, sentence in (
        ("--config.epochs=5  (int)", "passes over the training split."),
        ("--config.cell.kind=LSTM  (str)", "a cell of rnnjax by its class name, or your own as package.module:Class."),
        ("--config.cell.hidden_size=150  (int)", "number H of hidden units."),
        ("--config.cell.cell_clip=3.0  (float or None)", "if given, c' is clipped to plus or minus this value."),
        ("--config.cell.param_dtype=float32  (str)", "type of the parameters."),
        ("--config.cell.dropout.input_rate=0.0  (float)", "probability of dropping a unit, each in [0, 1)."),
    ):
        assert lines[lines.index(line) + 1].strip() == sentence


def test_the_fields_are_those_of_the_cell_that_a_flag_names(capsys):
    text = said(capsys, "--config", "configs/mnist.py", "--config.cell.kind=GRU")
    assert "--config.cell.reset=after  ('after' or 'before')" in text
    assert "cell.peephole" not in text


def test_a_sweep_says_the_same_with_the_first_of_every_list_of_values(capsys):
    flags = ["--config", "configs/mnist.py:embedded", "--config.cell.kind=GRU,LSTM", "--config.epochs=2;3"]
    sweep.main(["--seeds", "3", *flags, "--help"])
    own = capsys.readouterr().out
    assert own == said(capsys, *flags[:2], "--config.cell.kind=GRU", "--config.epochs=2")
    assert "--config.epochs=2  (int)" in own
    sweep.main(["-h"])
    assert "With --config FILE.py --help it lists the file's variants" in capsys.readouterr().out


def test_without_a_config_help_says_how_to_see_its_fields(capsys):
    assert "With --config FILE.py --help it lists the file's variants and every field" in said(capsys)


def test_help_of_a_config_that_cannot_be_read_says_why():
    with pytest.raises(ConfigError, match=r"unknown variant 'lstm15' .*; did you mean 'lstm150'"):
        train.main(["--help", "--config", "configs/mnist.py:lstm15"])


def test_a_file_that_lists_no_variants_is_described_all_the_same(tmp_path, capsys):
    (tmp_path / "own.py").write_text("from rnnjax.tasks.mnist import Config\ndef get_config():\n    return Config()")
    assert "the file lists none; see its docstring" in said(capsys, "--config", str(tmp_path / "own.py"))


def test_sentences_of_several_lines_and_names_are_read_whole_and_a_subclass_says_its_own():
    @dataclasses.dataclass
    class Base:
        """A class.

        Attributes:
          one, two: of both
            in two lines.
          three: of the base.

        Raises:
          four: no attribute.
        """

    class Derived(Base):
        """Another.

        Attributes:
          three: of its own.
        """

    assert sentences(Derived) == {
        "one": "of both in two lines.",
        "two": "of both in two lines.",
        "three": "of its own.",
    }
