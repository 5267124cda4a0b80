"""The CPU kernels that the machine's compiler makes of traced gates give the values and gradients of `Scan`."""

import dataclasses
import functools
import importlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cells_under_test import H, I, UpdateGateRNN, close, inputs, parameters, same, some_state
from fixtures.thorough import once_more
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P
from test_pallas_interpreted import CELLS, LENGTHS, RESETS, found_by, total

from rnnjax import GRU, LSTM, SLSTM, BasicRNN, GatedCell, Heads, HiddenState, Native, Scan, Stack, unroll
from rnnjax.unrolling.auto import recurrences_in
from rnnjax.unrolling.native import compiler
from rnnjax.unrolling.trial import largest_error

native = importlib.import_module("rnnjax.unrolling.native.native")


@dataclasses.dataclass(frozen=True)
class MinimalGatedUnit(GatedCell):
    """The cell of the README."""

    gate_count = 2

    def gates(self, params, state, z, r):
        f = jax.nn.sigmoid(z[..., 0, :] + r[..., 0, :])
        candidate = jnp.tanh(z[..., 1, :] + f * r[..., 1, :])
        return HiddenState((1 - f) * state.h + f * candidate)


@dataclasses.dataclass(frozen=True)
class OfEverything(GatedCell):
    """A user's own cell with every kind of pointwise function that has a form in the kernel's language."""

    def gates(self, params, state, z, r):
        x = (z + r)[..., 0, :]
        positive = jnp.square(x) + 1
        waves = jnp.sin(x) * jnp.cos(x) + jax.lax.erf(x) + jnp.floor(x) - jnp.ceil(x)
        roots = jnp.sqrt(positive) * jax.lax.rsqrt(positive) * jnp.log(positive) + positive**0.7 + x**3 * x**-2
        inverses = jnp.arcsin(jnp.sin(x) / 2) + jnp.arccos(jnp.cos(x) / 2) + jnp.arctan(x) + jnp.arctan2(x, positive)
        hyperbolic = (
            jnp.arcsinh(x) + jnp.arccosh(positive + 1) + jnp.arctanh(jnp.sin(x) / 2) + jnp.sinh(x) / jnp.cosh(x)
        )
        others = jnp.tan(x / 9) + jnp.exp2(x) + jnp.log2(positive) + jnp.cbrt(positive) + jax.lax.erfc(x)
        steps = jnp.round(3 * x) + jax.lax.round(2 * x) + jax.lax.rem(5 * x, positive)
        small = jnp.expm1(x) / positive + jnp.log1p(jnp.exp(-jnp.abs(x))) + jnp.sign(x) * jnp.maximum(x, 0.3)
        parts = jnp.where((x > 0) & ~(x > 1) | (x != x), waves, roots) + jnp.clip(small, -1, 1) + jnp.minimum(x, 0)
        parts = parts + (inverses + hyperbolic + others + steps) / 9
        return HiddenState(0.1 * jnp.where(jnp.isfinite(parts), parts, state.h))


B, T = 3, 3
NATIVE = Native()
# The compiler takes some seconds for each, and for this one alone in most tests.
CELL = CELLS["lstm_with_everything_pointwise"]
COMPILED = {"lstm_with_everything_pointwise": CELL, "own": OfEverything(H)}
MORE = {"gru": CELLS["gru"], "own_resonator": CELLS["own_resonator"], "readme": MinimalGatedUnit(H)}
MASK = np.array([[1, 0, 1], [0, 0, 0], [0, 1, 1]], bool)
needs_compiler = pytest.mark.skipif(compiler.compiler() is None, reason="no C++ compiler is installed")


@pytest.fixture(autouse=True)
def quickly(monkeypatch):
    """Kernels are compiled in a third of the time, and checked once a session as usual."""
    flags = tuple("-O0" if flag == "-O3" else flag for flag in compiler._FLAGS)
    monkeypatch.setattr(compiler, "_FLAGS", flags)


