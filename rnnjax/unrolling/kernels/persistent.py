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


class Given(NamedTuple):
    """A recurrence as the kernels take it: units last, one batch axis, pytrees as lists of their leaves.

    `weight [H, G, H]`, `own` parameters ``[n, H]``, leaves of `state` and `initial` ``[B, H]``, of z ``[T, B, n, H]``;
    `valid` and `resets` are ``[T, B]``.
    """

    weight: Array
    own: list[Array]
    state: list[Array]
    initial: list[Array] | None
    zs: list[Array]
    valid: Array | None
    resets: Array | None


class Saved(NamedTuple):
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


def forward(kernels: Kernels, given: Given) -> tuple[Array, list[Array], Saved]:
    """Returns ``ys [T, B, H]``, the leaves of the last state, and what the gradients need."""
    layout, dtype, length = kernels.forward, kernels.dtype, given.zs[0].shape[0]
    masked = given.valid is not None or given.resets is not None
    inputs = {
        "matrix": _matrices(given.weight.transpose(2, 1, 0), layout, dtype),
        "own": _for_all(given.own, layout),
        "state": _units(given.state, layout),
        "initial": _units(given.initial, layout),
        "zs": [_arranged(x, layout) for x in given.zs],
        "valid": _mask(given.valid, layout),
        "resets": _mask(given.resets, layout),
    }
    reads = kernels.gates.backward.reads[len(given.own) :]
    outputs = {
        "hs": _published(layout, length + 1, dtype),
        "ys": _empty(layout, 1, dtype, length) if masked else None,
        "befores": [_empty(layout, 1, x.dtype, length) if read else None for x, read in zip(given.state, reads)],
        "state": [_empty(layout, 1, x.dtype) for x in given.state],
    }
    made = launch(_forward_kernel(kernels, length), layout, dtype, inputs, outputs, kernels.interpret)
    hs = _one(made["hs"].swapaxes(2, 3), layout)
    ys = _one(made["ys"], layout) if masked else hs[1:]
    befores = [None if x is None else _one(x, layout) for x in made["befores"]]
    return ys, [_one(x, layout) for x in made["state"]], Saved(hs, befores)


def _forward_kernel(kernels: Kernels, length: int) -> Callable[..., None]:
    layout, gates, hidden = kernels.forward, kernels.gates.forward, kernels.hidden

    def kernel(block: Block, given: Any, made: Any) -> None:
        block.load_matrix(given["matrix"])
        own, initial = [_entries(block, x) for x in given["own"]], None
        if given["resets"] is not None:
            initial = [block.read(x, 0) for x in given["initial"]]
        state, now = [block.read(x, 0) for x in given["state"]], _fetched(block, given, 0)

        def reset(state: list[Array], at: dict[str, Any]) -> list[Array]:
            return state if initial is None else _select(at["resets"], initial, state)

        def publish(count: Any, state: list[Array], at: dict[str, Any]) -> None:
            h = reset(state, at)[hidden].astype(kernels.dtype)
            block.publish(count, [h], made["hs"], count)

        def step(t, carry):
            state, now = carry
            ahead, before = _fetched(block, given, jax.lax.min(t + 1, length - 1)), reset(state, now)
            for target, tile in zip(made["befores"], before):
                if target is not None:
                    block.write(target, 0, tile, t)
            product = block.multiply(t)
            r = [product(0, gate).astype(state[hidden].dtype) for gate in range(layout.gates)]
            new = [tile for (tile,) in gates(*own, *([x] for x in before), *now["zs"], r, like=r[0])]
            if made["ys"] is not None:
                block.write(made["ys"], 0, new[hidden].astype(kernels.dtype), t)
            after = new if now["valid"] is None else _select(now["valid"], new, state)
            publish(t + 1, after, ahead)
            return settled((after, ahead))

        settled = functools.partial(jax.tree.map, block.settled)
        publish(0, state, now)
        state, _ = jax.lax.fori_loop(0, length, step, settled((state, now)))
        for target, tile in zip(made["state"], state):
            block.write(target, 0, tile)

    return kernel


