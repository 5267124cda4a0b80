"""A sequence's time over devices equals one device, in values and gradients."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from fixtures.thorough import once_more
from jax.sharding import AxisType, PartitionSpec
from pipelines import EVERYTHING, B, I, T, arguments, check

from rnnjax import (
    LRU,
    QRNN,
    BasicRNN,
    DiagonalCell,
    Dropout,
    HiddenState,
    IndRNN,
    LearnedState,
    MinGRU,
    MinLSTM,
    Newton,
    ParaGRU,
    ParaLSTM,
    Residual,
    Scan,
    Stack,
    linear_scan,
    newton_report,
    unroll,
    unroll_states,
)
from rnnjax.parallel.time import DeviceChunks, TimeSplit
from rnnjax.unrolling.chunks import WHOLE
from rnnjax.unrolling.linear_scan import ScanArrays, ScanSettings, typed_scan
from rnnjax.unrolling.newton_linear import linear_solution

STACK = Stack(
    (
        Dropout(MinLSTM(4), input_rate=0.3, output_rate=0.3),
        LearnedState(LRU(3)),
        Dropout(Residual(QRNN(3)), input_rate=0.3, variational=True),
    )
)
DIAGONAL = Stack(
    (
        Dropout(ParaLSTM(4), input_rate=0.3, output_rate=0.3),
        Dropout(Residual(LearnedState(IndRNN(4, recurrent_limit=0.9))), input_rate=0.3, variational=True),
    )
)
RNG = np.random.default_rng(0)


def on_devices(function, *given):
    """What every one of two devices computes from equal arguments."""
    everywhere = PartitionSpec()
    mesh = jax.make_mesh((2,), ("time",))
    return jax.jit(jax.shard_map(function, mesh=mesh, in_specs=everywhere, out_specs=everywhere))(*given)


def assert_close(got, expected):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), got, expected)


@pytest.mark.parametrize("mapped", ["shard_map", once_more("pmap")])
def test_a_stack_with_lengths_resets_dropout_and_reverse(mapped):
    check(STACK, 2, mapped, TimeSplit(implementation="associative"), **EVERYTHING)


@pytest.mark.thorough
@pytest.mark.parametrize("iterations", [20, 1])
@pytest.mark.parametrize("mapped", ["shard_map", "pmap"])
def test_a_stack_of_diagonal_cells_by_newton_whether_it_converges_or_not(mapped, iterations):
    check(DIAGONAL, 2, mapped, TimeSplit(newton=Newton(iterations=iterations)), **EVERYTHING)


def reported(cell, params, xs, state, method):
    """What `newton_report` says on two devices, where every one of them computes the same."""
    return on_devices(lambda *given: newton_report(cell, *given, method=method), params, xs, state)


def test_newton_over_devices_converges_as_on_one():
    cell = Stack((ParaLSTM(4), ParaGRU(3)))
    params, xs, state = arguments(cell)
    got, expected = reported(cell, params, xs, state, TimeSplit()), newton_report(cell, params, xs, state)
    assert_close(got[:2], expected[:2])
    for report, on_one in zip(got[2], expected[2], strict=True):
        assert report.converged.all()
        assert (report.iterations, *report.right_steps) == (on_one.iterations, *on_one.right_steps)


@dataclasses.dataclass(frozen=True)
class Logistic(DiagonalCell):
    """The logistic map h' = 3.9 h (1 - h) + z / 1000, which is chaotic."""

    def gates(self, params, state, z, r):
        return HiddenState(3.9 * state.h * (1 - state.h) + z[..., 0, :] / 1000)