def check(cell, batch=(B,), steps=T, given=True, scale=1.0, **options):
    state = some_state(cell, batch) if given else None
    params = jax.tree.map(lambda leaf: scale * leaf, parameters(cell))
    arguments = params, inputs(*batch, steps, I), state
    kernels, scan = found_by((NATIVE, Scan()), cell, arguments, options)
    assert largest_error(kernels, scan) < 2e-5


def of_outputs(cell, method, resets):
    """Returns the value and the gradients of a function of the outputs alone."""
    loss = lambda params, xs: jnp.sin(unroll(cell, params, xs, resets=resets, method=method)[0]).sum()  # noqa: E731
    return jax.value_and_grad(loss, (0, 1))


def resets_at(step, steps):
    return np.arange(steps) == np.full((B, 1), step)


def reason_against(cell, dtype=jnp.float32):
    params = jax.eval_shape(lambda: cell.init(jax.random.key(0), I))
    run = functools.partial(unroll, cell)
    (recurrence,) = recurrences_in(run, params, jax.ShapeDtypeStruct((B, T, I), dtype))
    return NATIVE.why_not(recurrence)


@needs_compiler
@pytest.mark.parametrize(
    "cell",
    [*COMPILED.values(), *map(once_more, MORE.values())],
    ids=[*COMPILED, *MORE],
)
def test_values_and_gradients_are_those_of_scan(cell):
    check(cell, lengths=LENGTHS, resets=RESETS, reverse=True)


@needs_compiler
def test_exponential_gates_over_a_normaliser_are_those_of_scan():
    check(SLSTM(H), given=False, lengths=LENGTHS, resets=RESETS, reverse=True)


@needs_compiler
def test_a_state_that_overflows_before_a_reset_while_outputs_stay_finite_reaches_no_gradient():
    cell = LSTM(H, gate_activation="relu")  # c becomes infinite, and tanh of it is 1
    params = parameters(cell)
    params = params._replace(b=params.b.at[1].set(1e9), w_h=0.1 * params.w_h)
    given = params, inputs(B, 9, I)
    kernel, scan = (jax.jit(of_outputs(cell, method, resets_at(7, 9)))(*given) for method in (NATIVE, Scan()))
    assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(kernel))
    close(kernel, scan, rtol=1e-4, atol=1e-5)


@needs_compiler
def test_saturated_units_have_no_gradient():
    cell = BasicRNN(H)
    params = parameters(cell)._replace(b=jnp.full((1, H), 30.0))
    gradient = jax.jit(jax.grad(functools.partial(total, cell, NATIVE)))(params, inputs(B, T, I))
    assert not any(leaf.any() for leaf in jax.tree.leaves(gradient))


@needs_compiler
def test_missing_steps_are_skipped_as_scan_does():
    check(CELL, mask=MASK, resets=RESETS)


@needs_compiler
def test_so_they_are_where_threads_share_out_the_units_of_few_sequences():
    check(dataclasses.replace(CELL, hidden_size=70), lengths=LENGTHS, resets=RESETS, scale=0.3)


@needs_compiler
@pytest.mark.thorough
def test_so_they_are_in_every_size_of_tile_and_in_stacks():
    check(LSTM(70, peephole=True, cell_clip=0.6, coupled_gates=True), batch=(3, 11), steps=9)
    check(Stack([GRU(37), GRU(16)]), batch=(), steps=2, given=False)


@needs_compiler
@pytest.mark.thorough
def test_so_they_are_as_users_compile_them(monkeypatch):
    monkeypatch.undo()
    check(LSTM(70), batch=(130,), steps=9, scale=0.2)
    check(GRU(150), batch=(3, 11), steps=9, scale=0.2)


