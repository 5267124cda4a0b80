import io

import pytest
from toytasks.runs import run_training, sign_config

from rnnjax import generate, load_run
from rnnjax.commands import exit_code
from rnnjax.errors import ConfigError, DataError
from rnnjax.tasks import task_module

pytestmark = pytest.mark.usefixtures("programs_of_alike_runs")


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    return run_training(tmp_path_factory.mktemp("runs") / "run", sign_config(epochs=1)).directory.path


def test_a_run_generates_what_its_task_yields(directory, monkeypatch, capsys):
    monkeypatch.setattr("sys.stdin", io.StringIO("one\n\ntwo"))
    options = {"prompt": "abc", "length": 3, "temperature": 0.5, "top-k": 2, "top-p": 0.9, "seed": 4}
    options = [f"--{name}={value}" for name, value in {**options, "beam-size": 5, "n-best": 2}.items()]
    generate.main([str(directory), *options])
    assert capsys.readouterr().out.splitlines() == ["abc 3 0.5 2 0.9", "4 5 2 2", "ONE", "", "TWO"]
    assert (directory / "plots" / "picture.png").exists()


def test_what_is_not_asked_for_is_left_to_the_task(directory, monkeypatch, capsys):
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    generate.main([str(directory), "--checkpoint", "last"])
    assert capsys.readouterr().out.splitlines() == ["None 300 1.0 None None", "0 4 1 2"]


def test_a_task_may_have_an_option_of_its_own(directory, monkeypatch, capsys):
    def answer(self, params, *, mood=1.5):
        yield f"{mood + 1}"

    monkeypatch.setattr(task_module("toytasks.sign").Task, "generate", answer)
    arguments = [str(directory), "--mood", "2"]
    assert load_run(directory, trust=True).generate(mood=3) == "4"
    generate.main(arguments)
    assert capsys.readouterr().out == "3.0\n"
    with pytest.raises(ConfigError, match=r"^the task toytasks\.sign takes --mood: leave --seed out$"):
        generate.main([*arguments, "--seed", "1"])
    with pytest.raises(ConfigError, match=r"^unrecognized arguments: --tempo 1$"):
        generate.main([*arguments, "--tempo", "1"])


def test_an_option_of_its_own_may_be_true_or_false(directory, monkeypatch, capsys):
    def answer(self, params, *, loud=True):
        yield f"{loud}"

    monkeypatch.setattr(task_module("toytasks.sign").Task, "generate", answer)
    for said, meant in ("false", "False"), ("True", "True"):
        generate.main([str(directory), "--loud", said])
        assert capsys.readouterr().out == f"{meant}\n"
    with pytest.raises(ConfigError, match=r"^--loud must be true or false, got 'no'$"):
        generate.main([str(directory), "--loud", "no"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--length", "0"], "--length must be from 1 to 1000000, got 0"),
        (["--length", "1000000000"], "--length must be from 1 to 1000000, got 1000000000"),
        (["--temperature", "1e-40"], "--temperature must be 0, or 0.0001 or above, got 1e-40"),
        (["--temperature", "inf"], "--temperature must be 0, or 0.0001 or above, got inf"),
        (["--temperature", "nan"], "--temperature must be 0, or 0.0001 or above, got nan"),
        (["--top-p", "nan"], "--top-p must be above 0 and at most 1, got nan"),
        (["--beam-size", "1000000000"], "--beam-size must be from 1 to 1000, got 1000000000"),
        (["--temperature", "-1"], "--temperature must be 0, or 0.0001 or above, got -1.0"),
        (["--top-k", "0"], "--top-k must be at least 1, got 0"),
        (["--top-p", "0"], "--top-p must be above 0 and at most 1, got 0.0"),
        (["--top-p", "1.5"], "--top-p must be above 0 and at most 1, got 1.5"),
        (["--seed", "-1"], "--seed must be from 0 to 4294967295, got -1"),
        (["--beam-size", "0"], "--beam-size must be from 1 to 1000, got 0"),
        (["--n-best", "0"], "--n-best must be at least 1, got 0"),
    ],
)
def test_numbers_that_make_no_sense_are_refused(options, message, directory):
    with pytest.raises(ConfigError, match=message):
        generate.main([str(directory), *options])


def piped(content, encoding="utf-8"):
    return io.TextIOWrapper(io.BytesIO(content), encoding=encoding)


def test_lines_before_one_that_is_no_text_are_still_answered(directory, monkeypatch, capsys):
    monkeypatch.setattr("sys.stdin", piped(b"one\r\ntwo\ncaf\xe9\nfour\n"))
    with pytest.raises(
        DataError, match=r"^line 3 of the standard input \(at byte 3\) is not text in utf-8: convert it$"
    ):
        generate.main([str(directory)])
    assert capsys.readouterr().out.splitlines()[2:] == ["ONE", "TWO"]


def test_a_standard_input_that_is_closed_has_no_lines(directory, monkeypatch, capsys):
    monkeypatch.setattr("sys.stdin", None)
    generate.main([str(directory)])
    assert len(capsys.readouterr().out.splitlines()) == 2


def test_output_that_cannot_be_written_ends_with_1_and_one_sentence(directory, monkeypatch, capfd):
    monkeypatch.setattr("sys.stdin", piped("café\n".encode()))
    monkeypatch.setattr("sys.stdout", piped(b"", "ascii"))
    assert exit_code(generate.main, [str(directory)]) == 1
    assert "rnnjax: the output cannot be written as ascii; set PYTHONIOENCODING=utf-8" in capfd.readouterr().err


def test_a_directory_without_a_run_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="holds no run"):
        generate.main([str(tmp_path)])


def test_a_task_that_generates_nothing_is_refused_by_name(directory, monkeypatch):
    monkeypatch.setattr(task_module("toytasks.sign").Task, "generate", None)
    with pytest.raises(ConfigError, match="generates nothing"):
        generate.main([str(directory)])
