"""The operations of a recurrence on a GPU, in Pallas Mosaic GPU; all that depends on the version of JAX is here.

Between its products a kernel computes on tiles ``[rows, units]``, in registers: the sequences of one batch tile and the
hidden units of one warpgroup. In interpret mode, on a CPU with a thread for each warpgroup, tiles are plain arrays and
products are XLA's; memory, copies and barriers are as on the GPU.
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
from jaxtyping import Array, Float, Int, PyTree, Shaped

from rnnjax.unrolling.kernels.layout import Layout
from rnnjax.unrolling.varying import vary, varying_axes

gpu: Any = mosaic_gpu  # some of its names are not in every version of JAX

Ref = Any  # a reference to an array in the GPU's memory or on the chip; each version of JAX has its own type for it
Index = Int[Array, ""] | int  # a number of a step or of a product, traced inside loops

_SWIZZLE = 32  # bytes: the finest swizzle, so that 16 units of one warpgroup are whole columns of the operand's tiles


@dataclasses.dataclass(frozen=True)
class Block:
    """One block of a running kernel: its place in the grid, and its arrays and barriers in shared memory.

    Arrays in the GPU's memory are ``[..., tiles, rows, n, blocks, groups, units]``, so that integers index the share of
    one warpgroup. Arrays of what the blocks publish are ``[T, tiles, parts, rows, blocks, groups, units]``.

    Attributes:
      layout: the layout.
      interpret: whether the kernel runs in JAX's interpreter.
      place: the numbers of the batch tile, of the block of units, and of the warpgroup.
      matrix: the block's part of the weight, ``[groups, matrix_rows, width]``.
      operand: what the weight is multiplied by, ``[slots, columns, width]``.
      product: the results, ``[groups, columns, matrix_rows]``, as threads exchange them.
      loaded: a barrier for each warpgroup, for its copy of the weight.
      turn: the barrier at which the block's warpgroups wait for each other.
      arrived: a count for each batch tile, by which blocks wait for each other; None with one block.
    """

    layout: Layout
    interpret: bool
    place: tuple[Any, Any, Any]
    matrix: Ref
    operand: Ref
    product: Ref
    loaded: Ref
    turn: Ref
    arrived: Ref

    def load_matrix(self, source: Ref) -> None:
        """Copies this warpgroup's part of ``[blocks, groups, matrix_rows, width]`` to shared memory, where it stays."""
        _, block, group = self.place
        # The copy runs by itself; the barrier opens when all of it has arrived.
        gpu.copy_gmem_to_smem(source.at[block, group], self.matrix.at[group], self.loaded.at[group])
        gpu.barrier_wait(self.loaded.at[group])

    def read(self, source: Ref, n: int, *time: Index) -> Float[Array, "rows units"]:
        """Returns this warpgroup's tile of entry n of an array, at a time if it has that axis.

        Where an axis of the array has size 1, all warpgroups read the same.
        """
        return self._tile(source.at[self._index(source, n, *time)])

    def write(self, target: Ref, n: int, tile: Float[Array, "rows units"], *time: Index) -> None:
        """Writes this warpgroup's tile of entry n of an array, at a time if it has that axis.

        Args:
          target: the array, ``[..., tiles, rows, n, blocks, groups, units]``.
          n: the entry.
          tile: the tile.
          *time: the index on the axis before the batch tiles.
        """
        self._store(target.at[self._index(target, n, *time)], tile)

    def _index(self, ref: Ref, n: int, *time: Index) -> tuple[Any, ...]:
        sizes = ref.shape[-6], ref.shape[-3], ref.shape[-2]
        # Parameters have one batch tile for all, masks one block and one warpgroup.
        tile, block, group = (i if size > 1 else 0 for i, size in zip(self.place, sizes))
        return (*time, tile, slice(None), n, block, group, slice(None))

    def _tile(self, source: Ref) -> Array:
        return source[...] if self.interpret else loaded(source, _tile_layout(self.operand.dtype))

    def _store(self, target: Ref, tile: Array) -> None:
        if hasattr(gpu, "store") and not self.interpret:  # since JAX 0.12
            gpu.store(target, tile, optimized=False)
        else:
            target[...] = tile

    def full(self, value: float, dtype: Any) -> Float[Array, "rows units"]:
        """Returns a tile whose entries are all `value`."""
        return self.settled(jax.lax.full((self.layout.rows, self.layout.units), value, dtype))

    def settled(self, tile: Float[Array, "rows units"]) -> Float[Array, "rows units"]:
        """Returns a tile in the one type and layout that a loop's carry must have throughout.

        Inside `jax.shard_map`, what is read is marked as varying over the mesh, but results of operations in kernels
        are not; a `select` that changes no value is an operation that takes the mark off.
        """
        tile = jax.lax.select(tile == tile, tile, tile) if varying_axes(tile) else tile
        return tile if self.interpret else gpu.layout_cast(tile, _tile_layout(self.operand.dtype))

    def multiply(self, count: Index) -> Callable[[int, int], Float[Array, "rows units"]]:
        """Multiplies the weight by the operand that was published as number `count`.

        Units are the rows of the product and sequences its columns. An instruction computes 64 rows, but any multiple
        of 8 columns: the other way round, a batch of 8 or 16 would leave most of it unused. The product goes through
        shared memory, transposed, to the threads that compute the other gates of the same unit.

        Returns:
          A function ``tile(part, gate)`` that reads one tile of the product.
        """
        layout, (_, _, group) = self.layout, self.place
        # Publications fill the buffers in turn, so that the number of one says where it is.
        matrix, operand = self.matrix.at[group], self.operand.at[jax.lax.rem(count, layout.slots)]
        product = self.product.at[group]
        if self.interpret:
            # [columns, width] and [matrix_rows, width], along the width of both: [columns, matrix_rows].
            by_columns = (((1,), (1,)), ((), ()))
            result = jax.lax.dot_general(operand[...], matrix[...], by_columns, preferred_element_type=jnp.float32)
            product[...] = result
        else:
            # The other way round, [matrix_rows, columns], which the store below transposes.
            total = gpu.WGMMAAccumulatorRef((layout.matrix_rows, layout.columns), jnp.float32)
            result = pl.run_scoped(lambda total: _by_tensor_cores(total, matrix, operand), total)
            self._store(product.transpose((1, 0)), gpu.layout_cast(result, gpu.Layout.WGMMA_TRANSPOSED))
        gpu.commit_smem()  # all threads have written

        def tile(part: int, gate: int) -> Array:
            # The operand's columns go part by part, the matrix's rows gate by gate.
            rows = slice(part * layout.rows, (part + 1) * layout.rows)
            return self._tile(product.at[rows, gate * layout.units : (gate + 1) * layout.units])

        return tile

    def publish(self, count: Index, tiles: list[Float[Array, "rows units"]], target: Ref, time: Index) -> None:
        """Writes tiles to ``target[time]``, and makes those of all units the operand of product number `count`.

        Within one block the tiles go to shared memory, and every warpgroup waits for the others. With several blocks
        they go through the GPU's memory: every warpgroup adds one to a count when its tiles are written, and waits
        until all have.

        No write is missed: the barrier of a warpgroup (in `commit_smem`) orders all of its threads' writes before the
        count, which is a release. Waiting for the count is an acquire, and another barrier orders it before the reads
        of the warpgroup. And nothing is overwritten while it is read: a warpgroup counts, or arrives at the block's
        barrier, only after its last product.

        Args:
          count: the number of this publication, from 0 on.
          tiles: one tile for each part of the operand.
          target: the published array, ``[T, tiles, parts, rows, blocks, groups, units]``.
          time: the index on its first axis.
        """
        layout, (tile, block, group) = self.layout, self.place
        for part, entry in enumerate(tiles):
            self._store(target.at[time, tile, part, :, block, group, :], entry)
        if layout.blocks == 1:
            self._each_group(lambda group: self._share(count, group, tiles))
        else:
            gpu.commit_smem()  # all threads have written, and none is still multiplying
            gpu.semaphore_signal(self.arrived.at[tile], 1, memory_scope="gpu")
            warpgroups = layout.blocks * layout.groups
            # The count is never taken back, so that no warpgroup can miss the moment when all have arrived.
            gpu.semaphore_wait(self.arrived.at[tile], (count + 1) * warpgroups, decrement=False, memory_scope="gpu")
            source = target.at[time, tile].reshape(layout.columns, layout.width)
            self._each_group(lambda group: self._fetch(group, source))
        gpu.commit_smem()
        if layout.groups > 1:
            gpu.barrier_arrive(self.turn)
            gpu.barrier_wait(self.turn)

    def _each_group(self, act: Callable[[int], None]) -> None:
        """Runs ``act(group)`` in every warpgroup, its number a constant: swizzled arrays have no other slices."""
        if self.layout.groups == 1:
            act(0)
            return
        for group in range(self.layout.groups):
            pl.when(self.place[2] == group)(lambda group=group: act(group))

    def _share(self, count: Index, group: int, tiles: list[Array]) -> None:
        """Writes a warpgroup's tiles to the operand in shared memory."""
        rows, units = self.layout.rows, self.layout.units
        slot = jax.lax.rem(count, self.layout.slots)
        for part, entry in enumerate(tiles):
            of_part = slice(part * rows, (part + 1) * rows)
            of_group = slice(group * units, (group + 1) * units)
            self._store(self.operand.at[slot, of_part, of_group], entry)

    def _fetch(self, group: int, source: Ref) -> None:
        """Copies a warpgroup's share of ``source [columns, width]`` to the operand in shared memory."""
        # The warpgroups divide the copying; which units each one computes does not matter here.
        share = self.layout.width // self.layout.groups
        columns = slice(group * share, (group + 1) * share)
        layout = gpu.Layout.SMEM_GMEM_COPY((self.layout.columns, share), self.operand.dtype, _SWIZZLE)
        # Slot 0, since with several blocks there is one buffer only.
        self._store(self.operand.at[0, :, columns], loaded(source.at[:, columns], layout))


