"""What a config can say of its cell: the fields of the cell's class, and of the wrappers around it."""

import dataclasses
import json
import pickle
from typing import Literal

import jax
import jax.numpy as jnp
import pytest
from config_reading import read

import rnnjax
from rnnjax.cell_config import CellConfig, build_cell, cell_classes, wrapper_classes
from rnnjax.class_options import choices, config_fields
from rnnjax.config_group import freeze, from_dict, to_dict
from rnnjax.errors import ConfigError

CONFIGS = ("char_lm", "hihello", "mnist", "navigation", "ptb", "time_series", "translate", "word2vec")


@dataclasses.dataclass(frozen=True)
class Noisy(rnnjax.Wrapper):
    """A wrapper of one's own."""

    scale: float = 0.5
    kind: Literal["in", "out"] = "out"


@dataclasses.dataclass(frozen=True)
class Unsized(rnnjax.Cell):
    """A cell of one's own with fields of every sort, and no hidden_size."""

    width: int | None = 3
    places: tuple[int, ...] = (1, 2)
    function: object = abs
    either: str | float = "all"
    groups: int = 4
    items: int = 5  # as a method of configs is called

    output_size = 3  # pyright: ignore
    init = initial_state = inputs = step = None  # pyright: ignore


NOISY, UNSIZED = f"{__name__}:Noisy", f"{__name__}:Unsized"


# The class that kind names


@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize("kind", sorted(cell_classes()))
def test_every_cell_can_be_chosen_for_every_config_by_its_name_alone(config, kind):
    flags = [f"--config.cell.kind={kind}"]
    if config == "translate" and not issubclass(cell_classes()[kind], rnnjax.GatedCell):
        flags.append("--config.attention=none")  # whose context enters gates
    found = read(*flags, config=f"configs/{config}.py")
    first = build_cell(found.cell)
    first = first.cells[0] if isinstance(first, rnnjax.Stack) else first
    first = first.cell if isinstance(first, rnnjax.Wrapper) else first
    assert type(first) is cell_classes()[kind]


def test_options_of_the_config_file_that_the_new_cell_has_not_are_left_out_and_the_others_stay():
    assert read(config="configs/time_series.py").cell.activation == "relu"
    cell = read("--config.cell.kind=GRU", config="configs/time_series.py:deep_dropout").cell
    options = {"hidden_size": 100} | ({"activation": "relu"} if hasattr(rnnjax.GRU, "activation") else {})
    assert cell.chosen() == options
    assert (cell.layers, cell.dropout.chosen()) == (3, {"input_rate": 0.7, "state_rate": 0.7})


@pytest.mark.parametrize("order", [1, -1])
def test_an_option_by_flag_that_the_new_cell_has_not_is_refused(order):
    flags = ["--config.cell.kind=BasicRNN", "--config.cell.reset=before"][::order]
    with pytest.raises(ConfigError, match=r"BasicRNN has no field reset; leave cell\.reset out$"):
        read(*flags, config="configs/mnist.py:gru150")


def test_the_last_flag_for_the_kind_is_the_one_that_counts():
    cell = read("--config.cell.kind=LSTM", "--config.cell.reset=before", "--config.cell.kind", "GRU").cell
    assert build_cell(cell) == rnnjax.GRU(150, reset="before")


@pytest.mark.parametrize("of", [*cell_classes().values(), *wrapper_classes().values()], ids=lambda of: of.__name__)
def test_every_field_that_is_a_number_a_name_or_a_choice_is_an_option(of):
    plain = {
        field.name
        for field in dataclasses.fields(of)
        if field.init and (isinstance(field.default, (bool, int, float, str)) or "DTypeLike" in str(field.type))
    }
    assert plain <= config_fields(of).keys()


def test_a_cell_of_ones_own_has_its_own_options_and_no_other():
    flags = ["--config.cell.width=7", "--config.cell.places=(3,4)", "--config.cell.either=0.5"]
    cell = build_cell(read(f"--config.cell.kind={UNSIZED}", *flags, config="configs/hihello.py").cell)
    assert cell == Unsized(width=7, places=(3, 4), either="0.5")
    assert build_cell(CellConfig(UNSIZED, groups=2)) == Unsized(groups=2)
    with pytest.raises(ConfigError, match="Unsized has no field items"):
        CellConfig(UNSIZED, items=2)
    with pytest.raises(ConfigError, match=r"Unsized has no field hidden_size; leave cell\.hidden_size out"):
        CellConfig(UNSIZED, hidden_size=3)
    with pytest.raises(ConfigError, match="Unsized has no field function"):
        CellConfig(UNSIZED, function=3)


