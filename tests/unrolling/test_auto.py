"""Which method `unroll` takes where it is given none: one for each recurrence."""

import jax
import jax.numpy as jnp
import pytest
from cells_under_test import H, Halved, I, LeakySum, inputs, parameters, same

from rnnjax import (
    GRU,
    LSTM,
    Auto,
    Dropout,
    Fused,
    LearnedState,
    Luong,
    Pallas,
    Project,
    Scan,
    Stack,
    Static,
    attending,
    choose_method,
    unroll,
    unroll_states,
)
from rnnjax.machine import device_name
from rnnjax.unrolling import known
from rnnjax.unrolling.auto import choosing, methods_of, recurrences_in
from rnnjax.unrolling.known_devices import Row
from rnnjax.unrolling.sequences import choose_again

B, T = 4, 5
MIXED = Stack((GRU(H), LeakySum(H), Halved(H), LearnedState(Project(LSTM(H), 2))))


@pytest.fixture
def served(monkeypatch):
    """Returns a list that is told which method runs the recurrence of which cell."""
    notes = []
    for method in (Fused, Scan, Static):

        def run(self, recurrence, run=method.run):
            notes.append((self, type(recurrence.cell)))
            return run(self, recurrence)

        monkeypatch.setattr(method, "run", run)
    choose_again()
    return notes


def test_a_stack_of_gated_and_other_layers_gets_a_method_for_each(served):
    params, xs = parameters(MIXED), inputs(B, T, H)
    params = (parameters(GRU(H), H), *params[1:])
    unroll(MIXED, params, xs)
    expected = [(Fused(), GRU), (Scan(), LeakySum), (Scan(), Halved), (Fused(), LSTM)]
    assert served == expected
    assert methods_of(MIXED, (T, B, H)) == [method for method, _ in expected]


@pytest.mark.parametrize(
    ("cell", "method"),
    [
        (LSTM(H), Fused()),
        (Stack((GRU(I), LearnedState(Dropout(GRU(H))))), Fused()),
        (LeakySum(I), Scan()),
        (Halved(H), Scan()),
        (Stack((LeakySum(I), GRU(H))), Auto()),
    ],
    ids=str,
)
def test_the_method_of_a_whole_cell_is_told_where_it_is_one(cell, method):
    assert choose_method(cell, (T, B, I), "cpu") == method
    assert choose_method(cell, (T, B, I), "gpu") == Scan()


def test_a_mask_drawn_for_the_state_leaves_a_gated_cell_to_scan(served):
    cell = Dropout(GRU(H), state_rate=0.5)
    params, xs = parameters(cell), inputs(B, T, I)
    unroll(cell, params, xs)
    unroll(cell, params, xs, key=jax.random.key(0))
    assert served == [(Fused(), GRU), (Scan(), Dropout)]


def test_the_method_of_a_cell_with_a_memory_is_told_from_its_parameters():
    cell = Luong(GRU(H), memory_size=2)
    params = attending(parameters(cell), inputs(B, 3, 2))
    with pytest.raises(ValueError, match="has no memory to attend to"):
        choose_method(cell, (T, B, I), "cpu")
    assert choose_method(cell, (T, B, I), "cpu", params=params) == Scan()


def test_all_states_are_kept_by_the_loop_that_keeps_them():
    params, xs = parameters(LSTM(H)), inputs(B, T, I)
    got, expected = (unroll_states(LSTM(H), params, xs, method=method) for method in (Auto(), Scan()))
    same(got, expected)


def test_a_choice_for_a_whole_model_comes_before_it(served):
    params, xs = parameters(LSTM(H)), inputs(B, T, I)
    with choosing(lambda cell: Static() if isinstance(cell, LSTM) else None):
        unroll(LSTM(H), params, xs)
        unroll(GRU(H), parameters(GRU(H)), xs)
    assert served == [(Static(), LSTM), (Fused(), GRU)]


def test_a_choice_within_another_leaves_to_that_what_it_does_not_choose(served):
    params, xs = parameters(GRU(H)), inputs(B, T, I)
    with choosing(lambda cell: Static()), choosing(lambda cell: None):
        unroll(GRU(H), params, xs)
    assert served == [(Static(), GRU)]


def shapes(cell, batch, dtype=jnp.bfloat16):
    """Returns a recurrence of shapes alone."""
    params = jax.eval_shape(lambda: cell.init(jax.random.key(0), 8))
    xs = jax.ShapeDtypeStruct((batch, T, 8), dtype)
    (recurrence,) = recurrences_in(lambda params, xs: unroll(cell, params, xs), params, xs)
    return recurrence


def row(method, **fields):
    about = {"command": "", "versions": "", "commit": ""}
    fields = {"device": device_name(), "cell": "LSTM", "dtype": "bfloat16", "hidden": 256, "batch": 32, **fields}
    return Row(method=method, **fields, **about)


@pytest.mark.promotes_types
def test_on_a_device_that_is_known_the_choice_is_what_was_measured_if_that_can_serve(monkeypatch):
    rows = (row(Pallas(interpret=True), hidden=64), row(Scan(unroll=4)), row(Fused(), device="another"))
    monkeypatch.setattr(known, "known_rows", lambda: rows)
    cells = [LSTM(64), LSTM(64, layer_norm=True), LSTM(256), LSTM(272), GRU(64)]
    chosen = [by_rule_or_known(shapes(cell, 32)) for cell in cells]
    assert chosen == [Pallas(interpret=True), Scan(unroll=4), Scan(unroll=4), Fused(), Fused()]
    assert by_rule_or_known(shapes(LSTM(64), 33)) == Fused()
    assert by_rule_or_known(shapes(LSTM(64), 32, jnp.float32)) == Fused()


@pytest.mark.promotes_types
def test_of_another_machine_nothing_is_known_but_the_rule(monkeypatch):
    monkeypatch.setattr(known, "known_rows", lambda: (row(Scan(unroll=4)),))
    assert Auto().method_for(shapes(LSTM(64), 32), "gpu") == Scan()


def by_rule_or_known(recurrence):
    return Auto().method_for(recurrence, jax.default_backend())
