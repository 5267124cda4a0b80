"""Newton's method gives what `Scan` gives, tells how it went, and never hands on what has not converged."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cells_under_test import (
    H,
    I,
    LeakySum,
    check_that_a_reset_cuts_an_overflow_off,
    close,
    inputs,
    parameters,
    same,
    some_state,
)
from fixtures.thorough import main_of, once_more

from rnnjax import (
    GRU,
    LRU,
    LSTM,
    BasicRNN,
    Cell,
    DiagonalCell,
    Dropout,
    Heads,
    HiddenState,
    IndRNN,
    LearnedState,
    Newton,
    ParaGRU,
    ParaLSTM,
    Scan,
    Stack,
    Zoneout,
    newton_report,
    unroll,
    unroll_states,
)
from rnnjax.unrolling import newton_linear
from rnnjax.unrolling.auto import recurrences_in
from rnnjax.unrolling.candidates import is_worth_compiling

B, T, RESET = 3, 6, 3
LONG = 200
MASK = np.array([[1, 0, 1, 1, 0, 1], [0, 0, 0, 0, 0, 0], [0, 1, 1, 1, 1, 1]], bool)
RESETS = np.array([[0, 1, 1, 0, 0, 0], [1, 0, 0, 0, 0, 1], [0, 0, 0, 1, 0, 0]], bool)


@dataclasses.dataclass(frozen=True)
class Logistic(DiagonalCell):
    """The logistic map h' = 3.9 h (1 - h) + z / 1000, chaotic in [0, 1], and of iterates that overflow outside."""

    def gates(self, params, state, z, r):
        return HiddenState(3.9 * state.h * (1 - state.h) + z[..., 0, :] / 1000)


@dataclasses.dataclass(frozen=True)
class Growing(DiagonalCell):
    """h' = exp(z_a) h + z_b + w_h h: it overflows where z_a is large."""

    gate_count = 2

    def gates(self, params, state, z, r):
        return HiddenState(jnp.exp(z[..., 0, :]) * state.h + z[..., 1, :] + r[..., 0, :])


def by_newton_and_scan(cell, params, xs):
    return [jax.jit(functools.partial(unroll, cell, method=method))(params, xs) for method in (Newton(), Scan())]


@pytest.mark.promotes_types
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_states_of_16_bits_are_those_of_scan_within_a_few_of_their_spacings(dtype):
    cell = ParaGRU(H, state_dtype=dtype)
    params, xs = parameters(cell), inputs(B, 60, I)
    close(*by_newton_and_scan(cell, params, xs), rtol=0, atol=4 * float(jnp.finfo(dtype).eps))


def test_small_units_beside_a_large_one_are_as_exact_as_alone():
    cell = IndRNN(H, activation="softplus")
    params = parameters(cell)._replace(w_x=jnp.eye(H)[:, None], w_h=jnp.full((1, H), 0.9).at[0, 0].set(1))
    xs = inputs(B, LONG, H).at[..., 0].set(100)
    newton, scan = (ys[..., 1:] for ys, _ in by_newton_and_scan(cell, params, xs))
    np.testing.assert_allclose(newton, scan, rtol=1e-5)


def value_and_gradients(cell, method, arguments, **options):
    def loss(params, xs, state):
        ys, last = unroll(cell, params, xs, state, method=method, **options)
        return (jnp.cos(ys) * jnp.arange(1.0, ys.shape[-2] + 1)[:, None]).sum() + sum(
            jnp.sin(leaf).sum() for leaf in jax.tree.leaves(last)
        )

    return jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2)))(*arguments)


def given(cell):
    return parameters(cell), inputs(B, T, I), some_state(cell, B)


CASES = {
    "para_gru": (ParaGRU(H), Newton()),
    "para_lstm": (ParaLSTM(H), Newton()),
    "para_lstm_by_number": (ParaLSTM(H), Newton("diagonal")),
    "ind_rnn_damped": (IndRNN(H, recurrent_limit=0.9), Newton(damping=0.5)),
    "lru": (LRU(H, size=I), Newton()),
    "gru": (GRU(H), Newton()),
    "lstm_by_unit": (LSTM(H, peephole=True), Newton("block")),
    "heads_by_number": (Heads(GRU(H), 2), Newton("diagonal")),
    "zoneout_by_number": (Zoneout(LSTM(H), 0.3), Newton("diagonal", iterations=2)),
    "own": (LeakySum(I), Newton("diagonal")),
    "stack": (Stack([Dropout(GRU(H), state_rate=0.3), LearnedState(ParaGRU(2))]), Newton(iterations=3)),
}