def backward(kernels: Kernels, given: Given, saved: Saved, d_ys: Array, d_state: list[Array]) -> tuple[Any, ...]:
    """Returns the gradients of the first five fields of `given`, in their order."""
    layout, dtype, length = kernels.backward, kernels.dtype, d_ys.shape[0]
    h = given.state[kernels.hidden]
    inputs = {
        "matrix": _matrices(given.weight, layout, dtype),
        "own": _for_all(given.own, layout),
        "befores": _units(saved.befores, layout),
        "zs": [_arranged(x, layout) for x in given.zs],
        "r": _arranged(recurrent_product(saved.hs[:-1].astype(h.dtype), given.weight, dtype), layout),
        "d_ys": _arranged(d_ys[..., None, :], layout),
        "d_state": _units(d_state, layout),
        "valid": _mask(given.valid, layout),
        "resets": _mask(given.resets, layout),
    }
    state = [_empty(layout, 1, x.dtype) for x in given.state]
    d_zs = [_empty(layout, x.shape[2], x.dtype, length) for x in given.zs]
    outputs = {
        "d_rs": _published(layout, length + 1, dtype),
        "d_zs": [] if kernels.gates.summed else d_zs,
        "d_own": [_empty(layout, len(x), jnp.float32) for x in given.own],
        "direct": state,
        "kept": None if given.valid is None else state,
        "d_initial": None if given.resets is None else state,
    }
    made = launch(_backward_kernel(kernels, length), layout, dtype, inputs, outputs, kernels.interpret)
    return _finished(kernels, given, saved, made)


def _backward_kernel(kernels: Kernels, length: int) -> Callable[..., None]:
    """The kernel that carries the gradient of the state before step t + 1, in its parts.

    `direct` is what came through the gates, without what comes through the product; `kept` is that of sequences that
    did not take the step; `d_initial` collects what goes to the initial state where a step was reset.
    """
    layout, gates, hidden = kernels.backward, kernels.gates.backward, kernels.hidden

    def kernel(block: Block, given: Any, made: Any) -> None:
        block.load_matrix(given["matrix"])
        own, like = [_entries(block, x) for x in given["own"]], block.full(0, kernels.dtype)
        last = [block.read(x, 0) for x in given["d_state"]]
        nothing = [block.full(0, x.dtype) for x in last]

        def step(i, carry):
            t, (direct, kept, d_own, d_initial, resets, now) = length - 1 - i, carry
            product, ahead = block.multiply(i), _fetched(block, given, jax.lax.max(t - 1, 0))
            d_state = list(direct)
            for gate in range(layout.gates):
                d_state[hidden] += product(gate, gate).astype(d_state[hidden].dtype)
            if d_initial is not None:  # step t + 1 started from the initial state where it was reset
                d_initial = [a + b for a, b in zip(d_initial, _select(resets, d_state, nothing))]
                d_state = _select(resets, nothing, d_state)
            d_state = [a + b for a, b in zip(d_state, kept)]
            d_new, kept = d_state, nothing
            if now["valid"] is not None:
                d_new, kept = _select(now["valid"], d_state, nothing), _select(now["valid"], nothing, d_state)
            d_y = now["d_ys"].astype(d_new[hidden].dtype)
            d_new = [[x + d_y if leaf == hidden else x] for leaf, x in enumerate(d_new)]
            start = [None if x is None else [x] for x in now["befores"]]
            found = gates(*own, *start, *now["zs"], now["r"], *d_new, like=like)
            d_own = [[a + b.astype(a.dtype) for a, b in zip(*sums)] for sums in zip(d_own, found)]
            direct = [tile for (tile,) in found[len(own) : len(own) + len(direct)]]
            for target, tiles in zip(made["d_zs"], found[len(own) + len(direct) :]):
                for n, tile in enumerate(tiles):
                    block.write(target, n, tile, t)
            block.publish(i + 1, [tile.astype(kernels.dtype) for tile in found[-1]], made["d_rs"], t)
            return settled((direct, kept, d_own, d_initial, now["resets"], ahead))

        masked, sums = given["resets"] is not None, [[block.full(0, jnp.float32) for _ in tiles] for tiles in own]
        block.publish(0, [like] * layout.gates, made["d_rs"], length)
        resets, d_initial = (block.full(0, jnp.float32), nothing) if masked else (None, None)
        settled = functools.partial(jax.tree.map, block.settled)
        carry = settled((nothing, last, sums, d_initial, resets, _fetched(block, given, length - 1)))
        direct, kept, d_own, d_initial, _, _ = jax.lax.fori_loop(0, length, step, carry)
        for name, tiles in {"direct": direct, "kept": kept, "d_initial": d_initial}.items():
            for target, tile in zip(made[name] or (), tiles or ()):
                block.write(target, 0, tile)
        for target, tiles in zip(made["d_own"], d_own):
            for n, tile in enumerate(tiles):
                block.write(target, n, tile)

    return kernel