def test_what_has_not_converged_on_a_later_device_is_taken_in_order_on_all_bit_by_bit():
    cell, length = Logistic(3), 20
    params = arguments(cell)[0]
    xs, start = jnp.asarray(RNG.normal(size=(B, length, I)), jnp.float32), HiddenState(jnp.full((B, 3), 0.3))
    method = TimeSplit(newton=Newton(iterations=14))
    ys, last, (report,) = reported(cell, params, xs, start, method)
    assert not report.converged.any()
    assert ((report.right_steps >= length // 2) & (report.right_steps < length)).all()
    jax.tree.map(np.testing.assert_array_equal, (ys, last), unroll(cell, params, xs, start, method=Scan()))


def test_a_gradient_is_that_of_a_loop_where_the_products_of_a_part_overflow():
    large, first = np.full((16, 2, 2, 1), 1e15, np.float32), np.zeros((16, 2, 1), np.float32)
    first[:2] = [[1]], [[-2e15]]

    def both_ways(chunks, jacobian, b, g):
        ds, back = jax.vjp(lambda b: linear_solution(jacobian, b, chunks), b)
        return ds, back(g)[0]

    time = PartitionSpec("time")
    in_parts = functools.partial(both_ways, DeviceChunks("time"))
    mesh = jax.make_mesh((2,), ("time",), axis_types=(AxisType.Auto,))
    mapped = jax.shard_map(in_parts, mesh=mesh, in_specs=time, out_specs=time)
    got = jax.jit(mapped)(large, first, first[::-1])
    assert np.isfinite(got[0]).all()
    assert_close(got, both_ways(WHOLE, large, first, first[::-1]))


@pytest.mark.thorough
def test_steps_in_order_by_pmap():
    check(MinGRU(3), 2, "pmap", TimeSplit(implementation="scan"))


@pytest.mark.parametrize(("cell", "length"), [(MinGRU(3), 1), once_more(MinGRU(3), 5), (ParaGRU(3), 5)])
def test_steps_that_do_not_divide_are_padded_even_to_a_part_of_nothing_else(cell, length):
    params, xs, state = arguments(cell)
    xs = xs[:, :length]

    def values(method, *given):
        ys, last = unroll(cell, *given, method=method)
        return (ys**2).sum() + last.h.sum(), (ys, last)

    def of(method):
        return jax.grad(lambda *given: values(method, *given), argnums=(0, 1, 2), has_aux=True)

    assert_close(on_devices(of(TimeSplit()), params, xs, state), jax.jit(of(None))(params, xs, state))


@pytest.mark.parametrize("cell", [once_more(MinGRU(3)), LearnedState(ParaGRU(3))])
def test_a_nan_before_a_reset_on_another_device_reaches_nothing_after_it(cell):
    params, xs, state = arguments(cell)
    resets = np.zeros((B, T), bool)
    resets[:2, T - 1] = True
    xs = xs.at[0, 0].set(jnp.nan)

    def of(method):
        def loss(params, xs):
            ys, last = unroll(cell, params, xs, state, resets=resets, method=method)
            return (ys[:2, T - 1] ** 2).sum(), (ys, last)

        return jax.grad(loss, argnums=(0, 1), has_aux=True)

    got, expected = on_devices(of(TimeSplit()), params, xs), jax.jit(of(None))(params, xs)
    assert_close(got, expected)
    (ys, _), gradients = got[1], got[0]
    assert np.isnan(ys[0, : T - 1]).all()
    assert all(np.isfinite(leaf).all() and np.any(leaf != 0) for leaf in jax.tree.leaves(gradients))


def test_the_states_of_all_steps():
    params, xs, state = arguments(STACK)
    got = on_devices(lambda *given: unroll_states(STACK, *given, method=TimeSplit()), params, xs, state)
    assert_close(got, jax.jit(functools.partial(unroll_states, STACK))(params, xs, state))


@pytest.mark.parametrize("reverse", [False, True])
def test_a_scan_in_parts_is_the_scan_of_the_whole_in_both_directions(reverse):
    a, b, h0 = (jnp.asarray(RNG.uniform(-1, 1, shape), jnp.float32) for shape in ((6, 2, 3), (6, 2, 3), (2, 3)))
    weight = jnp.cos(jnp.arange(36.0)).reshape(6, 2, 3)

    def in_parts(a, b, h0, weight):
        settings = ScanSettings("associative", reverse, DeviceChunks("time"))
        h0 = jax.lax.pcast(h0, "time", to="varying")
        return typed_scan(settings, ScanArrays(a, b, h0, None, None)) * weight

    time, everywhere = PartitionSpec("time"), PartitionSpec()
    mesh = jax.make_mesh((2,), ("time",), axis_types=(AxisType.Auto,))
    mapped = jax.shard_map(in_parts, mesh=mesh, in_specs=(time, time, everywhere, time), out_specs=time)

    def whole(a, b, h0):
        return linear_scan(a, b, h0, reverse=reverse) * weight

    def outcome(function):
        return jax.jit(jax.value_and_grad(lambda *given: jnp.sin(function(*given)).sum(), argnums=(0, 1, 2)))(a, b, h0)

    assert_close(outcome(lambda *given: mapped(*given, weight)), outcome(whole))


def test_what_cannot_be_split_is_refused():
    cell = Stack((MinGRU(3), BasicRNN(3)))
    params, xs, state = arguments(cell)
    with pytest.raises(ValueError, match=r"linear and diagonal cells .* BasicRNN is neither here; unroll it on"):
        on_devices(lambda *given: unroll(cell, *given, method=TimeSplit()), params, xs, state)
    with pytest.raises(ValueError, match="TimeSplit needs a mapped axis 'time'"):
        unroll(MinGRU(3), params[0], xs, method=TimeSplit())
    with pytest.raises(ValueError, match="newton must have jacobian=\"auto\", which is exact, got 'diagonal'"):
        TimeSplit(newton=Newton("diagonal"))
