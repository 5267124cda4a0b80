"""Cells and tasks that a config names."""

import sys
import textwrap

import jax
import jax.numpy as jnp
import pytest
from config_reading import read

import rnnjax
from rnnjax.config import CellConfig, TrainConfig, build_cell
from rnnjax.config_group import freeze, from_dict, to_dict
from rnnjax.errors import ConfigError
from rnnjax.tasks import build_task, mnist, task_module

# Cells

OPTIONS = [
    ({"kind": "BasicRNN"}, rnnjax.BasicRNN(6)),
    ({"kind": "BasicRNN", "activation": "relu"}, rnnjax.BasicRNN(6, activation="relu")),
    ({"kind": "GRU"}, rnnjax.GRU(6)),
    ({"kind": "GRU", "reset": "before"}, rnnjax.GRU(6, reset="before")),
    ({"kind": "LSTM"}, rnnjax.LSTM(6)),
    ({"kind": "LSTM", "peephole": True}, rnnjax.LSTM(6, peephole=True)),
    ({"kind": "LSTM", "forget_bias": 0.0}, rnnjax.LSTM(6, forget_bias=0.0)),
    ({"kind": "LSTM", "projection_size": 4}, rnnjax.LSTM(6, projection_size=4)),
    ({"kind": "LSTM", "cell_clip": 1.0}, rnnjax.LSTM(6, cell_clip=1.0)),
    (
        {"kind": "LSTM", "projection_size": 4, "projection_clip": 1.0},
        rnnjax.LSTM(6, projection_size=4, projection_clip=1.0),
    ),
    ({"kind": "LSTM", "coupled_gates": True}, rnnjax.LSTM(6, coupled_gates=True)),
    ({"kind": "LSTM", "layer_norm": True}, rnnjax.LSTM(6, layer_norm=True)),
    ({"kernel_init": "he_normal"}, rnnjax.BasicRNN(6, kernel_init="he_normal")),
    ({"recurrent_init": "glorot_uniform"}, rnnjax.BasicRNN(6, recurrent_init="glorot_uniform")),
    ({"dropout": {"input_rate": 0.1}}, rnnjax.Dropout(rnnjax.BasicRNN(6), input_rate=0.1)),
    ({"dropout": {"state_rate": 0.1}}, rnnjax.Dropout(rnnjax.BasicRNN(6), state_rate=0.1)),
    ({"dropout": {"output_rate": 0.1}}, rnnjax.Dropout(rnnjax.BasicRNN(6), output_rate=0.1)),
    (
        {"dropout": {"output_rate": 0.1, "variational": True}},
        rnnjax.Dropout(rnnjax.BasicRNN(6), output_rate=0.1, variational=True),
    ),
    ({"layers": 3}, rnnjax.Stack((rnnjax.BasicRNN(6),) * 3)),
    (
        {"kind": "GRU", "layers": 2, "dropout": {"input_rate": 0.1}},
        rnnjax.Stack((rnnjax.Dropout(rnnjax.GRU(6), input_rate=0.1),) * 2),
    ),
]


@pytest.mark.parametrize(("fields", "cell"), OPTIONS, ids=[str(fields) for fields, _ in OPTIONS])
def test_a_cell_is_built_from_its_config(fields, cell):
    config = CellConfig(hidden_size=6, **fields)
    assert build_cell(config) == cell
    assert build_cell(freeze(config)) == cell