def _finished(kernels: Kernels, given: Given, saved: Saved, made: dict[str, Any]) -> tuple[Any, ...]:
    """Returns the gradients: sums over time and batch, and the first step's share of the state's, are left to XLA."""
    layout, dtype, exact = kernels.backward, kernels.dtype, {"preferred_element_type": jnp.float32}
    d_rs = _restored(made["d_rs"].swapaxes(2, 3), layout)[:-1]
    d_weight = jnp.einsum("tbk,tbgh->kgh", saved.hs[:-1], d_rs, **exact).astype(given.weight.dtype)
    d_own = [_restored(x, layout).sum(0).astype(like.dtype) for x, like in zip(made["d_own"], given.own)]
    d_state, d_initial = [_one(x, layout) for x in made["direct"]], None
    through = jnp.einsum("bgh,kgh->bk", d_rs[0], given.weight.astype(dtype), **exact)
    d_state[kernels.hidden] += through.astype(d_state[kernels.hidden].dtype)
    if given.resets is not None:
        first, none = given.resets[0][:, None], [jnp.zeros_like(x) for x in d_state]
        d_initial = [_one(x, layout) + jnp.where(first, y, 0) for x, y in zip(made["d_initial"], d_state)]
        d_state = [jnp.where(first, a, b) for a, b in zip(none, d_state)]
    if given.valid is not None:
        d_state = [x + _one(kept, layout) for x, kept in zip(d_state, made["kept"])]
    d_zs = [d_rs] if kernels.gates.summed else [_restored(x, layout) for x in made["d_zs"]]
    d_zs = [d_z.astype(z.dtype) for d_z, z in zip(d_zs, given.zs)]
    return d_weight, d_own, d_state, d_initial, d_zs


def _entries(block: Block, source: Any, *time: Any) -> Tiles:
    """Returns every entry of an array as a tile."""
    return [block.read(source, n, *time) for n in range(source.shape[-4])]


def _fetched(block: Block, given: dict[str, Any], t: Any) -> dict[str, Any]:
    """Returns what step t reads: asked for one step before it is needed, it arrives while that step computes."""
    found: dict[str, Any] = {"zs": [_entries(block, x, t) for x in given["zs"]]}
    found["befores"] = [None if x is None else block.read(x, 0, t) for x in given.get("befores", ())]
    found["r"] = _entries(block, given["r"], t) if "r" in given else None
    for name in ("valid", "resets", "d_ys"):
        found[name] = None if given.get(name) is None else block.read(given[name], 0, t)
    return found


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


def _one(x: Array, layout: Layout) -> Array:
    return _restored(x, layout)[..., 0, :]


def _units(leaves: list[Any] | None, layout: Layout) -> Any:
    """Returns leaves ``[..., B, H]`` of a state, arranged."""
    return None if leaves is None else [None if x is None else _arranged(x[..., None, :], layout) for x in leaves]


def _for_all(own: list[Array], layout: Layout) -> list[Array]:
    """Returns parameters ``[n, H]``, arranged, the same for every sequence."""
    return [_arranged(jnp.broadcast_to(x, (layout.rows, *x.shape)), layout, tiles=1) for x in own]


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
