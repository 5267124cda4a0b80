"""The CPU kernels that the machine's compiler makes of linear and diagonal cells give what `Scan` does."""

import dataclasses
import functools
import importlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cells_under_test import I, close, inputs, parameters, same, some_state
from fixtures.thorough import once_more
from test_native import needs_compiler, of_outputs, quickly, resets_at, steepness  # noqa: F401
from test_pallas_interpreted import found_by

from rnnjax import (
    LRU,
    QRNN,
    RGLRU,
    Associative,
    GatedLinearAttention,
    HiddenState,
    IndRNN,
    LinearCell,
    MinGRU,
    MinLSTM,
    Native,
    ParaLSTM,
    Scan,
    Stack,
    unroll,
)
from rnnjax.unrolling.auto import recurrences_in
from rnnjax.unrolling.native import unitwise_source
from rnnjax.unrolling.trial import largest_error

native = importlib.import_module("rnnjax.unrolling.native.native")

NATIVE = Native()
H = 5
B, T = 3, 120  # more steps than are computed at once
LENGTHS = np.array([T, 1, 50])
RESETS = np.arange(T) % 40 == np.array([[7], [0], [39]])
CELLS = {
    "its own inputs and outputs": LRU(H, size=4),
}
MORE = {
    "inputs projected": MinGRU(H),
    "outputs that read z": QRNN(H),
    "many gates": MinLSTM(H, positive=True),
    "one gate": IndRNN(H),
    "parameters in every step": RGLRU(H, project_inputs=True),
    "outputs that add the inputs": LRU(H, size=I),
}
DIAGONAL = ParaLSTM(H)


@dataclasses.dataclass(frozen=True)
class Mixing(LinearCell):
    """A cell whose coefficients break the contract: each unit's reads all units."""

    def coefficients(self, params, zs):
        return jax.nn.softmax(zs[..., 0, :]), zs[..., 0, :]


@dataclasses.dataclass(frozen=True)
class Clock(LinearCell):
    """A cell that reads how much time has passed, the same in all sequences."""

    def inputs(self, params, xs, *, key=None):
        return jnp.linspace(0.1, 0.9, len(xs))[:, None, None]

    def coefficients(self, params, zs):
        return jax.nn.sigmoid(zs), zs


class Delayed(LRU):
    """A cell whose inputs are those of the step before, so that z does not follow from a step's own."""

    def inputs(self, params, xs, *, key=None):
        return super().inputs(params, jnp.concatenate([jnp.zeros_like(xs[:1]), xs[:-1]]))


class Doubled(LRU):
    """A cell that outputs otherwise than the one it derives from."""

    def outputs(self, params, ys):
        return 2 * super().outputs(params, ys)


def check(cell, batch=(B,), steps=T, **options):
    arguments = parameters(cell), inputs(*batch, steps, I), some_state(cell, batch)
    kernel, scan = found_by((NATIVE, Scan()), cell, arguments, options)
    assert largest_error(kernel, scan) < 2e-5


def recurrence_of(cell, **options):
    params = jax.eval_shape(lambda: cell.init(jax.random.key(0), I))
    run = functools.partial(unroll, cell, **options)
    (recurrence,) = recurrences_in(run, params, jax.ShapeDtypeStruct((B, T, I), jnp.float32))
    return recurrence


@needs_compiler
@pytest.mark.parametrize("cell", [*CELLS.values(), *map(once_more, MORE.values())], ids=[*CELLS, *MORE])
def test_values_and_gradients_are_those_of_scan(cell):
    check(cell, lengths=LENGTHS, reverse=True)


@needs_compiler
@pytest.mark.parametrize("cell", [DIAGONAL, once_more(LRU(H, size=4))], ids=["diagonal", "linear"])
def test_so_they_are_with_resets_and_missing_steps(cell):
    mask = np.random.default_rng(0).random((B, T)) < 0.7
    check(cell, resets=RESETS, mask=mask)


@needs_compiler
@pytest.mark.thorough
def test_so_they_are_in_every_size_of_tile_and_in_stacks(monkeypatch):
    monkeypatch.undo()
    check(MinGRU(70), batch=(2, 11), steps=9)
    check(Stack([LRU(37, size=90), MinGRU(16)]), batch=(), steps=300)


@needs_compiler
@pytest.mark.parametrize("cell", [LRU(H, size=4), *map(once_more, [MinGRU(H), QRNN(H)])], ids=["ends", "states", "z"])
def test_so_they_are_with_more_steps_and_sequences_than_are_worked_on_at_once(cell):
    batch, steps = 5, 1000
    resets = np.arange(steps) % 400 == np.array([7, 0, 1, 2, 399])[:, None]
    mask = np.random.default_rng(0).random((batch, steps)) < 0.9
    check(cell, (batch,), steps, resets=resets, mask=mask)
    check(cell, (batch,), steps, lengths=np.array([steps, 1, 990, 0, 500]))