def _tile_layout(dtype: Any) -> Any:
    """Returns which thread holds which entries of a tile: a warp has 32 bytes of each of 2 or 4 sequences.

    It then accesses the GPU's memory in whole sectors, and writes the operand without bank conflicts.
    """
    warp, warps = ((2, 16), (-5,)) if jnp.dtype(dtype).itemsize == 2 else ((4, 8), (-5, -4))
    return gpu.Layout.TILED(gpu.Tiling(((8, 16), warp, (1,))), warp_dims=warps, lane_dims=(-3, -2), vector_dim=-1)


def loaded(source: Ref, layout: Any) -> Shaped[Array, "..."]:
    """Returns what an array in the GPU's memory or on the chip holds, in registers of a layout."""
    # Required until JAX 0.10, deprecated in 0.11 and gone in 0.12.
    separate = inspect.signature(gpu.load).parameters.get("idx")
    index = (...,) if separate is not None and separate.default is separate.empty else ()
    return gpu.load(source, *index, layout=layout, optimized=False)


def _by_tensor_cores(total: Ref, matrix: Ref, operand: Ref) -> Array:
    """Returns a product ``[matrix_rows, columns]``, accumulated in registers from zero."""
    gpu.wgmma(total, matrix, operand.transpose((1, 0)))
    return total[...]


