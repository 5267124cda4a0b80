"""A cell is shown as the code that makes it, without options that have their default value."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rnnjax
from rnnjax import GRU, LRU, LSTM, BasicRNN, Dropout, GatedResidual, Heads, MinGRU, Project, Stack, Zoneout


@dataclasses.dataclass(frozen=True)
class Own(rnnjax.GatedCell):
    scale: float = 1.0
    table: tuple = dataclasses.field(default_factory=tuple)
    _: dataclasses.KW_ONLY
    offset: int

    def gates(self, params, state, z, r):
        return rnnjax.HiddenState((z + r)[..., 0, :])


@pytest.mark.parametrize(
    ("cell", "shown"),
    [
        (LSTM(128, forget_bias=1.0), "LSTM(128)"),
        (LSTM(np.int64(8), forget_bias=0.5, peephole=True), "LSTM(8, forget_bias=0.5, peephole=True)"),
        (GRU(8, dtype=jnp.bfloat16, param_dtype="float32"), "GRU(8, dtype='bfloat16')"),
        (Stack([MinGRU(8), Dropout(GRU(4), input_rate=0.2)]), "Stack((MinGRU(8), Dropout(GRU(4), input_rate=0.2)))"),
        (Project(Heads(LSTM(8), 2), 3), "Project(Heads(LSTM(8), 2), 3)"),
        (GatedResidual(LRU(4, size=2)), "GatedResidual(LRU(4, size=2))"),
        (Zoneout(LSTM(4), 0.1, cell_rate=0.2), "Zoneout(LSTM(4), 0.1, cell_rate=0.2)"),
        (Own(4, offset=2), "Own(4, offset=2)"),
        (Own(4, 2.0, (1,), offset=2), "Own(4, scale=2.0, table=(1,), offset=2)"),
    ],
)
def test_a_cell_is_shown_as_the_code_that_makes_an_equal_one(cell, shown):
    assert repr(cell) == shown
    assert eval(shown) == cell
    assert hash(eval(shown)) == hash(cell)


def test_a_function_is_shown_by_its_name_without_an_address():
    assert repr(BasicRNN(4, activation=jax.nn.relu)) == "BasicRNN(4, activation=relu)"


def test_every_cell_of_the_library_is_shown_without_its_defaults():
    for name in rnnjax.cells.__all__:
        kind = getattr(rnnjax.cells, name)
        if isinstance(kind, type) and issubclass(kind, rnnjax.Cell):
            assert kind.__repr__ is rnnjax.Cell.__repr__, name


def test_a_repr_of_ones_own_is_kept_and_a_cell_that_is_no_dataclass_has_pythons():
    own = type("Named", (Own,), {"__repr__": lambda self: "named"})
    plain = type("Plain", (rnnjax.Cell,), dict.fromkeys(("output_size", "init", "initial_state", "inputs")))
    assert repr(own(4, offset=1)) == "named"
    assert repr(type("Below", (own,), {})(4, offset=1)) == "named"
    assert re.fullmatch(r"<.*Plain object at 0x.*>", repr(plain()))


def test_what_differs_in_a_value_differs_as_a_key_of_what_was_measured():
    cells = [LSTM(4), LSTM(4, forget_bias=0.5), LSTM(4, activation="relu"), GRU(4), GRU(4, reset="before")]
    assert len(set(map(repr, cells))) == len(cells)
