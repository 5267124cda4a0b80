"""On a machine without a GPU the kernels are lowered for one; their sizes are checked by arithmetic."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cells_under_test import UpdateGateRNN
from fixtures.thorough import once_more
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from rnnjax import GRU, LSTM, SLSTM, BasicRNN, Fused, GatedCell, Heads, HiddenState, Pallas, Scan, unroll
from rnnjax.unrolling.auto import recurrences_in
from rnnjax.unrolling.kernels import instructions
from rnnjax.unrolling.kernels.pallas import unsuited_recurrence
from rnnjax.unrolling.kernels.traced_gates import gates_of

T, I = 8, 16


class OnGPU(Pallas):
    """The pallas kernels, asked for as if this machine had a GPU."""

    def why_not(self, recurrence):
        return unsuited_recurrence(recurrence)


def lowered(cell, batch, dtype, method, platform, gradient=True, **options):
    """Returns the text of the program of an unrolling, or of its gradient, for a platform."""
    params = jax.eval_shape(lambda: cell.init(jax.random.key(0), I))
    xs = jax.ShapeDtypeStruct((batch, T, I), dtype)
    loss = lambda params, xs: unroll(cell, params, xs, method=method, **options)[0].astype(jnp.float32).sum()  # noqa: E731
    traced = jax.jit(jax.grad(loss) if gradient else loss).trace(params, xs)
    return traced.lower(lowering_platforms=(platform,)).as_text()


CELLS = {
    "rnn": (BasicRNN(256), 16, jnp.float16),
    "rnn_without_an_instruction": (BasicRNN(64, "elu"), 3, jnp.bfloat16),
    "lstm": (LSTM(64), 16, jnp.bfloat16),
    "lstm_with_everything_pointwise": (LSTM(48, peephole=True, cell_clip=1.0, coupled_gates=True), 5, jnp.float32),
    "gru": (GRU(100), 300, jnp.bfloat16),
    "own_gated": (UpdateGateRNN(64), 16, jnp.bfloat16),
    "lstm_over_blocks": (LSTM(768), 16, jnp.bfloat16),
    "gru_over_blocks": (GRU(256), 16, jnp.float32),
    "lstm_in_heads": (Heads(LSTM(768), 12), 16, jnp.bfloat16),
    "slstm_in_heads": (Heads(SLSTM(768), 12), 16, jnp.bfloat16),
    "lstm_in_heads_over_blocks": (Heads(LSTM(512), 2), 16, jnp.bfloat16),
}


# Other cells in a layout that one of the rest has, or another layout of such a cell.
AGAIN = ("lstm", "own_gated", "lstm_in_heads", "slstm_in_heads", "gru_over_blocks")
CASES = [once_more(*case) if name in AGAIN else case for name, case in CELLS.items()]


@pytest.mark.parametrize(("cell", "batch", "dtype"), CASES, ids=CELLS)
def test_each_kernel_lowers_for_a_gpu(cell, batch, dtype):
    assert lowered(cell, batch, dtype, OnGPU(), "cuda").count("@mosaic_gpu") == 2


@dataclasses.dataclass(frozen=True)
class EveryInstruction(GatedCell):
    """A user's own cell with every pointwise function that kernels compute, and a gate without a gradient."""

    gate_count = 2

    def gates(self, params, state, z, r):
        x = (z + r)[..., 0, :]
        positive = jnp.square(x) + 1
        waves = jnp.sin(x) * jnp.cos(x) + jax.lax.erf(x) + jnp.arctan2(x, positive) + jnp.exp2(x) + jnp.log2(positive)
        roots = jnp.sqrt(positive) * jax.lax.rsqrt(positive) * jnp.log(positive) + x**3 * positive**-2
        small = jnp.expm1(x) / positive + jnp.log1p(jnp.exp(-jnp.abs(x))) + jax.nn.sigmoid(x) * jnp.maximum(x, 0.3)
        parts = jnp.where((x > 0) & ~(x >= 1) ^ (x < -1) | (x <= -2) | (x != x), waves, roots)
        parts = parts + jnp.clip(small, -1, 1) + jnp.minimum(jax.lax.stop_gradient(x), 0)
        steps = jnp.sign(x) + jnp.floor(x) - jnp.ceil(x) + jnp.round(x) + jnp.sign((z + r)[..., 1, :])
        return HiddenState(jnp.tanh(jnp.where(jnp.isfinite(parts), parts, state.h)) + steps * (x == 0))


def test_every_instruction_lowers_for_a_gpu():
    cell = EveryInstruction(64)
    assert lowered(cell, 16, jnp.float32, OnGPU(), "cuda").count("@mosaic_gpu") == 2
    params = jax.eval_shape(lambda: cell.init(jax.random.key(0), I))
    (recurrence,) = recurrences_in(
        functools.partial(unroll, cell), params, jax.ShapeDtypeStruct((2, T, I), jnp.float32)
    )
    gates = instructions.in_instructions(gates_of(recurrence))
    used = {equation.primitive.name for part in (gates.forward, gates.backward) for equation in part.operations()}
    # Those that not every version of JAX has in its gates.
    assert instructions._KNOWN - used <= {"bitcast_convert_type", "clamp", "copy", "log2", "one_minus_square"}


def test_options_lower_for_a_gpu():
    options = {"lengths": np.full(16, T), "resets": np.zeros((16, T), bool)}
    assert "mosaic_gpu" in lowered(BasicRNN(64), 16, jnp.bfloat16, OnGPU(), "cuda", **options)


@pytest.mark.parametrize("platform", ["cuda", "tpu"])
@pytest.mark.parametrize("method", [Scan(), Fused()], ids=str)
def test_the_loops_lower_for_every_platform(method, platform):
    text = lowered(LSTM(64, layer_norm=True, projection_size=8), 4, jnp.bfloat16, method, platform)
    assert "stablehlo.while" in text


def test_a_batch_of_programs_runs_one_by_one_where_blocks_wait_for_each_other():
    cell = LSTM(256)
    params = jax.eval_shape(lambda: cell.init(jax.random.key(0), I))
    xs = jax.ShapeDtypeStruct((2, 16, T, I), jnp.bfloat16)
    run = functools.partial(unroll, cell, method=OnGPU())
    jaxpr = str(jax.make_jaxpr(jax.vmap(lambda params, xs: run(params, xs)[0], in_axes=(None, 0)))(params, xs))
    assert "scan[" in jaxpr


def test_kernels_split_over_devices_lower_for_a_gpu():
    cell = LSTM(256)
    mesh = jax.make_mesh((2,), ("data",), axis_types=(AxisType.Auto,))
    shard = lambda params, xs: unroll(cell, params, xs, method=OnGPU())[0]  # noqa: E731
    split = jax.shard_map(shard, mesh=mesh, in_specs=(P(), P("data")), out_specs=P("data"))
    params = jax.eval_shape(lambda: cell.init(jax.random.key(0), I))
    xs = jax.ShapeDtypeStruct((32, T, I), jnp.float32)
    traced = jax.jit(jax.grad(lambda *given: split(*given).sum())).trace(params, xs)
    assert traced.lower(lowering_platforms=("cuda",)).as_text().count("@mosaic_gpu") == 2