def launch(
    body: Callable[..., None],
    layout: Layout,
    dtype: Any,
    inputs: PyTree[Shaped[Array, "..."]],
    outputs: PyTree[Shaped[jax.ShapeDtypeStruct, "..."]],
    interpret: bool,
) -> PyTree[Shaped[Array, "..."]]:
    """Runs a kernel in every warpgroup of a grid of batch tiles and blocks of units.

    Args:
      body: the kernel, called as ``body(block, inputs, outputs)`` with references in the place of arrays.
      layout: the layout.
      dtype: type of the operands of products.
      inputs: a tree of arrays.
      outputs: a tree of the shapes and types of the arrays that the kernel writes.
      interpret: whether to run in JAX's interpreter of GPU kernels, on a CPU.

    Returns:
      The outputs, a tree of arrays.
    """
    arrays, inputs_tree = jax.tree.flatten(inputs)
    shapes, outputs_tree = jax.tree.flatten(outputs)

    def kernel(*refs, **shared):
        # One count a batch tile: blocks of different tiles have no state in common.
        arrived = pl.get_global(gpu.SemaphoreType.REGULAR((layout.tiles,))) if layout.waits else None
        sizes = {"tile": layout.tiles, "block": layout.blocks, "group": layout.groups}
        tile, block, group = (jax.lax.axis_index(name) if size > 1 else 0 for name, size in sizes.items())
        this_block = Block(layout, interpret, (tile, block, group), arrived=arrived, **shared)
        input_refs, output_refs = refs[: len(arrays)], refs[len(arrays) :]
        body(this_block, inputs_tree.unflatten(input_refs), outputs_tree.unflatten(output_refs))

    run = gpu.kernel(
        kernel,
        out_type=shapes,
        grid=(layout.tiles, layout.blocks),
        grid_names=("tile", "block"),
        num_threads=layout.groups,
        thread_name="group",
        scratch_types=_shared(layout, dtype),
        compiler_params=compiler_params(jnp.dtype(dtype).itemsize == 2),
        **({"interpret": interpreter()} if interpret else {}),
    )
    if layout.waits:
        # Blocks that wait for each other must all run at once, so that `jax.vmap` may not launch more of them.
        run = jax.custom_batching.sequential_vmap(run)
    return outputs_tree.unflatten(vary(run(*arrays), varying_axes(arrays)))


