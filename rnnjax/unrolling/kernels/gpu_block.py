"""The few things a recurrence does on a GPU, in terms of Pallas Mosaic GPU; what changes with JAX is only here.

Everything a kernel computes between its products it computes on tiles ``[rows, units]``: `rows` sequences of a batch
tile and the hidden units of one warpgroup, in registers. In interpret mode (on a CPU, in threads that stand for
warpgroups) tiles are plain arrays and a product is XLA's; memory, copies, barriers and who waits for whom are those of
the GPU.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu
from jaxtyping import Array

from rnnjax.unrolling.kernels.layout import Layout
from rnnjax.unrolling.varying import vary, varying_axes

gpu: Any = mosaic_gpu  # some of its names are not in every version of JAX

_SWIZZLE = 32  # bytes: the finest, so that 16 units of one warpgroup are whole columns of the operand's tiles


@dataclasses.dataclass(frozen=True)
class Block:
    """One block of a running kernel: its place in the grid, and what it holds on the chip.

    Arrays in the GPU's memory are ``[..., batch tiles, rows, n, blocks, groups, units]``, so that integers index what
    belongs to one warpgroup. What is published is ``[T, batch tiles, parts, rows, blocks, groups, units]``.
    """

    layout: Layout
    interpret: bool
    place: tuple[Any, Any, Any]  # which batch tile, which block of units, which warpgroup
    matrix: Any  # [groups, matrix rows, width]: the weight
    operand: Any  # [slots, columns, width]: what it is multiplied with
    product: Any  # [groups, columns, matrix rows]: the result, on its way to other threads
    loaded: Any
    turn: Any
    arrived: Any  # a count for each batch tile, where blocks wait for each other

    def load_matrix(self, source: Any) -> None:
        """Copies this warpgroup's part of the weight to shared memory, where it stays."""
        _, block, group = self.place
        gpu.copy_gmem_to_smem(source.at[block, group], self.matrix.at[group], self.loaded.at[group])
        gpu.barrier_wait(self.loaded.at[group])

    def read(self, source: Any, n: int, *time: Any) -> Array:
        """Returns this warpgroup's tile of entry n of an array; axes of size 1 are the same for all."""
        return self._tile(source.at[self._index(source, n, *time)])

    def write(self, target: Any, n: int, tile: Array, *time: Any) -> None:
        self._store(target.at[self._index(target, n, *time)], tile)

    def _index(self, ref: Any, n: int, *time: Any) -> tuple[Any, ...]:
        sizes = ref.shape[-6], ref.shape[-3], ref.shape[-2]
        tile, block, group = (i if size > 1 else 0 for i, size in zip(self.place, sizes))
        return (*time, tile, slice(None), n, block, group, slice(None))

    def _tile(self, source: Any) -> Array:
        return source[...] if self.interpret else _loaded(source, _tile_layout(self.operand.dtype))

    def _store(self, target: Any, tile: Array) -> None:
        if hasattr(gpu, "store") and not self.interpret:  # since JAX 0.12
            gpu.store(target, tile, optimized=False)
        else:
            target[...] = tile

    def full(self, value: float, dtype: Any) -> Array:
        """Returns a tile of one number."""
        return self.settled(jax.lax.full((self.layout.rows, self.layout.units), value, dtype))

    def settled(self, tile: Array) -> Array:
        """Returns a tile of the type and in the layout of all tiles, which what a loop carries must have.

        Inside `jax.shard_map` what is read varies over a mesh; in kernels, results of operations do not say so.
        """
        tile = jax.lax.select(tile == tile, tile, tile) if varying_axes(tile) else tile
        return tile if self.interpret else gpu.layout_cast(tile, _tile_layout(self.operand.dtype))

    def multiply(self, count: Any) -> Callable[[int, int], Array]:
        """Multiplies the weight by publication number `count`; returns ``tile(part, gate)`` of the product.

        Units are the rows of the product and sequences its columns, which come in eights: a batch of 8 or 16 fills an
        instruction that would be empty for the most part the other way round. The product goes through shared memory,
        transposed, to the threads that have the other gates of the same unit.
        """
        layout, (_, _, group) = self.layout, self.place
        matrix, operand = self.matrix.at[group], self.operand.at[jax.lax.rem(count, layout.slots)]
        product = self.product.at[group]
        if self.interpret:
            sums = (((1,), (1,)), ((), ()))
            product[...] = jax.lax.dot_general(operand[...], matrix[...], sums, preferred_element_type=jnp.float32)
        else:
            total = gpu.WGMMAAccumulatorRef((layout.matrix_rows, layout.columns), jnp.float32)
            result = pl.run_scoped(lambda total: _multiplied(total, matrix, operand), total)
            self._store(product.transpose((1, 0)), gpu.layout_cast(result, gpu.Layout.WGMMA_TRANSPOSED))
        gpu.commit_smem()  # all threads have written

        def tile(part: int, gate: int) -> Array:
            rows = slice(part * layout.rows, (part + 1) * layout.rows)
            return self._tile(product.at[rows, gate * layout.units : (gate + 1) * layout.units])

        return tile

    def publish(self, count: Any, tiles: list[Array], target: Any, time: Any) -> None:
        """Writes tiles to ``target[time]`` and makes those of all units the operand of product number `count`.

        Within one block they go to shared memory, and every warpgroup waits for the others. Else they go by way of the
        GPU's memory: every warpgroup counts up once its tiles are there, and waits until all have.

        What is written is seen: each thread's tiles come before the barrier of its warpgroup (in `commit_smem`), that
        before one thread's count, which is a release; who waits acquires, and lets its warpgroup read after another
        barrier. And what is still read is not written: a warpgroup counts, or arrives, only after its last product.
        """
        layout, (tile, block, group) = self.layout, self.place
        for part, entry in enumerate(tiles):
            self._store(target.at[time, tile, part, :, block, group, :], entry)
        if layout.blocks == 1:
            self._each_group(lambda group: self._keep(count, group, tiles))
        else:
            gpu.commit_smem()  # all threads have written, and none multiplies any more
            gpu.semaphore_signal(self.arrived.at[tile], 1, memory_scope="gpu")
            all_of_them = (count + 1) * (layout.blocks * layout.groups)
            gpu.semaphore_wait(self.arrived.at[tile], all_of_them, decrement=False, memory_scope="gpu")
            source = target.at[time, tile].reshape(layout.columns, layout.width)
            self._each_group(lambda group: self._fetch(group, source))
        gpu.commit_smem()
        if layout.groups > 1:
            gpu.barrier_arrive(self.turn)
            gpu.barrier_wait(self.turn)

    def _each_group(self, act: Callable[[int], None]) -> None:
        """Lets every warpgroup act with its number known to the compiler, as parts of swizzled arrays need it."""
        if self.layout.groups == 1:
            act(0)
            return
        for group in range(self.layout.groups):
            pl.when(self.place[2] == group)(lambda group=group: act(group))

    def _keep(self, count: Any, group: int, tiles: list[Array]) -> None:
        slot, rows, units = jax.lax.rem(count, self.layout.slots), self.layout.rows, self.layout.units
        for part, entry in enumerate(tiles):
            at = (slot, slice(part * rows, (part + 1) * rows), slice(group * units, (group + 1) * units))
            self._store(self.operand.at[at], entry)

    def _fetch(self, group: int, source: Any) -> None:
        share = self.layout.width // self.layout.groups
        columns = slice(group * share, (group + 1) * share)
        layout = gpu.Layout.SMEM_GMEM_COPY((self.layout.columns, share), self.operand.dtype, _SWIZZLE)
        self._store(self.operand.at[0, :, columns], _loaded(source.at[:, columns], layout))