# A stack is among the cells that all methods agree on.
MAIN = ("para_gru", "zoneout_by_number")


@pytest.mark.parametrize("name", main_of(CASES, MAIN))
def test_masks_resets_and_directions_are_as_in_a_loop(name):
    cell, method = CASES[name]
    params, xs, state = given(cell)
    arguments = params, jnp.where(MASK[..., None], xs, jnp.nan), state
    options = {"mask": MASK, "resets": RESETS, "reverse": True, "key": jax.random.key(3)}
    expected = value_and_gradients(cell, Scan(), arguments, **options)
    close(value_and_gradients(cell, method, arguments, **options), expected)
    assert all(np.any(np.asarray(leaf) != 0) for leaf in jax.tree.leaves(expected))


@pytest.mark.parametrize("cell", [ParaGRU(H), once_more(ParaLSTM(H)), BasicRNN(H)], ids=repr)
def test_cells_that_forget_converge_in_few_iterations_and_give_the_states_of_a_loop(cell):
    params, xs = cell.init(jax.random.key(0), I), inputs(B, LONG, I)
    params = params._replace(w_h=params.w_h / 2)
    ys, last, (report,) = newton_report(cell, params, xs)
    close((ys, last), unroll(cell, params, xs, method=Scan()))
    assert report.converged.all()
    assert (report.right_steps == LONG).all()
    assert int(report.iterations) <= 6
    assert (report.residual <= 32 * np.finfo(np.float32).eps).all()


def test_what_does_not_converge_is_taken_one_step_after_another_bit_by_bit_and_said():
    cell = Logistic(H)
    with jax.enable_x64(True):
        xs, start = inputs(B, 20, I, dtype=float), HiddenState(jnp.full((B, H), 0.3))
        params = parameters(cell, dtype=float)
        ys, last, (report,) = newton_report(cell, params, xs, start, method=Newton(iterations=4))
        expected = unroll(cell, params, xs, start, method=Scan())
        same((ys, last), expected)
        arguments = params, xs, start
        got, right = (value_and_gradients(cell, method, arguments) for method in (Newton(iterations=4), Scan()))
        close(got, right, rtol=1e-5)
    assert not report.converged.any()
    assert int(report.iterations) == 4
    # As many steps are right after k iterations as there were iterations, at least.
    assert ((report.right_steps >= 4) & (report.right_steps < 20)).all()


def test_only_sequences_that_have_not_converged_are_said_not_to_be():
    cell = LearnedState(ParaGRU(H))
    lengths = np.array([T, 1, 0])
    options = {"lengths": lengths, "method": Newton(iterations=1)}
    ys, last, (report,) = newton_report(cell, *given(cell), **options)
    close((ys, last), unroll(cell, *given(cell), lengths=lengths, method=Scan()))
    same(report.converged, np.array([False, True, True]))
    same(report.right_steps < T, np.array([True, False, False]))


def test_a_cell_that_overflows_before_a_reset_changes_nothing_after_it():
    cell = Growing(H)
    check_that_a_reset_cuts_an_overflow_off(cell, Newton(), T, RESET)
    params, xs = jax.tree.map(jnp.abs, parameters(cell)), inputs(B, T, I).at[0, 0].set(3000)
    ys, _ = unroll(cell, params, xs, method=Newton())
    same(np.isfinite(ys), np.isfinite(unroll(cell, params, xs, method=Scan())[0]))


@pytest.mark.parametrize("cell", [ParaLSTM(H), once_more(BasicRNN(H))], ids=["block", "dense"])
def test_vmap_forward_mode_and_gradients_of_gradients(cell):
    params, xs = parameters(cell), inputs(B, T, I)

    def along(method):
        loss = lambda params, x: jnp.sin(unroll(cell, params, x, method=method)[0]).sum()  # noqa: E731
        each = jax.vmap(jax.grad(loss), (None, 0))
        return jax.jit(lambda params: jax.jvp(lambda params: each(params, xs), (params,), (params,)))(params)

    close(along(Newton()), along(Scan()), rtol=1e-3, atol=1e-4)