REFUSED_CELLS = [
    (
        {"kind": "LSTMs"},
        "unknown cell 'LSTMs'; choose BasicRNN, GRU, GatedDeltaNet, .*, IndRNN, LRU, LSTM, .*; did you mean 'LSTM'",
    ),
    ({"kind": "gru"}, "unknown cell 'gru'.* did you mean 'GRU'"),
    ({"kind": "no_such_module:LSTMs"}, "^unknown cell 'no_such_module:LSTMs': there is no module no_such_module here"),
    ({"kind": "json:Mine"}, "^unknown cell 'json:Mine': json has no 'Mine'$"),
    ({"kind": "json:JSONDecode"}, "^unknown cell 'json:JSONDecode': json has no 'JSONDecode'; did .* 'JSONDecoder'"),
    ({"wrappers": ["json:Mine"]}, "^unknown wrapper 'json:Mine': json has no 'Mine'$"),
    ({"kind": "json:JSONDecoder"}, "must name a single cell, .*got 'json:JSONDecoder'"),
    ({"kind": "unroll"}, "unknown cell .unroll."),
    ({"kind": "Stack"}, "must name a single cell, .*got 'Stack'"),
    ({"kind": "GatedCell"}, "GatedCell"),
    ({"kind": "GRU", "cell_clip": 1.0}, "GRU has no field cell_clip; leave cell.cell_clip out"),
    ({"kind": "GRU", "peephole": False}, "GRU has no field peephole"),
    ({"kind": "BasicRNN", "forget_bias": 1.0}, "BasicRNN has no field forget_bias"),
    ({"kind": "BasicRNN", "reset": "after"}, "BasicRNN has no field reset"),
    ({"kind": "GRU", "reset": "never"}, "reset must be .*got 'never'"),
    ({"activation": "tahn"}, "unknown activation 'tahn'"),
    ({"hidden_size": 0}, "hidden_size must be at least 1, got 0"),
    ({"layers": 0}, "cell.layers must be at least 1, got 0"),
    ({"kind": "LSTM", "projection_clip": 1.0}, "projection_clip"),
    ({"kind": "LSTM", "cell_clip": -1.0}, "cell_clip .*-1.0"),
    ({"kind": "LSTM", "projection_size": 0}, "projection_size must be at least 1, got 0"),
    ({"dropout": {"state_rate": 1.0}}, r"state_\w+ must be .*got 1.0"),
    ({"dropout": {"output_rate": -0.1}}, r"output_\w+ must be .*got -0.1"),
    ({"kernel_init": "glorot"}, "unknown initialiser 'glorot'"),
    ({"recurrent_init": "glorot"}, "unknown initialiser 'glorot'"),
]


@pytest.mark.parametrize(("fields", "message"), REFUSED_CELLS, ids=[str(fields) for fields, _ in REFUSED_CELLS])
def test_a_cell_that_cannot_be_built_is_refused_by_name_and_value(fields, message):
    with pytest.raises(ConfigError, match=message) as error:
        build_cell(CellConfig(**fields))
    assert "\n" not in str(error.value)


def test_a_wrapper_is_there_when_it_is_listed_or_has_an_option():
    assert build_cell(CellConfig(hidden_size=6, dropout={"variational": True})) == rnnjax.Dropout(
        rnnjax.BasicRNN(6), variational=True
    )
    assert build_cell(CellConfig(hidden_size=6, wrappers=["dropout"])) == rnnjax.Dropout(rnnjax.BasicRNN(6))
    assert build_cell(CellConfig(hidden_size=6, dropout={})) == rnnjax.Dropout(rnnjax.BasicRNN(6))


@pytest.fixture
def own_package(tmp_path, monkeypatch):
    """A package of one's own with a cell and a task."""
    package = tmp_path / "mine"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "cells.py").write_text(
        textwrap.dedent("""
        import dataclasses
        import jax.numpy as jnp
        import rnnjax

        @dataclasses.dataclass(frozen=True)
        class Leaky(rnnjax.GatedCell):
            activation: str = "tanh"

            def gates(self, params, state, z, r):
                return rnnjax.HiddenState(0.9 * state.h + 0.1 * jnp.tanh((z + r)[..., 0, :]))
        """)
    )
    (package / "task.py").write_text(
        textwrap.dedent("""
        import dataclasses
        from rnnjax.config import TrainConfig
        from rnnjax.data.dataset import NO_DATA
        from rnnjax.tasks import task

        @dataclasses.dataclass
        class Config(TrainConfig):
            task: str = "mine.task"
            colours: int = 3

        class Task(task.Task):
            read = staticmethod(lambda config, kept: NO_DATA)

            def loss(self, params, carry, batch, key):
                return self.config.colours
        """)
    )
    (package / "nothing.py").write_text("x = 1")
    (package / "loop.py").write_text("class Config: pass")
    base = "from rnnjax.config import TrainConfig as Config\nfrom rnnjax.tasks.task import Task\n"
    (package / "lost.py").write_text(f"{base}class Task(Task):\n    def read(config, kept): pass")
    (package / "half.py").write_text(base.replace("Task", "Kept as Task"))
    (tmp_path / "own_config.py").write_text("from mine.task import Config\ndef get_config():\n    return Config()")
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    for name in [name for name in sys.modules if name.split(".")[0] == "mine"]:
        del sys.modules[name]


def test_a_cell_of_ones_own_is_named_by_module_and_class(own_package):
    cell = build_cell(CellConfig(kind="mine.cells:Leaky", hidden_size=6, activation="relu", layers=2))
    assert [type(layer).__name__ for layer in cell.cells] == ["Leaky", "Leaky"]
    assert cell.cells[0].activation == "relu"
    params = cell.init(jax.random.key(0), 3)
    ys, _ = rnnjax.unroll(cell, params, jnp.ones((2, 5, 3)))
    assert ys.shape == (2, 5, 6)