def _tile_layout(dtype: Any) -> Any:
    """Returns who holds what of a tile: a warp has 32 bytes of the operand of each of 2 or 4 sequences.

    It then reads and writes the GPU's memory by whole sectors, and writes the operand without a conflict of banks.
    """
    warp, warps = ((2, 16), (-5,)) if jnp.dtype(dtype).itemsize == 2 else ((4, 8), (-5, -4))
    return gpu.Layout.TILED(gpu.Tiling(((8, 16), warp, (1,))), warp_dims=warps, lane_dims=(-3, -2), vector_dim=-1)


def _loaded(source: Any, layout: Any) -> Array:
    index = (...,) if "idx" in inspect.signature(gpu.load).parameters else ()  # until JAX 0.11
    return gpu.load(source, *index, layout=layout, optimized=False)


def _multiplied(total: Any, matrix: Any, operand: Any) -> Array:
    gpu.wgmma(total, matrix, operand.transpose((1, 0)))
    return total[...]


def launch(body: Callable[..., None], layout: Layout, dtype: Any, inputs: Any, outputs: Any, interpret: bool) -> Any:
    """Runs ``body(block, inputs, outputs)``, with references for arrays, in every warpgroup; returns the outputs.

    Args:
      body: the kernel.
      layout: the layout.
      dtype: type of the operands of products.
      inputs, outputs: trees of arrays, and of their shapes and types.
      interpret: whether to run on a CPU, as JAX's interpreter of GPU kernels does.
    """
    (arrays, inputs_tree), (shapes, outputs_tree) = jax.tree.flatten(inputs), jax.tree.flatten(outputs)

    def kernel(*refs, **held):
        arrived = None if layout.blocks == 1 else pl.get_global(gpu.SemaphoreType.REGULAR((layout.tiles,)))
        sizes = {"tile": layout.tiles, "block": layout.blocks, "group": layout.groups}
        tile, block, group = (jax.lax.axis_index(name) if size > 1 else 0 for name, size in sizes.items())
        here = Block(layout, interpret, (tile, block, group), arrived=arrived, **held)
        body(here, inputs_tree.unflatten(refs[: len(arrays)]), outputs_tree.unflatten(refs[len(arrays) :]))

    run = gpu.kernel(
        kernel,
        out_type=shapes,
        grid=(layout.tiles, layout.blocks),
        grid_names=("tile", "block"),
        num_threads=layout.groups,
        thread_name="group",
        scratch_types=_held(layout, dtype),
        compiler_params=_compiler_params(jnp.dtype(dtype).itemsize == 2),
        **({"interpret": _interpreter()} if interpret else {}),
    )
    if layout.blocks > 1:  # blocks that wait for each other must all run at once: one batch after the other
        run = jax.custom_batching.sequential_vmap(run)
    return outputs_tree.unflatten(vary(run(*arrays), varying_axes(arrays)))