@needs_compiler
def test_an_overflow_before_a_reset_reaches_nothing_after_it():
    params, resets = parameters(CELL), np.arange(T) == np.full((B, 1), T - 1)
    xs = inputs(B, T, I).at[0, 0].set(jnp.inf)
    (found,) = found_by((NATIVE,), CELL, (params, xs, None), {"resets": resets})
    gradient, (ys, _) = found
    assert np.isnan(ys[0, :-1]).all()
    assert np.isfinite(ys[:, -1]).all()
    same(gradient[1][0, :-1], jnp.zeros_like(gradient[1][0, :-1]))


@needs_compiler
def test_nan_stays_where_it_is_put():
    xs = inputs(B, T, I).at[0, 1].set(jnp.nan)
    ys, _ = unroll(CELL, parameters(CELL), xs, method=NATIVE)
    assert np.isnan(ys[0, 1:]).all()
    assert np.isfinite(ys[1:]).all()
    assert np.isfinite(ys[0, 0]).all()


@needs_compiler
@pytest.mark.parametrize("axes", [(None, 0), (0, None)], ids=["inputs", "params"])
def test_they_are_batched_as_scan_is(axes):
    params, xs = parameters(CELL), inputs(2, B, T, I)
    stacked = jax.tree.map(lambda leaf: jnp.stack([leaf, 2 * leaf]), params)
    arguments = (params, xs) if axes[1] == 0 else (stacked, xs[0])
    gradients = (jax.grad(functools.partial(total, CELL, method), (0, 1)) for method in (NATIVE, Scan()))
    close(*(jax.jit(jax.vmap(gradient, axes))(*arguments) for gradient in gradients), rtol=1e-4, atol=1e-5)


@needs_compiler
def test_a_mapped_axis_is_one_more_of_the_batch():
    params, xs, masks = parameters(CELL), inputs(2, B, T, I), jnp.stack([MASK, ~MASK])

    def gradients(method):
        def entry(params, xs, mask):
            ys, last = unroll(CELL, params, xs, mask=mask, method=method)
            return jnp.square(ys).sum() + sum(jnp.sin(leaf).sum() for leaf in jax.tree.leaves(last))

        both = jax.vmap(entry, (None, 1, 0))
        return jax.jit(jax.grad(lambda params, xs: both(params, xs, masks).sum(), (0, 1)))

    arguments = params, jnp.swapaxes(xs, 0, 1)
    close(*(gradients(method)(*arguments) for method in (NATIVE, Scan())), rtol=1e-4, atol=1e-5)
    program = gradients(NATIVE).lower(*arguments).as_text()
    assert len(re.findall(r"custom_call @rnnjax_native\w+_forward", program)) == 1
    assert len(re.findall(r"custom_call @rnnjax_native\w+_backward", program)) == 1
    assert "stablehlo.while" not in program


@needs_compiler
@pytest.mark.parametrize(("cell", "gates"), [(LSTM(H), 4), (GRU(H), 3)])
def test_z_and_r_of_all_steps_are_in_memory_for_gradients_alone(cell, gates):
    def loss(params, xs):
        return unroll(cell, params, xs, method=NATIVE)[0].sum()

    def has_gates_of_all_steps(function):
        program = jax.jit(function).lower(parameters(cell), inputs(B, 7, I)).as_text()
        assert "custom_call @rnnjax_native" in program
        return f"tensor<7x{B}x{gates}x{H}xf32>" in program

    assert not has_gates_of_all_steps(loss)
    assert has_gates_of_all_steps(jax.grad(loss))


def steepness(method, params, xs, cell=CELL):
    gradient = jax.grad(functools.partial(total, cell, method))(params, xs)
    return sum(jnp.square(leaf).sum() for leaf in jax.tree.leaves(gradient))


def in_forward_mode(method, params, xs):
    gradients = jax.value_and_grad(functools.partial(total, CELL, method), (0, 1))
    return jax.jvp(gradients, (params, xs), (jax.tree.map(jnp.ones_like, params), jnp.cos(xs)))


