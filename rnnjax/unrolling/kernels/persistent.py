"""The two kernels of a recurrence, one launch for all steps each: forward, and backward in time for its gradients.

Forward, with h_t the state before step t, a kernel repeats: r_t = h_t W, the gates, which make the next state, and that
state's way to whoever multiplies it next. It writes the states. Backward another one repeats, from the last step to the
first: d r_{t+1} W^T, and the derivative of the gates at the states that were written and at r_t, which is one product
of all steps before the loop. The weight's gradient, sum_t h_t^T d r_t, is one product of all steps after it.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array

from rnnjax.cells.cell import recurrent_product
from rnnjax.unrolling.kernels.gpu_block import Block, launch
from rnnjax.unrolling.kernels.layout import Layout
from rnnjax.unrolling.kernels.traced_gates import Gates, Tiles


class Operands(NamedTuple):
    """A recurrence as the kernels take it: units last, one batch axis, pytrees as lists of their leaves.

    `weight [H, G, H]`; the parameters that gates read, ``[n, H]``; leaves of `state` and `initial` ``[B, H]``, of z
    ``[T, B, n, H]``; `valid` and `resets` are ``[T, B]``.
    """

    weight: Array
    gate_params: list[Array]
    state: list[Array]
    initial: list[Array] | None
    zs: list[Array]
    valid: Array | None
    resets: Array | None


class StepStarts(NamedTuple):
    """What steps started from: `hs [T + 1, B, H]` as it was multiplied, and the leaves of the state that the derivative
    of the gates reads, ``[T, B, H]``."""

    hs: Array
    befores: list[Array | None]


@dataclasses.dataclass(frozen=True, eq=False)
class Kernels:
    """What the two kernels are made from."""

    gates: Gates
    hidden: int  # which leaf of the state the hidden state is
    dtype: Any  # of the operands of products
    forward: Layout
    backward: Layout
    interpret: bool


def forward(kernels: Kernels, operands: Operands) -> tuple[Array, list[Array], StepStarts]:
    """Returns ``ys [T, B, H]``, the leaves of the last state, and what the gradients need."""
    layout, dtype, length = kernels.forward, kernels.dtype, operands.zs[0].shape[0]
    masked = operands.valid is not None or operands.resets is not None
    inputs = {
        "matrix": _matrices(operands.weight.transpose(2, 1, 0), layout, dtype),
        "gate_params": _for_all(operands.gate_params, layout),
        "state": _units(operands.state, layout),
        "initial": _units(operands.initial, layout),
        "zs": [_arranged(x, layout) for x in operands.zs],
        "valid": _mask(operands.valid, layout),
        "resets": _mask(operands.resets, layout),
    }
    reads = kernels.gates.backward.reads[len(operands.gate_params) :]
    outputs = {
        "hs": _published(layout, length + 1, dtype),
        "ys": _empty(layout, 1, dtype, length) if masked else None,
        "befores": [_empty(layout, 1, x.dtype, length) if read else None for x, read in zip(operands.state, reads)],
        "state": [_empty(layout, 1, x.dtype) for x in operands.state],
    }
    results = launch(_forward_kernel(kernels, length), layout, dtype, inputs, outputs, kernels.interpret)
    hs = _single(results["hs"].swapaxes(2, 3), layout)
    ys = _single(results["ys"], layout) if masked else hs[1:]
    befores = [None if x is None else _single(x, layout) for x in results["befores"]]
    return ys, [_single(x, layout) for x in results["state"]], StepStarts(hs, befores)


def _forward_kernel(kernels: Kernels, length: int) -> Callable[..., None]:
    layout, gates, hidden = kernels.forward, kernels.gates.forward, kernels.hidden

    def kernel(block: Block, inputs: Any, outputs: Any) -> None:
        block.load_matrix(inputs["matrix"])
        gate_params, initial = [_entries(block, x) for x in inputs["gate_params"]], None
        if inputs["resets"] is not None:
            initial = [block.read(x, 0) for x in inputs["initial"]]
        state, now = [block.read(x, 0) for x in inputs["state"]], _fetched(block, inputs, 0)

        def reset(state: list[Array], at: dict[str, Any]) -> list[Array]:
            return state if initial is None else _select(at["resets"], initial, state)

        def publish(count: Any, state: list[Array], at: dict[str, Any]) -> None:
            h = reset(state, at)[hidden].astype(kernels.dtype)
            block.publish(count, [h], outputs["hs"], count)

        def step(t, carry):
            state, now = carry
            ahead, before = _fetched(block, inputs, jax.lax.min(t + 1, length - 1)), reset(state, now)
            for target, tile in zip(outputs["befores"], before):
                if target is not None:
                    block.write(target, 0, tile, t)
            product = block.multiply(t)
            r = [product(0, gate).astype(state[hidden].dtype) for gate in range(layout.gates)]
            new = [tile for (tile,) in gates(*gate_params, *([x] for x in before), *now["zs"], r, like=r[0])]
            if outputs["ys"] is not None:
                block.write(outputs["ys"], 0, new[hidden].astype(kernels.dtype), t)
            after = new if now["valid"] is None else _select(now["valid"], new, state)
            publish(t + 1, after, ahead)
            return settled((after, ahead))

        settled = functools.partial(jax.tree.map, block.settled)
        publish(0, state, now)
        state, _ = jax.lax.fori_loop(0, length, step, settled((state, now)))
        for target, tile in zip(outputs["state"], state):
            block.write(target, 0, tile)

    return kernel


def backward(
    kernels: Kernels, operands: Operands, starts: StepStarts, d_ys: Array, d_state: list[Array]
) -> tuple[Any, ...]:
    """Returns the gradients of the first five fields of `operands`, in their order."""
    layout, dtype, length = kernels.backward, kernels.dtype, d_ys.shape[0]
    h = operands.state[kernels.hidden]
    inputs = {
        "matrix": _matrices(operands.weight, layout, dtype),
        "gate_params": _for_all(operands.gate_params, layout),
        "befores": _units(starts.befores, layout),
        "zs": [_arranged(x, layout) for x in operands.zs],
        "r": _arranged(recurrent_product(starts.hs[:-1].astype(h.dtype), operands.weight, dtype), layout),
        "d_ys": _arranged(d_ys[..., None, :], layout),
        "d_state": _units(d_state, layout),
        "valid": _mask(operands.valid, layout),
        "resets": _mask(operands.resets, layout),
    }
    state = [_empty(layout, 1, x.dtype) for x in operands.state]
    d_zs = [_empty(layout, x.shape[2], x.dtype, length) for x in operands.zs]
    outputs = {
        "d_rs": _published(layout, length + 1, dtype),
        "d_zs": [] if kernels.gates.summed else d_zs,
        "d_gate_params": [_empty(layout, len(x), jnp.float32) for x in operands.gate_params],
        "direct": state,
        "skipped": None if operands.valid is None else state,
        "d_initial": None if operands.resets is None else state,
    }
    results = launch(_backward_kernel(kernels, length), layout, dtype, inputs, outputs, kernels.interpret)
    return _gradients(kernels, operands, starts, results)


def _backward_kernel(kernels: Kernels, length: int) -> Callable[..., None]:
    """The kernel that carries the gradient of the state before step t + 1, in its parts.

    `direct` is what came through the gates, without what comes through the product; `skipped` is that of sequences that
    did not take the step; `d_initial` collects what goes to the initial state where a step was reset.
    """
    layout, gates, hidden = kernels.backward, kernels.gates.backward, kernels.hidden

    def kernel(block: Block, inputs: Any, outputs: Any) -> None:
        block.load_matrix(inputs["matrix"])
        gate_params, like = [_entries(block, x) for x in inputs["gate_params"]], block.full(0, kernels.dtype)
        last = [block.read(x, 0) for x in inputs["d_state"]]
        nothing = [block.full(0, x.dtype) for x in last]

        def step(i, carry):
            t, (direct, skipped, d_params, d_initial, resets, now) = length - 1 - i, carry
            product, ahead = block.multiply(i), _fetched(block, inputs, jax.lax.max(t - 1, 0))
            d_state = list(direct)
            for gate in range(layout.gates):
                d_state[hidden] += product(gate, gate).astype(d_state[hidden].dtype)
            if d_initial is not None:  # step t + 1 started from the initial state where it was reset
                d_initial = [a + b for a, b in zip(d_initial, _select(resets, d_state, nothing))]
                d_state = _select(resets, nothing, d_state)
            d_state = [a + b for a, b in zip(d_state, skipped)]
            d_new, skipped = d_state, nothing
            if now["valid"] is not None:
                d_new, skipped = _select(now["valid"], d_state, nothing), _select(now["valid"], nothing, d_state)
            d_y = now["d_ys"].astype(d_new[hidden].dtype)
            d_new = [[x + d_y if leaf == hidden else x] for leaf, x in enumerate(d_new)]
            start = [None if x is None else [x] for x in now["befores"]]
            gradients = gates(*gate_params, *start, *now["zs"], now["r"], *d_new, like=like)
            d_params = [[a + b.astype(a.dtype) for a, b in zip(*sums)] for sums in zip(d_params, gradients)]
            direct = [tile for (tile,) in gradients[len(gate_params) : len(gate_params) + len(direct)]]
            for target, tiles in zip(outputs["d_zs"], gradients[len(gate_params) + len(direct) :]):
                for n, tile in enumerate(tiles):
                    block.write(target, n, tile, t)
            block.publish(i + 1, [tile.astype(kernels.dtype) for tile in gradients[-1]], outputs["d_rs"], t)
            return settled((direct, skipped, d_params, d_initial, now["resets"], ahead))

        masked = inputs["resets"] is not None
        sums = [[block.full(0, jnp.float32) for _ in tiles] for tiles in gate_params]
        block.publish(0, [like] * layout.gates, outputs["d_rs"], length)
        resets, d_initial = (block.full(0, jnp.float32), nothing) if masked else (None, None)
        settled = functools.partial(jax.tree.map, block.settled)
        carry = settled((nothing, last, sums, d_initial, resets, _fetched(block, inputs, length - 1)))
        direct, skipped, d_params, d_initial, _, _ = jax.lax.fori_loop(0, length, step, carry)
        for name, tiles in {"direct": direct, "skipped": skipped, "d_initial": d_initial}.items():
            for target, tile in zip(outputs[name] or (), tiles or ()):
                block.write(target, 0, tile)
        for target, tiles in zip(outputs["d_gate_params"], d_params):
            for n, tile in enumerate(tiles):
                block.write(target, n, tile)

    return kernel


def _gradients(kernels: Kernels, operands: Operands, starts: StepStarts, results: dict[str, Any]) -> tuple[Any, ...]:
    """Returns the gradients: sums over time and batch, and the first step's share of the state's, are left to XLA."""
    layout, dtype, exact = kernels.backward, kernels.dtype, {"preferred_element_type": jnp.float32}
    d_rs = _restored(results["d_rs"].swapaxes(2, 3), layout)[:-1]
    d_weight = jnp.einsum("tbk,tbgh->kgh", starts.hs[:-1], d_rs, **exact).astype(operands.weight.dtype)
    sums = zip(results["d_gate_params"], operands.gate_params)
    d_gate_params = [_restored(x, layout).sum(0).astype(like.dtype) for x, like in sums]
    d_state, d_initial = [_single(x, layout) for x in results["direct"]], None
    through = jnp.einsum("bgh,kgh->bk", d_rs[0], operands.weight.astype(dtype), **exact)
    d_state[kernels.hidden] += through.astype(d_state[kernels.hidden].dtype)
    if operands.resets is not None:
        first, none = operands.resets[0][:, None], [jnp.zeros_like(x) for x in d_state]
        d_initial = [_single(x, layout) + jnp.where(first, y, 0) for x, y in zip(results["d_initial"], d_state)]
        d_state = [jnp.where(first, a, b) for a, b in zip(none, d_state)]
    if operands.valid is not None:
        d_state = [x + _single(skipped, layout) for x, skipped in zip(d_state, results["skipped"])]
    d_zs = [d_rs] if kernels.gates.summed else [_restored(x, layout) for x in results["d_zs"]]
    d_zs = [d_z.astype(z.dtype) for d_z, z in zip(d_zs, operands.zs)]
    return d_weight, d_gate_params, d_state, d_initial, d_zs


def _entries(block: Block, source: Any, *time: Any) -> Tiles:
    """Returns every entry of an array as a tile."""
    return [block.read(source, n, *time) for n in range(source.shape[-4])]


def _fetched(block: Block, inputs: dict[str, Any], t: Any) -> dict[str, Any]:
    """Returns what step t reads: asked for one step before it is needed, it arrives while that step computes."""
    tiles: dict[str, Any] = {"zs": [_entries(block, x, t) for x in inputs["zs"]]}
    tiles["befores"] = [None if x is None else block.read(x, 0, t) for x in inputs.get("befores", ())]
    tiles["r"] = _entries(block, inputs["r"], t) if "r" in inputs else None
    for name in ("valid", "resets", "d_ys"):
        tiles[name] = None if inputs.get(name) is None else block.read(inputs[name], 0, t)
    return tiles


def _select(mask: Array, yes: list[Array], no: list[Array]) -> list[Array]:
    return [jax.lax.select(mask != 0, a, b) for a, b in zip(yes, no)]


def _arranged(x: Array, layout: Layout, tiles: int | None = None) -> Array:
    """Returns ``[..., B, n, H]`` as ``[..., tiles, rows, n, blocks, groups, units]``.

    The padding repeats the last sequence and the last unit, so that gates see nothing there that they might not bear.
    """
    *others, size, n, hidden = x.shape
    tiles = layout.tiles if tiles is None else tiles
    missing = [(0, 0)] * len(others) + [(0, layout.rows * tiles - size), (0, 0), (0, layout.width - hidden)]
    x = jnp.pad(x, missing, mode="edge")
    return x.reshape(*others, tiles, layout.rows, n, layout.blocks, layout.groups, layout.units)


def _restored(x: Array, layout: Layout) -> Array:
    """Returns ``[..., tiles, rows, n, blocks, groups, units]`` as ``[..., B, n, H]``."""
    *others, tiles, rows, n, _, _, _ = x.shape
    return x.reshape(*others, tiles * rows, n, layout.width)[..., : layout.batch, :, : layout.hidden]


def _single(x: Array, layout: Layout) -> Array:
    return _restored(x, layout)[..., 0, :]


def _units(leaves: list[Any] | None, layout: Layout) -> Any:
    """Returns leaves ``[..., B, H]`` of a state, arranged."""
    return None if leaves is None else [None if x is None else _arranged(x[..., None, :], layout) for x in leaves]


def _for_all(gate_params: list[Array], layout: Layout) -> list[Array]:
    """Returns parameters ``[n, H]``, arranged, the same for every sequence."""
    return [_arranged(jnp.broadcast_to(x, (layout.rows, *x.shape)), layout, tiles=1) for x in gate_params]


def _mask(where: Array | None, layout: Layout) -> Array | None:
    """Returns truth values ``[T, B]`` as tiles of zeros and ones, the same for all warpgroups."""
    if where is None:
        return None
    where = jnp.pad(where.astype(jnp.float32), [(0, 0), (0, layout.tiles * layout.rows - layout.batch)], mode="edge")
    where = where.reshape(-1, layout.tiles, layout.rows, 1, 1, 1, 1)
    return jnp.broadcast_to(where, (*where.shape[:-1], layout.units))


def _matrices(weight: Array, layout: Layout, dtype: Any) -> Array:
    """Returns ``[H, G, K]``, what each unit's gates are made with, as ``[blocks, groups, matrix rows, width]``."""
    padding = layout.width - layout.hidden
    weight = jnp.pad(weight.astype(dtype), [(0, padding), (0, 0), (0, 0)], mode="edge")
    weight = jnp.pad(weight, [(0, 0), (0, 0), (0, padding)])  # nothing multiplies what is in the padding
    weight = weight.reshape(layout.blocks, layout.groups, layout.units, layout.gates, layout.width).swapaxes(2, 3)
    weight = weight.reshape(layout.blocks, layout.groups, layout.gates * layout.units, layout.width)
    return jnp.pad(weight, [(0, 0), (0, 0), (0, layout.matrix_rows - weight.shape[2]), (0, 0)])


def _empty(layout: Layout, n: int, dtype: Any, *time: int) -> jax.ShapeDtypeStruct:
    shape = (*time, layout.tiles, layout.rows, n, layout.blocks, layout.groups, layout.units)
    return jax.ShapeDtypeStruct(shape, dtype)


def _published(layout: Layout, length: int, dtype: Any) -> jax.ShapeDtypeStruct:
    shape = (length, layout.tiles, layout.parts, layout.rows, layout.blocks, layout.groups, layout.units)
    return jax.ShapeDtypeStruct(shape, dtype)