def test_an_option_that_is_not_given_is_read_as_the_default_of_the_class():
    assert CellConfig("LSTM").forget_bias == 1.0
    assert CellConfig("LSTM", forget_bias=0.0).forget_bias == 0.0
    assert CellConfig("GRU").hidden_size == 150
    assert CellConfig("GRU").param_dtype is None  # a type, which a config cannot say
    with pytest.raises(AttributeError, match="forget_bias"):
        _ = CellConfig("GRU").forget_bias


def test_types_can_be_said_by_name():
    cell = build_cell(read("--config.cell.state_dtype=bfloat16").cell)
    assert cell.state_dtype == jnp.bfloat16
    with pytest.raises(ConfigError, match=r"cell: .*bfloat17"):
        read("--config.cell.state_dtype=bfloat17")


# Unsetting


@pytest.mark.parametrize("none", ["None", "none"])
def test_an_optional_field_is_unset_by_flag(none):
    lstm = ["--config.cell.kind=LSTM", "--config.cell.projection_size=3"]
    assert read(*lstm).cell.projection_size == 3
    assert read(*lstm, f"--config.cell.projection_size={none}").cell.projection_size is None
    assert read(f"--config.cell.projection_size={none}", *lstm).cell.projection_size == 3  # the last one counts
    assert read(f"--config.optimizer.clip_norm={none}", config="configs/ptb.py").optimizer.clip_norm is None
    assert read(f"--config.data.path={none}").data.path is None


def test_an_option_of_the_config_file_is_unset_by_flag_and_left_to_the_class():
    cell = read("--config.cell.activation=none", config="configs/time_series.py").cell
    assert build_cell(cell).activation == "tanh"
    assert "activation" not in to_dict(cell)


def test_none_is_a_value_where_the_class_takes_it():
    assert build_cell(CellConfig(UNSIZED, width=None)) == Unsized(width=None)
    assert build_cell(CellConfig(UNSIZED, either=None)) == Unsized()


def test_a_field_that_is_not_optional_cannot_be_unset():
    with pytest.raises(ConfigError, match=r"epochs.*None"):
        read("--config.epochs=None")
    with pytest.raises(ConfigError, match=r"config.cell is a group of fields"):
        read("--config.cell=None")


# Wrappers


def test_wrappers_are_a_list_from_the_inside_out():
    flags = ["--config.cell.wrappers=residual,dropout", "--config.cell.dropout.output_rate=0.2"]
    cell = build_cell(read(*flags).cell)
    assert cell == rnnjax.Dropout(rnnjax.Residual(rnnjax.BasicRNN(150)), output_rate=0.2)
    cell = build_cell(read(*flags[::-1], "--config.cell.wrappers=learned_state").cell)
    assert cell == rnnjax.LearnedState(rnnjax.Dropout(rnnjax.Residual(rnnjax.BasicRNN(150)), output_rate=0.2))


def test_an_option_of_a_wrapper_puts_it_around_the_cell():
    cell = read("--config.cell.project.size=3", "--config.cell.hidden_size=4").cell
    assert cell.wrappers == ("project",)
    assert build_cell(cell) == rnnjax.Project(rnnjax.BasicRNN(4), 3)


def test_in_a_config_file_wrappers_are_in_the_order_in_which_their_options_are_given():
    cell = build_cell(CellConfig(hidden_size=4, project={"size": 3}, dropout={"input_rate": 0.1}))
    assert cell == rnnjax.Dropout(rnnjax.Project(rnnjax.BasicRNN(4), 3), input_rate=0.1)


def test_heads_are_right_around_the_cell():
    cell = build_cell(read("--config.cell.wrappers=heads,dropout", "--config.cell.heads.n=3").cell)
    assert cell == rnnjax.Dropout(rnnjax.Heads(rnnjax.BasicRNN(150), 3))
    with pytest.raises(ConfigError, match=r"cell\.heads: the number of heads must divide hidden_size=150, got n=4"):
        read("--config.cell.heads.n=4")


def test_wrappers_of_the_config_file_go_by_flag():
    assert read(config="configs/mnist.py:embedded").cell.wrappers == ("dropout",)
    for flag in ("--config.cell.wrappers=", "--config.cell.wrappers=none", "--config.cell.dropout=none"):
        assert build_cell(read(flag, config="configs/mnist.py:embedded").cell) == rnnjax.GRU(150)
    cell = read("--config.cell.wrappers=residual", config="configs/mnist.py:embedded").cell
    assert build_cell(cell) == rnnjax.Residual(rnnjax.GRU(150))