@needs_compiler
@pytest.mark.parametrize("derivative", [jax.grad(steepness, 1), in_forward_mode], ids=["of_a_gradient", "forward"])
def test_other_derivatives_are_those_of_scan(derivative):
    arguments = parameters(CELL), inputs(B, T, I)
    found, wanted = (jax.jit(functools.partial(derivative, method))(*arguments) for method in (NATIVE, Scan()))
    close(found, wanted, rtol=1e-4, atol=1e-5)


@needs_compiler
def test_inside_shard_map_they_are_differentiated_as_scan_is():
    params, xs = parameters(CELL), inputs(2 * B, T, I)
    mesh = jax.make_mesh((2,), ("data",), axis_types=(AxisType.Auto,))

    def gradients(method):
        shard = lambda params, xs: jax.lax.psum(total(CELL, method, params, xs), "data")  # noqa: E731
        split = jax.shard_map(shard, mesh=mesh, in_specs=(P(), P("data")), out_specs=P())
        return jax.jit(jax.grad(split))(params, xs)

    close(*(gradients(method) for method in (NATIVE, Scan())), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("cell", "dtype", "sentence"),
    [
        (LSTM(H, projection_size=2), jnp.float32, "LSTM mixes hidden units in its gates, .*; use Fused"),
        (LSTM(H), jnp.bfloat16, r"Native\(\) computes in float32, got bfloat16; convert it"),
        (Heads(LSTM(H), 2), jnp.float32, "this one is in blocks; use Fused"),
    ],
    ids=["projection", "bfloat16", "heads"],
)
def test_what_it_cannot_run_it_refuses_in_a_sentence(cell, dtype, sentence):
    assert re.search(sentence, reason_against(cell, dtype))


def test_without_a_compiler_it_says_so(monkeypatch):
    monkeypatch.setattr(compiler, "compiler", lambda: None)
    assert "needs a C++ compiler" in reason_against(LSTM(H))


@needs_compiler
def test_gates_without_a_form_in_the_kernels_language_are_named():
    class Gamma(UpdateGateRNN):
        def gates(self, params, state, z, r):
            return type(state)(jax.lax.lgamma(z + r)[..., 0, :])

    assert "gates use lgamma, for which there is no C++ form; use Fused() or Scan()" in reason_against(Gamma(H))


@needs_compiler
def test_a_cell_that_cannot_have_one_unit_is_refused():
    @dataclasses.dataclass(frozen=True)
    class Even(UpdateGateRNN):
        def __post_init__(self):
            if self.hidden_size % 2:
                raise ValueError(f"hidden_size must be even, got {self.hidden_size}")

    sentence = "its step is traced for one hidden unit, but hidden_size must be even, got 1; use Fused() or Scan()"
    assert sentence in reason_against(Even(4))


@needs_compiler
@pytest.mark.parametrize("cause", ["does not compile", "is wrong"])
def test_a_kernel_that_fails_is_not_used_and_warned_of_once(cause, monkeypatch, caplog, tmp_path):
    monkeypatch.setenv("RNNJAX_CACHE", str(tmp_path))
    monkeypatch.setattr(native, "_FAILED", {})
    if cause == "does not compile":
        monkeypatch.setattr(compiler, "_FLAGS", ("-fno-such-flag",))
    else:
        monkeypatch.setattr(native, "_largest_error", lambda recurrence: 0.5)
        monkeypatch.setattr(compiler, "built", lambda source: tmp_path / "wrong.so")
        monkeypatch.setattr(compiler, "registered", lambda path: None)
    with pytest.raises(ValueError, match=r"LSTM has no C\+\+ kernel: .*; use Fused"):
        unroll(LSTM(H), parameters(LSTM(H)), inputs(B, T, I), method=NATIVE)
    assert "no C++ kernel" in reason_against(LSTM(H))
    assert [record.message for record in caplog.records if "Native() is not used for LSTM" in record.message][1:] == []
    assert not list(tmp_path.rglob("*.checked"))
