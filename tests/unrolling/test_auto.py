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
    Recurrence,
    Scan,
    Stack,
    Static,
    Steps,
    attending,
    choose_method,
    unroll,
    unroll_states,
)
from rnnjax.unrolling import auto
from rnnjax.unrolling.auto import choosing, fastest, methods_of

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


def shapes(cell, batch, dtype=jnp.bfloat16):
    """Returns a recurrence of shapes alone."""

    def made():
        params, xs = cell.init(jax.random.key(0), 8), jnp.zeros((T, batch, 8), dtype)
        state = cell.initial_state(batch, dtype)
        return Recurrence(None, params, state, state, Steps(cell.inputs(params, xs), None, None))

    return jax.eval_shape(made)._replace(cell=cell, gaps=False, keeps_states=False)


def test_on_a_gpu_the_choice_is_what_was_measured_if_that_can_serve(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    kind = jax.devices()[0].device_kind
    monkeypatch.setattr(auto, "MEASURED", (auto.Row(kind, "bfloat16", 256, 32, Pallas()),))
    chosen = [fastest(shapes(LSTM(n), batch), "gpu") for n, batch in [(256, 32), (272, 32), (256, 33)]]
    assert chosen == [Pallas(), Scan(), Scan()]
    assert fastest(shapes(LSTM(64), 16, jnp.float32), "gpu") == Scan()
    assert fastest(shapes(LSTM(64, layer_norm=True), 16), "gpu") == Scan()
    assert fastest(shapes(LSTM(64), 16), "cpu") == Fused()