def test_a_field_that_ones_own_cell_lacks_is_refused(own_package):
    with pytest.raises(ConfigError, match="Leaky has no field peephole"):
        build_cell(CellConfig(kind="mine.cells:Leaky", peephole=True))


# Tasks


def test_a_task_is_found_by_name():
    assert task_module("mnist") is mnist


def test_a_task_of_ones_own_is_found_by_its_dotted_path(own_package):
    config = read("--config.colours=5", config=str(own_package / "own_config.py"))
    module = task_module(config.task)
    assert module.__name__ == "mine.task"
    assert build_task(config).loss(None, None, None, None) == 5
    assert from_dict(module.Config, to_dict(config)) == config


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("mnits", "unknown task 'mnits'"),
        ("mine.nowhere", r"unknown task 'mine\.nowhere'"),
        ("no.such.package", r"unknown task 'no\.such\.package'"),
        ("", "unknown task ''"),
        (".mnist", r"unknown task '\.mnist'"),
        ("mine.loop", r"mine\.loop is not a task: it needs a class Config, a kind of rnnjax.config.TrainConfig"),
        ("mine.half", r"half is not a task: it needs a class Task, a kind of rnnjax.tasks.task.Task"),
        ("mine.lost", r"lost is not a task: its class Task needs loss"),
        ("mine.nothing", r"mine\.nothing is not a task"),
        ("task", "task is not a task"),
    ],
)
def test_what_is_no_task_is_refused_by_name(name, message, own_package):
    with pytest.raises(ConfigError, match=message):
        task_module(name)


# Code of one's own that is broken

RAISING = {
    "missing import": ("import no_such_package", "ModuleNotFoundError: No module named 'no_such_package' at line 1 of"),
    "syntax": ("def (", "SyntaxError"),
    "raises": ("x = 1\nraise KeyError('colour')", "KeyError: 'colour' at line 2 of .*broken.py"),
    "says nothing": ("raise RuntimeError", r"\(RuntimeError at line 1 of"),
    "several lines": ("raise RuntimeError('one\\ntwo')", "RuntimeError: one at line"),
    "ends the process": ("import sys\nsys.exit(0)", "SystemExit: 0 at line 2"),
    "not text": ("\0", "broken"),
}


@pytest.mark.parametrize(("text", "message"), RAISING.values(), ids=RAISING)
@pytest.mark.parametrize("named", ["task", "cell"])
def test_a_module_that_raises_is_refused_with_the_reason_and_the_place(named, text, message, own_package):
    (own_package / "mine" / "broken.py").write_text(text)
    with pytest.raises(ConfigError, match=message) as error:
        task_module("mine.broken") if named == "task" else build_cell(CellConfig(kind="mine.broken:Cell"))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("kind", [".cells:Leaky", "..mine.cells:Leaky", ":Leaky", "mine..cells:Leaky", "mine/cells:A"])
def test_a_cell_is_named_from_the_top(kind, own_package):
    with pytest.raises(ConfigError, match=r"unknown cell .* is not the path of a module"):
        build_cell(CellConfig(kind=kind))


OWN_CELLS = {
    "no dataclass": ("class Mine(Base): pass", "'mine.broken:Mine' must be a frozen dataclass"),
    "not frozen": ("@dataclasses.dataclass\nclass Mine(Base):\n    hidden_size: int = 3", "cell: unhashable"),
    "field without a value": ("@frozen\nclass Mine(Base):\n    colour: str", "Mine needs colour; set cell.colour"),
    "raises": ("@frozen\nclass Mine(Base):\n    def __post_init__(self): raise KeyError", "cell: KeyError"),
}


@pytest.mark.parametrize(("text", "message"), OWN_CELLS.values(), ids=OWN_CELLS)
def test_a_cell_of_ones_own_that_is_no_cell_is_refused(text, message, own_package):
    base = """
import dataclasses, rnnjax
frozen = dataclasses.dataclass(frozen=True)
class Base(rnnjax.Cell):
    output_size = 3
    init = initial_state = inputs = step = None
"""
    (own_package / "mine" / "broken.py").write_text(base + text)
    with pytest.raises(ConfigError, match=message):
        build_cell(CellConfig(kind="mine.broken:Mine"))


def test_a_config_of_another_task_is_refused_with_both_names(own_package):
    with pytest.raises(
        ConfigError, match=r"task 'hihello' takes a rnnjax.tasks.hihello.Config, .*rnnjax.tasks.mnist.Con"
    ):
        build_task(mnist.Config(task="hihello"))
    with pytest.raises(ConfigError, match=r"mine.task.Config, but this config is a rnnjax.config.TrainConfig"):
        build_task(TrainConfig(task="mine.task"))
