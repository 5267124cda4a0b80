"""The few things a recurrence does on a GPU, in terms of Pallas Mosaic GPU; what changes with JAX is only here.

Everything a kernel computes between its products it computes on tiles ``[rows, units]``: `rows` sequences of a batch
tile and the hidden units of one warpgroup, in registers. In interpret mode (on a CPU, in threads that stand for
warpgroups) tiles are plain arrays and a product is that of NumPy; memory, copies and barriers are those of the GPU.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as gpu
from jaxtyping import Array

from rnnjax.kernels.plan import Plan

_SWIZZLE = 32  # bytes: the finest, so that 16 units of one warpgroup are whole tiles of the operand
# A warp has 8 sequences of 4 units: it reads the staged product, and writes the operand, without a conflict of banks.
_TILE = gpu.Layout.TILED(gpu.Tiling(((8, 16), (8, 4), (1,))), warp_dims=(-4,), lane_dims=(-3, -2), vector_dim=-1)


@dataclasses.dataclass(frozen=True)
class Block:
    """One block of a running kernel: its place in the grid, and what it holds on the chip.

    Arrays in the GPU's memory are ``[..., batch tiles, rows, n, blocks, groups, units]`` (`arranged`), so that integers
    index whatever belongs to one warpgroup. What is published is ``[T, batch tiles, parts, rows, blocks, ...]``.
    """

    plan: Plan
    interpret: bool
    matrix: Any
    operand: Any
    staged: Any
    loaded: Any
    turn: Any
    arrived: Any

    @property
    def place(self) -> tuple[Array, Array, Array]:
        return jax.lax.axis_index("tile"), jax.lax.axis_index("block"), jax.lax.axis_index("group")

    def load_matrix(self, source: Any) -> None:
        """Copies this warpgroup's part of the weight to shared memory, where it stays."""
        _, block, group = self.place
        gpu.copy_gmem_to_smem(source.at[block, group], self.matrix.at[group], self.loaded.at[group])
        gpu.barrier_wait(self.loaded.at[group])

    def read(self, source: Any, n: int, *time: Any) -> Array:
        """Returns this warpgroup's tile of entry n of an array; axes of size 1 are the same for all."""
        at = self._at(source, n, *time)
        return source[at] if self.interpret else gpu.load(source, at, layout=_TILE, optimized=False)

    def write(self, target: Any, n: int, tile: Array, *time: Any) -> None:
        target[self._at(target, n, *time)] = tile

    def _at(self, ref: Any, n: int, *time: Any) -> tuple[Any, ...]:
        tile, block, group = (i if size > 1 else 0 for i, size in zip(self.place, self._sizes(ref)))
        return (*time, tile, slice(None), n, block, group, slice(None))

    def _sizes(self, ref: Any) -> tuple[int, int, int]:
        return ref.shape[-6], ref.shape[-3], ref.shape[-2]

    def full(self, value: float, dtype: Any) -> Array:
        """Returns a tile of one number."""
        tile = jax.lax.full((self.plan.rows, self.plan.units), value, dtype)
        return self.settled(tile)

    def settled(self, tile: Array) -> Array:
        """Returns a tile in the layout of all tiles, which what a loop carries must have."""
        return tile if self.interpret else gpu.layout_cast(tile, _TILE)

    def product(self, count: Any) -> Callable[[int, int], Array]:
        """Returns the weight times what was published last, as number `count`, tile by tile: `(part, gate)`.

        Units are the rows of the product and sequences its columns, which come in eights: a batch of 8 or 16 fills an
        instruction that would be empty for the most part the other way round. The product goes through shared memory,
        transposed, to the threads that have the other gates of the same unit.
        """
        plan, (_, _, group) = self.plan, self.place
        matrix, operand = self.matrix.at[group], self.operand.at[jax.lax.rem(count, plan.slots)]
        staged = self.staged.at[group, :, : plan.matrix_rows]
        if self.interpret:
            sums = (((1,), (1,)), ((), ()))
            staged[...] = jax.lax.dot_general(operand[...], matrix[...], sums, preferred_element_type=jnp.float32)
        else:
            shape = (plan.matrix_rows, plan.columns)
            result = pl.run_scoped(
                lambda total: _multiplied(total, matrix, operand), gpu.WGMMAAccumulatorRef(shape, jnp.float32)
            )
            gpu.transpose_ref(staged, (1, 0))[...] = gpu.layout_cast(result, gpu.Layout.WGMMA_TRANSPOSED)

        def tile(part: int, gate: int) -> Array:
            at = (
                group,
                slice(part * plan.rows, (part + 1) * plan.rows),
                slice(gate * plan.units, (gate + 1) * plan.units),
            )
            return self.staged[at] if self.interpret else gpu.load(self.staged, at, layout=_TILE, optimized=False)

        return tile

    def publish(self, count: Any, tiles: list[Array], target: Any, time: Any) -> None:
        """Writes tiles to ``target[time]`` and makes those of all units the operand of product number `count`.

        Within one block they go to shared memory, and every warpgroup waits for the others. Else they go by way of the
        GPU's memory: every warpgroup counts up once its tiles are there, and waits until all have.
        """
        tile, block, group = self.place
        for part, entry in enumerate(tiles):
            target[time, tile, part, :, block, group, :] = entry
        if self.plan.blocks == 1:
            self._for_each_group(lambda mine: self._keep(count, mine, tiles))
        else:
            gpu.semaphore_signal(self.arrived.at[tile], 1, memory_scope="gpu")
            expected = (count + 1) * (self.plan.blocks * self.plan.groups)
            gpu.semaphore_wait(self.arrived.at[tile], expected, decrement=False, memory_scope="gpu")
            everything = target.at[time, tile].reshape(self.plan.columns, self.plan.width)
            self._for_each_group(lambda mine: self._fetch(mine, everything))
        gpu.commit_smem()
        if self.plan.groups > 1:
            gpu.barrier_arrive(self.turn)
            gpu.barrier_wait(self.turn)

    def _for_each_group(self, act: Callable[[int], None]) -> None:
        """Lets every warpgroup act with its number known to the compiler: parts of swizzled arrays need that."""
        for group in range(self.plan.groups):
            if self.plan.groups == 1:
                act(group)
            else:
                pl.when(self.place[2] == group)(lambda group=group: act(group))

    def _keep(self, count: Any, group: int, tiles: list[Array]) -> None:
        slot, units = jax.lax.rem(count, self.plan.slots), self.plan.units
        for part, entry in enumerate(tiles):
            rows = slice(part * self.plan.rows, (part + 1) * self.plan.rows)
            self.operand[slot, rows, group * units : (group + 1) * units] = entry

    def _fetch(self, group: int, everything: Any) -> None:
        share = self.plan.width // self.plan.groups
        columns = slice(group * share, (group + 1) * share)
        layout = gpu.Layout.SMEM_GMEM_COPY((self.plan.columns, share), self.operand.dtype, _SWIZZLE)
        self.operand[0, :, columns] = gpu.load(everything, (slice(None), columns), layout=layout, optimized=False)