@needs_compiler
def test_no_program_has_an_array_of_all_states_where_outputs_alone_are_asked_for():
    cell, steps = LRU(H, size=4), 1000

    def loss(params, xs):
        return unroll(cell, params, xs, method=NATIVE)[0].sum()

    for function in (loss, jax.grad(loss)):
        program = jax.jit(function).lower(parameters(cell), inputs(B, steps, I)).as_text()
        assert "custom_call" in program
        assert f"tensor<{steps}x{B}x{H}xf32>" not in program


@needs_compiler
def test_an_overflow_before_a_reset_reaches_nothing_after_it():
    cell, resets = DIAGONAL, np.arange(T) == np.full((B, 1), T - 1)
    xs = inputs(B, T, I).at[0, 0].set(jnp.inf)
    (found,) = found_by((NATIVE,), cell, (parameters(cell), xs, None), {"resets": resets})
    gradient, (ys, _) = found
    assert np.isnan(ys[0, :-1]).all()
    assert np.isfinite(ys[:, -1]).all()
    same(gradient[1][0, :-1], jnp.zeros_like(gradient[1][0, :-1]))


@needs_compiler
def test_a_gradient_of_a_gradient_is_that_of_scan():
    cell = LRU(H, size=4)
    derivatives = (jax.grad(functools.partial(steepness, method, cell=cell)) for method in (NATIVE, Scan()))
    found, wanted = (jax.jit(derivative)(parameters(cell), inputs(B, 9, I)) for derivative in derivatives)
    close(found, wanted, rtol=1e-4, atol=1e-4)


@needs_compiler
@pytest.mark.parametrize("cell", [Doubled(H, size=4), once_more(Delayed(H, size=4))], ids=["outputs", "inputs"])
def test_what_a_class_below_overrides_is_its_own(cell):
    check(cell, steps=9)


@needs_compiler
def test_gradients_without_that_of_z_are_those_of_scan():
    cell = QRNN(H)
    params, xs, state = parameters(cell), inputs(B, 9, I), some_state(cell, B)

    def of_state(method, state):
        return unroll(cell, params, xs, state, method=method)[0].sum()

    close(*(jax.jit(jax.grad(functools.partial(of_state, method)))(state) for method in (NATIVE, Scan())))


@needs_compiler
@pytest.mark.parametrize("method", [NATIVE, Associative()], ids=["native", "associative"])
def test_outputs_that_stay_finite_while_the_state_overflows_before_a_reset_are_what_they_are_in_scan(method):
    class Bounded(MinGRU):
        def coefficients(self, params, zs):
            return jnp.full_like(zs[..., 0, :], 1e19), zs[..., 1, :]

        def read(self, params, state, z):
            return jnp.tanh(state.h)

    given = parameters(Bounded(H)), inputs(B, 9, I)
    found, scan = (jax.jit(of_outputs(Bounded(H), each, resets_at(7, 9)))(*given) for each in (method, Scan()))
    assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(found))
    close(found, scan, rtol=1e-4, atol=1e-5)


def test_a_state_of_ones_own_may_take_whole_numbers_only():
    class Counted(MinGRU):
        def initial_state(self, batch_size, dtype=jnp.float32):
            return HiddenState(jnp.zeros((batch_size, self.hidden_size), dtype))

    assert native._unsuited(recurrence_of(Counted(H))) == native._without_compiler()


def test_what_a_step_reads_in_another_way_is_refused():
    assert "z of every step and sequence" in NATIVE.why_not(recurrence_of(Clock(H)))


@needs_compiler
@pytest.mark.thorough
def test_coefficients_that_mix_units_are_found_out():
    assert NATIVE.why_not(recurrence_of(Mixing(1))) is None  # of one unit there is nothing to mix
    assert "its results differ from those of Associative" in NATIVE.why_not(recurrence_of(Mixing(H)))


def test_a_state_that_is_no_vector_of_units_is_refused():
    assert "every leaf is [*batch, H]" in NATIVE.why_not(recurrence_of(GatedLinearAttention(4, heads=2)))


@pytest.mark.parametrize(
    ("cell", "resets", "projected", "outputs"),
    [
        (MinGRU(H), False, True, 0),
        (QRNN(H), False, False, 0),
        (LRU(H, size=4), False, True, 4),
        (LRU(H), True, True, 0),
        (Doubled(H, size=4), False, True, 0),
    ],
    ids=[
        "z is made in the kernel",
        "z that outputs read is not",
        "outputs are made in the kernel",
        "not with resets",
        "nor where a class below has its own",
    ],
)
def test_products_are_in_the_kernel_where_nothing_else_reads_them(cell, resets, projected, outputs):
    options = {"resets": jnp.asarray(RESETS)} if resets else {}
    plan, _ = unitwise_source.unitwise_plan_and_source(recurrence_of(cell, **options))
    assert (plan.projected, plan.outputs) == (projected, outputs)