def test_a_tree_gives_what_a_loop_gives_where_its_products_overflow_too(monkeypatch):
    rng = np.random.default_rng(0)
    jacobian, b, g = rng.normal(size=(T, 2, 2, H)), *rng.normal(size=(2, T, 2, H))
    large, first = np.full((16, 2, 2, 1), 1e15), np.zeros((16, 2, 1))
    first[:2] = [[1]], [[-2e15]]

    @functools.partial(jax.jit, static_argnums=0)
    def both_ways(implementation, jacobian, b, g):
        ds, back = jax.vjp(functools.partial(newton_linear.linear_solution, jacobian), b)
        return ds, back(g)[0]

    expected = both_ways("loop", jacobian, b, g)
    monkeypatch.setattr(newton_linear, "scans_in_order", lambda: False)
    close(both_ways("tree", jacobian, b, g), expected)
    assert np.isnan(jax.jit(newton_linear.solved)(large, first)).any()
    ds, _ = both_ways("tree", large, first, first)
    same(ds, np.where(np.arange(16)[:, None, None] == 0, 1, np.zeros((16, 2, 1))))


@pytest.mark.promotes_types
def test_states_of_all_steps_16_bit_inputs_and_nothing():
    cell = Stack([ParaLSTM(H), GRU(2)])
    params, xs = parameters(cell), inputs(B, T, I).astype(jnp.bfloat16)
    options = {"lengths": np.array([T, 0, 2])}
    (ys, states), expected = (unroll_states(cell, params, xs, method=m, **options) for m in (Newton(), Scan()))
    assert (ys.dtype, states[0].c.dtype) == (jnp.bfloat16, jnp.float32)
    close((ys.astype(jnp.float32), states), (expected[0].astype(jnp.float32), expected[1]), rtol=2e-2, atol=1e-2)
    ys, last, reports = newton_report(cell, params, xs[:, :0])
    assert (ys.shape, reports) == ((B, 0, 2), ())
    same(last, cell.initial_state(B, jnp.bfloat16))


@dataclasses.dataclass(frozen=True)
class Counting(Cell):
    """A cell whose state is a whole number."""

    output_size = 1

    def init(self, key, input_size):
        return {}

    def initial_state(self, batch_size, dtype=jnp.float32):
        return jnp.zeros((batch_size, 1), jnp.int32)

    def inputs(self, params, xs, *, key=None):
        return xs[..., :1]

    def step(self, params, state, z):
        return state + 1, z


@pytest.mark.parametrize(
    ("cell", "method", "sentence"),
    [
        (Counting(), Newton(), r"states of floating-point numbers, and that of Counting has int32; use Scan\(\)"),
        (LSTM(H, projection_size=2), Newton("block"), r"LSTM have \[3, 2\] and \[3, 4\]; use jacobian="),
        (
            BasicRNN(4000),
            Newton(),
            r"4000 x 4000 derivatives for each of 6 x 3 steps of BasicRNN, 1099 MiB, above the limit of 256; use Scan",
        ),
    ],
    ids=["whole numbers", "shapes", "memory"],
)
def test_what_newton_cannot_run_is_refused_in_one_sentence(cell, method, sentence):
    params = jax.eval_shape(lambda key: cell.init(key, I), jax.random.key(0))
    run = lambda params: unroll(cell, params, inputs(B, T, I), method=method)  # noqa: E731
    with pytest.raises(ValueError, match=sentence):
        jax.eval_shape(run, params)


def test_options_out_of_range_are_refused_in_one_sentence():
    for options, sentence in (
        ({"jacobian": "full"}, "jacobian must be .*, got 'full'"),
        ({"tolerance": 0.0}, "tolerance must be positive, or None .*, got 0.0"),
        ({"iterations": 0}, "iterations must be at least 1, got 0"),
        ({"damping": 1.5}, r"damping must be in \[0, 1\], got 1.5"),
    ):
        with pytest.raises(ValueError, match=sentence):
            Newton(**options)
    with pytest.raises(TypeError, match=r"newton_report takes a Newton\(...\), or a method that has one, got Scan"):
        newton_report(GRU(H), parameters(GRU(H)), inputs(B, T, I), method=Scan())


def test_newton_is_tried_for_long_sequences_alone_and_on_a_cpu_for_cells_that_keep_units_apart():
    def tried(cell, length):
        xs = jax.ShapeDtypeStruct((B, length, I), jnp.float32)
        (recurrence,) = recurrences_in(lambda params, xs: unroll(cell, params, xs), parameters(cell), xs)
        return is_worth_compiling(Newton(), recurrence)

    assert [tried(cell, n) for cell in (ParaGRU(H), GRU(H)) for n in (100, LONG + 100)] == [False, True, False, False]
