"""A run directory that somebody sent runs no code of theirs unless the user says so."""

import json
import sys

import pytest

from rnnjax import evaluate, generate
from rnnjax.commands import exit_code
from rnnjax.config_group import to_dict
from rnnjax.errors import ConfigError
from rnnjax.tasks import hihello
from rnnjax.training.ancestor import read_extension
from rnnjax.training.directory.opened import run_config
from rnnjax.training.directory.run_directory import RunDirectory
from rnnjax.training.directory.trust import foreign_code
from rnnjax.training.evaluation import evaluate_run


@pytest.fixture
def sent(tmp_path, monkeypatch):
    """A run directory in the current folder, beside a module that says when it is imported."""
    (tmp_path / "theirs.py").write_text("raise RuntimeError('their code was run')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delenv("RNNJAX_TRUST")
    yield tmp_path / "run"
    sys.modules.pop("theirs", None)


def write(path, **changes):
    values = to_dict(hihello.Config())
    of_cell = {"kind", "wrappers"}
    values["optimizer"]["name"] = changes.pop("optimizer", "adam")
    values |= {name: value for name, value in changes.items() if name not in of_cell}
    values["cell"] |= {"kind": "LSTM"} | {name: value for name, value in changes.items() if name in of_cell}
    path.mkdir(exist_ok=True)
    (path / "config.json").write_text(json.dumps(values))


NAMED = [
    ({"task": "theirs.task"}, "task = 'theirs.task'"),
    ({"kind": "theirs:Cell"}, "cell.kind = 'theirs:Cell'"),
    ({"kind": "rnnjaxed:Cell"}, "cell.kind = 'rnnjaxed:Cell'"),
    ({"wrappers": ["dropout", "theirs:Noise"]}, "cell.wrappers = 'theirs:Noise'"),
    ({"optimizer": "theirs:sgd"}, "optimizer.name = 'theirs:sgd'"),
    ({"task": "theirs.task", "kind": "theirs:Cell"}, "task = 'theirs.task' and cell.kind = 'theirs:Cell'"),
]


@pytest.mark.parametrize(("changes", "named"), NAMED)
@pytest.mark.parametrize("main", [evaluate.main, generate.main])
def test_code_outside_rnnjax_is_refused_by_name_and_not_imported(main, changes, named, sent, capsys):
    write(sent, **changes)
    assert exit_code(main, [str(sent)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"names code outside rnnjax, which would be run here: {named}; add --trust" in line
    assert "RNNJAX_TRUST=1" in line
    assert "theirs" not in sys.modules


ONE_OF_EACH = [{"task": "theirs.task"}, {"kind": "theirs:Cell"}, {"wrappers": ["theirs:N"]}, {"optimizer": "theirs:f"}]


@pytest.mark.parametrize("changes", ONE_OF_EACH)
def test_with_trust_it_is_imported(changes, sent, capsys, monkeypatch):
    write(sent, **changes)
    assert exit_code(evaluate.main, [str(sent), "--trust"]) == 2
    assert "their code was run" in capsys.readouterr().err
    monkeypatch.setenv("RNNJAX_TRUST", "1")
    assert exit_code(evaluate.main, [str(sent)]) == 2
    assert "their code was run" in capsys.readouterr().err


def test_sinks_of_a_run_need_trust_where_it_is_gone_on_with_and_not_where_it_is_read(sent):
    write(sent, sinks=["wandb", "theirs:Sink"])
    assert run_config(RunDirectory(sent), None).sinks == ("wandb", "theirs:Sink")
    with pytest.raises(ConfigError, match=r"which would be run here: sinks = 'theirs:Sink'; add --trust"):
        read_extension(["--extend", str(sent), "--by", "1"])
    extension, _ = read_extension(["--extend", str(sent), "--by", "1", "--trust"])
    assert extension is not None
    assert extension.config.sinks == ("wandb", "theirs:Sink")
    assert "theirs" not in sys.modules


@pytest.mark.parametrize("kind", ["LSTM", "rnnjax:LSTM", "rnnjax.cells.lstm:LSTM"])
def test_cells_and_tasks_of_rnnjax_need_no_trust(kind, sent):
    write(sent, kind=kind)
    assert run_config(RunDirectory(sent), None).cell.kind == kind
    assert foreign_code({"task": "hihello", "cell": {"kind": kind}}) == {}
    assert foreign_code({"task": "rnnjax.tasks.hihello"}) == {}


def test_names_that_are_none_name_no_code():
    assert foreign_code({"task": 3, "cell": {"kind": None}}) == {}
    assert foreign_code({"cell": 3, "optimizer": 3}) == {}
    assert foreign_code({"optimizer": {"name": "adam"}}) == {}


def test_the_function_trusts_nothing_either(sent):
    write(sent, task="theirs.task")
    with pytest.raises(ConfigError, match="add --trust"):
        evaluate_run(str(sent), "test", "best", None)