def _held(layout: Layout, dtype: Any) -> dict[str, Any]:
    """Returns what a block holds on the chip."""
    tiling = (gpu.TilingTransform((8, _SWIZZLE // jnp.dtype(dtype).itemsize)), gpu.SwizzleTransform(_SWIZZLE))
    return {
        "matrix": gpu.SMEM((layout.groups, layout.matrix_rows, layout.width), dtype, transforms=tiling),
        "operand": gpu.SMEM((layout.slots, layout.columns, layout.width), dtype, transforms=tiling),
        "product": gpu.SMEM((layout.groups, layout.columns, layout.matrix_rows), jnp.float32),
        "loaded": gpu.Barrier(num_barriers=layout.groups),
        "turn": gpu.Barrier(num_arrivals=layout.groups),
    }


def _compiler_params(approximate: bool) -> Any:
    """Returns how to compile: where threads must wait for each other, `Block` says so, and JAX need not guess."""
    options: dict[str, Any] = {"approx_math": approximate, "unsafe_no_auto_barriers": True}
    if "lowering_semantics" in inspect.signature(gpu.CompilerParams).parameters:  # until JAX 0.11: layouts as said
        options["lowering_semantics"] = gpu.LoweringSemantics.Lane
    return gpu.CompilerParams(**options)


def _interpreter() -> Any:
    if hasattr(gpu, "InterpretGPUParams"):  # since JAX 0.11
        return gpu.InterpretGPUParams()
    from jax._src.pallas.mosaic_gpu.interpret.params import InterpretGPUParams

    return InterpretGPUParams()