def _multiplied(total: Any, matrix: Any, operand: Any) -> Array:
    gpu.wgmma(total, matrix, gpu.transpose_ref(operand, (1, 0)))
    return total[...]


def launch(body: Callable[..., None], plan: Plan, dtype: Any, inputs: Any, outputs: Any, interpret: bool) -> Any:
    """Runs ``body(block, inputs, outputs)``, with references for arrays, in every warpgroup; returns the outputs.

    Args:
      body: the kernel.
      plan: the layout.
      dtype: type of the operands of products.
      inputs, outputs: trees of arrays, and of their shapes and types.
      interpret: whether to run on a CPU, as JAX's interpreter of GPU kernels does.
    """
    (given, given_tree), (made, made_tree) = jax.tree.flatten(inputs), jax.tree.flatten(outputs)

    def kernel(*refs, **scratch):
        arrays, results = refs[: len(given)], refs[len(given) :]
        arrived = None if plan.blocks == 1 else pl.get_global(gpu.SemaphoreType.REGULAR((plan.tiles,)))
        block = Block(plan, interpret, arrived=arrived, **scratch)
        body(block, given_tree.unflatten(arrays), made_tree.unflatten(results))

    run = gpu.kernel(
        kernel,
        out_type=made,
        grid=(plan.tiles, plan.blocks),
        grid_names=("tile", "block"),
        num_threads=plan.groups,
        thread_name="group",
        scratch_types=_scratch(plan, dtype),
        compiler_params=gpu.CompilerParams(approx_math=jnp.dtype(dtype).itemsize == 2),
        **({"interpret": _interpreter()} if interpret else {}),
    )
    if plan.blocks > 1:  # blocks that wait for each other must all be there at once: one batch after the other
        run = jax.custom_batching.sequential_vmap(run)
    return made_tree.unflatten(run(*given))


def _scratch(plan: Plan, dtype: Any) -> dict[str, Any]:
    """Returns what a block holds on the chip."""
    tiling = (gpu.TilingTransform((8, _SWIZZLE // jnp.dtype(dtype).itemsize)), gpu.SwizzleTransform(_SWIZZLE))
    return {
        "matrix": gpu.SMEM((plan.groups, plan.matrix_rows, plan.width), dtype, transforms=tiling),
        "operand": gpu.SMEM((plan.slots, plan.columns, plan.width), dtype, transforms=tiling),
        "staged": gpu.SMEM(plan.staged_shape, jnp.float32),
        "loaded": gpu.Barrier(num_barriers=plan.groups),
        "turn": gpu.Barrier(num_arrivals=plan.groups),
    }


def _interpreter() -> Any:
    from jax._src.pallas.mosaic_gpu.interpret.params import InterpretGPUParams  # has no public name yet

    return InterpretGPUParams()
