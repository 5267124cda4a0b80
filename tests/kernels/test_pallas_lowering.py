"""On a machine without a GPU the kernels are lowered for one; their sizes are checked by arithmetic."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cells_under_test import UpdateGateRNN
from fixtures.thorough import once_more
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from rnnjax import GRU, LSTM, BasicRNN, Fused, Heads, Pallas, Scan, unroll
from rnnjax.unrolling.kernels.pallas import unsuited_recurrence

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
    "lstm_in_heads_over_blocks": (Heads(LSTM(512), 2), 16, jnp.bfloat16),
}


# Other cells in a layout that one of the rest has, or another layout of such a cell.
AGAIN = ("lstm", "own_gated", "lstm_in_heads", "gru_over_blocks")
CASES = [once_more(*case) if name in AGAIN else case for name, case in CELLS.items()]


@pytest.mark.parametrize(("cell", "batch", "dtype"), CASES, ids=CELLS)
def test_each_kernel_lowers_for_a_gpu(cell, batch, dtype):
    assert lowered(cell, batch, dtype, OnGPU(), "cuda").count("@mosaic_gpu") == 2


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