def _shared(layout: Layout, dtype: Any) -> dict[str, Any]:
    """Returns the arrays and barriers that a block has in shared memory, by the fields of `Block`."""
    tiling = (gpu.TilingTransform((8, _SWIZZLE // jnp.dtype(dtype).itemsize)), gpu.SwizzleTransform(_SWIZZLE))
    return {
        "matrix": gpu.SMEM((layout.groups, layout.matrix_rows, layout.width), dtype, transforms=tiling),
        "operand": gpu.SMEM((layout.slots, layout.columns, layout.width), dtype, transforms=tiling),
        "product": gpu.SMEM((layout.groups, layout.columns, layout.matrix_rows), jnp.float32),
        "loaded": gpu.Barrier(num_barriers=layout.groups),
        "turn": gpu.Barrier(num_arrivals=layout.groups),
    }


def compiler_params(approximate: bool) -> Any:
    """Returns how to compile: without automatic barriers, as `Block` places every barrier itself."""
    options: dict[str, Any] = {"approx_math": approximate, "unsafe_no_auto_barriers": True}
    if "lowering_semantics" in inspect.signature(gpu.CompilerParams).parameters:  # until JAX 0.11
        options["lowering_semantics"] = gpu.LoweringSemantics.Lane  # layouts are given, not inferred
    return gpu.CompilerParams(**options)


def interpreter() -> Any:
    """Returns what has a kernel run in JAX's interpreter of GPU kernels."""
    if hasattr(gpu, "InterpretGPUParams"):  # since JAX 0.11
        return gpu.InterpretGPUParams()
    from jax._src.pallas.mosaic_gpu.interpret.params import InterpretGPUParams

    return InterpretGPUParams()
