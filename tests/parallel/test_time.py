"""A sequence's time over devices equals one device, in values and gradients."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from fixtures.thorough import once_more
from jax.sharding import AxisType, PartitionSpec
from pipelines import EVERYTHING, B, T, arguments, check

from rnnjax import (
    LRU,
    QRNN,
    BasicRNN,
    Dropout,
    LearnedState,
    MinGRU,
    MinLSTM,
    Residual,
    Stack,
    linear_scan,
    unroll,
    unroll_states,
)
from rnnjax.parallel.time import DeviceChunks, TimeSplit
from rnnjax.unrolling.linear_scan import ScanArrays, ScanSettings, typed_scan

STACK = Stack(
    (
        Dropout(MinLSTM(4), input_rate=0.3, output_rate=0.3),
        LearnedState(LRU(3)),
        Dropout(Residual(QRNN(3)), input_rate=0.3, variational=True),
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


def test_steps_in_order_by_pmap():
    check(MinGRU(3), 2, "pmap", TimeSplit(implementation="scan"))


@pytest.mark.parametrize("length", [1, 5])
def test_steps_that_do_not_divide_are_padded_even_to_a_part_of_nothing_else(length):
    cell = MinGRU(3)
    params, xs, state = arguments(cell)
    xs = xs[:, :length]

    def values(method, *given):
        ys, last = unroll(cell, *given, method=method)
        return (ys**2).sum() + last.h.sum(), (ys, last)

    def of(method):
        return jax.grad(lambda *given: values(method, *given), argnums=(0, 1, 2), has_aux=True)

    assert_close(on_devices(of(TimeSplit()), params, xs, state), jax.jit(of(None))(params, xs, state))


def test_a_nan_before_a_reset_on_another_device_reaches_nothing_after_it():
    cell = MinGRU(3)
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
    with pytest.raises(ValueError, match=r"TimeSplit\(\) takes linear cells .* BasicRNN is not one here; unroll it on"):
        on_devices(lambda *given: unroll(cell, *given, method=TimeSplit()), params, xs, state)
    with pytest.raises(ValueError, match="TimeSplit needs a mapped axis 'time'"):
        unroll(MinGRU(3), params[0], xs, method=TimeSplit())
