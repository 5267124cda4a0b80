"""No two pallas kernels of a program run at once: each reads something that the one before it has made."""

import functools
import itertools
import re

import jax
import jax.numpy as jnp
import pytest
from cells_under_test import H, I, close, drawn, inputs
from jax.experimental import compute_on
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P
from test_pallas_lowering import OnGPU

from rnnjax import GRU, LSTM, BasicRNN, Pallas, Scan, bidirectional, init_bidirectional, unroll

WAITING = LSTM(256)  # too wide for one block
PARAMS = jax.eval_shape(lambda: WAITING.init(jax.random.key(0), 16))
PAIR = (PARAMS, PARAMS)
XS = jax.ShapeDtypeStruct((16, 8, 16), jnp.bfloat16)


def run(params, xs):
    return unroll(WAITING, params, xs, method=OnGPU())[0].astype(jnp.float32).sum()


def both_directions(params, xs):
    return bidirectional(WAITING, WAITING, params, xs, method=OnGPU())[0].astype(jnp.float32).sum()


def side_by_side(params, xs):
    return run(params[0], xs) * run(params[1], xs)


def over_devices(params, xs):
    mesh = jax.make_mesh((2,), ("data",), axis_types=(AxisType.Auto,))
    each = lambda params, xs: jax.lax.psum(side_by_side(params, xs), "data")  # noqa: E731
    return jax.shard_map(each, mesh=mesh, in_specs=(P(), P("data")), out_specs=P())(params, xs)


def batched(params, xs):
    return sum(jax.vmap(run, (None, 0))(p, jnp.stack([xs, xs])).sum() for p in params)


def lowered(function, *arguments, platform="cuda"):
    return jax.jit(function).trace(*arguments).lower(lowering_platforms=(platform,)).as_text()


def calls(text):
    """Returns of every kernel's call its number of results, its name in the program, and what it reads."""
    found = re.findall(r"%(\w+):(\d+) = (?:func\.)?call @kernel_in_turn\w*\((.*?)\)", text)
    return [(name, int(count), operands.split(", ")) for name, count, operands in found]


def check_turns(text, kernels, regions=1):
    """Checks that every kernel but a region's first reads the last result of the one before, and hands on its own."""
    found = calls(text)
    after = [f"%{name}#{count - 1}" in operands for (name, count, _), (_, _, operands) in itertools.pairwise(found)]
    assert len(found) == kernels
    assert after.count(False) == regions - 1
    for body in text.split("func.func ")[1:]:
        if body.startswith("private @kernel_in_turn") and "@mosaic_gpu" in body:
            ((name, operands),) = re.findall(r"%(\w+):\d+ = stablehlo.custom_call @mosaic_gpu_v2\((.*?)\)", body)
            assert "%arg0" in operands.split(", ")
            assert re.search(rf"return .*%{name}#\d+ :", body)


@pytest.mark.parametrize("function", [both_directions, side_by_side, over_devices], ids=lambda f: f.__name__)
def test_each_kernel_of_a_program_for_a_gpu_depends_on_the_one_before(function):
    check_turns(lowered(function, PAIR, XS), 2)
    # The derivative of what is mapped over devices is another region, which reads what the first one has returned.
    check_turns(lowered(jax.grad(function), PAIR, XS), 4, regions=2 if function is over_devices else 1)


def test_batches_of_kernels_take_turns_too():
    text = lowered(batched, PAIR, XS)
    (first, count, _), (_, _, operands) = calls(text)
    assert f"%{first}#{count - 1}" in operands


def test_two_directions_by_kernels_that_take_turns_give_what_scan_gives():
    cells = BasicRNN(H), GRU(H)
    params = drawn(jax.eval_shape(lambda: init_bidirectional(jax.random.key(0), *cells, I)))
    xs = inputs(2, 3, I)

    def loss(method, params, xs):
        ys, states = bidirectional(*cells, params, xs, method=method)
        return jnp.sin(ys).sum() + sum(jnp.square(leaf).sum() for leaf in jax.tree.leaves(states)), ys

    kernels, scan = (
        jax.jit(jax.grad(functools.partial(loss, method), argnums=(0, 1), has_aux=True))
        for method in (Pallas(interpret=True), Scan())
    )
    close(kernels(params, xs), scan(params, xs), rtol=1e-4, atol=1e-5)
    check_turns(kernels.lower(params, xs).as_text(), 4)


def test_a_stream_of_its_own_is_refused():
    on_stream = getattr(compute_on, "compute_on2", compute_on.compute_on)  # the second, since JAX 0.12
    elsewhere = on_stream(run, compute_type="gpu_stream:1", out_memory_spaces=jax.memory.Space.Device)
    with pytest.raises(ValueError, match="must not run beside others, and compute_on puts this one on 'gpu_stream:1'"):
        lowered(elsewhere, PARAMS, XS)