def test_a_wrapper_of_ones_own_has_its_options_by_its_name():
    flags = [f"--config.cell.wrappers=residual,{NOISY}", "--config.cell.noisy.scale=2", "--config.cell.noisy.kind=in"]
    cell = read(*flags).cell
    assert build_cell(cell) == Noisy(rnnjax.Residual(rnnjax.BasicRNN(150)), scale=2.0, kind="in")
    assert from_dict(CellConfig, json.loads(json.dumps(to_dict(cell)))) == cell
    assert choices(Noisy, "kind") == ("in", "out")


WRONG_WRAPPERS = [
    ("--config.cell.wrappers=dropuot", "unknown wrapper 'dropuot'; choose from dropout, .*; did you mean 'dropout'"),
    (
        "--config.cell.wrappers=dropout,dropout",
        "names a wrapper twice: dropout, dropout; each .*, so name a wrapper once",
    ),
    ("--config.cell.wrappers=rnnjax:LSTM", "must name wrappers that are frozen dataclasses, got 'rnnjax:LSTM'"),
    ("--config.cell.wrappers=no.such:Thing", "unknown wrapper 'no.such:Thing': there is no module no.such"),
    ("--config.cell.wrappers=project", "Project needs size; set cell.project.size"),
    ("--config.cell.dropout.rate=1", "Dropout has no field rate; leave cell.dropout.rate out"),
    ("--config.cell.dropout.inputrate=1", "Dropout has no field inputrate; .*; did you mean 'input_rate'"),
    ("--config.cell.dropout=0.5", "config.cell.dropout is a group of fields"),
    ("--config.cell.dropout.input_rate.x=1", "input_rate is no group of fields"),
    ("--config.cell.dropout.input_rate=much", "input_rate.*much"),
]


@pytest.mark.parametrize(("flag", "message"), WRONG_WRAPPERS)
def test_wrappers_that_cannot_be_are_refused_in_one_sentence(flag, message):
    with pytest.raises(ConfigError, match=message) as error:
        read(flag)
    assert "\n" not in str(error.value)


def test_a_layer_that_does_not_fit_its_inputs_is_refused_with_the_sizes():
    from rnnjax.memory import require_room_for

    cell = build_cell(CellConfig(hidden_size=4, wrappers=["residual"]))
    with pytest.raises(ConfigError, match=r"parameters cannot be made: Residual needs inputs of .* size 4, got 3"):
        require_room_for(lambda: cell.init(jax.random.key(0), 3), "the parameters")


# As a value


EXAMPLE = {"kind": "LSTM", "layers": 2, "peephole": True, "dropout": {"input_rate": 0.1}, "residual": {}}


def test_a_run_is_told_by_what_was_chosen():
    values = to_dict(CellConfig(**EXAMPLE))
    own = {"kind": "LSTM", "layers": 2, "wrappers": ["dropout", "residual"], "hidden_size": 150}
    assert values == own | {"peephole": True, "dropout": {"input_rate": 0.1}}
    assert from_dict(CellConfig, json.loads(json.dumps(values))) == CellConfig(**EXAMPLE)
    assert to_dict(CellConfig(dropout={"input_rate": 0.1})) == to_dict(
        CellConfig(wrappers=["dropout"], dropout={"input_rate": 0.1})
    )


def test_a_frozen_cell_and_its_wrappers_do_not_change():
    cell = freeze(CellConfig(**EXAMPLE))
    for change in (
        lambda: setattr(cell, "peephole", False),
        lambda: setattr(cell, "wrappers", ()),
        lambda: setattr(cell, "dropout", None),
        lambda: setattr(cell.dropout, "input_rate", 0.5),
        lambda: setattr(cell.project, "size", 5),  # which is not around it
    ):
        with pytest.raises(dataclasses.FrozenInstanceError):
            change()
    assert cell == CellConfig(**EXAMPLE)


def test_a_cell_config_is_copied_with_all_that_was_chosen():
    cell = pickle.loads(pickle.dumps(CellConfig(**EXAMPLE)))
    assert cell == CellConfig(**EXAMPLE)
    assert cell != CellConfig(**EXAMPLE | {"dropout": {"input_rate": 0.2}})
    assert cell != CellConfig("GRU")
    assert repr(CellConfig("GRU", reset="before")) == (
        "CellConfig(kind='GRU', layers=1, wrappers=(), hidden_size=150, reset='before')"
    )
