"""Recurrences of pointwise gated cells as persistent GPU kernels: one launch forward, one backward, for all steps.

Forward, with h_t the state before step t, a kernel holds the recurrent weight on the chip and repeats: r_t = h_t W, the
gates, which make the next state, and that state's way to whoever multiplies it next. It writes the states and nothing
else. Backward another one holds the weight transposed and repeats, from the last step to the first: d r_{t+1} W^T, the
derivative of the gates, evaluated at the states that were written and at r_t, which is one product of all steps before
the loop. The weight's gradient, sum_t h_t^T d r_t, is one product of all steps after it. Products are accumulated in
float32; float32 is multiplied as XLA multiplies it on a GPU by default, in TensorFloat-32.
"""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array

from rnnjax.cells.cell import GatedCell, Params, State, compute_dtype, recurrent_product
from rnnjax.kernels.mosaic import Block, launch
from rnnjax.kernels.plan import MULTIPROCESSORS, SHARED_MEMORY, Plan, most_units, plan
from rnnjax.kernels.pointwise import Gates, Tiles, by_unit, traced
from rnnjax.unrolling.recurrence import Recurrence, Steps
from rnnjax.unrolling.scan import Scan

_TYPES = ("float32", "bfloat16", "float16")


class Given(NamedTuple):
    """A recurrence as the kernels take it: units last, one batch axis, pytrees as lists of their leaves.

    `weight [H, G, H]`, `own` parameters ``[n, H]``, leaves of `state` and `initial` ``[B, H]``, of z ``[T, B, n, H]``.
    """

    weight: Array
    own: list[Array]
    state: list[Array]
    initial: list[Array] | None
    zs: list[Array]
    valid: Array | None
    resets: Array | None


@dataclasses.dataclass(frozen=True, eq=False)
class Kernels:
    """What the two kernels of a recurrence are made from."""

    cell: GatedCell
    gates: Gates
    hidden: int  # where the hidden state is among the leaves of the state
    dtype: Any
    forward: Plan
    backward: Plan
    interpret: bool


def why_not(recurrence: Recurrence, *, interpret: bool = False, platform: str | None = None) -> str | None:
    """Returns a sentence that says why these kernels cannot serve a recurrence, None if they can."""
    cell, name = recurrence.cell, type(recurrence.cell).__name__
    if not interpret and (platform or jax.default_backend()) != "gpu":
        return "the pallas backend runs on a GPU; elsewhere ask for backend='xla', or for interpret=True to test it"
    if not isinstance(cell, GatedCell) or type(cell).step is not GatedCell.step:
        return f"the pallas backend takes gated cells whose step is GatedCell's, and {name} is not one"
    if not cell.pointwise:
        return f"{name} mixes hidden units in its gates, and the pallas backend splits them; ask for backend='xla'"
    dtype = jnp.dtype(compute_dtype(recurrence.steps.z))
    wrong = [x for x in (dtype, *(leaf.dtype for leaf in jax.tree.leaves(recurrence.state))) if x.name not in _TYPES]
    if wrong:
        return f"the pallas backend computes in {', '.join(_TYPES)}, got {wrong[0]}"
    if None in (plans := _plans(recurrence, split=not interpret)):
        return _too_large(recurrence, plans, split=not interpret)
    return None


def _plans(recurrence: Recurrence, *, split: bool) -> tuple[Plan | None, Plan | None]:
    """Returns the layouts forward and backward."""
    gates, hidden = _weight_shape(recurrence)[1:]
    batch = recurrence.state.h.size // hidden
    itemsize = jnp.dtype(compute_dtype(recurrence.steps.z)).itemsize
    forward, backward = (plan(gates, parts, itemsize, batch, hidden, split=split) for parts in (1, gates))
    return forward, backward


def _weight_shape(recurrence: Recurrence) -> tuple[int, ...]:
    return jax.eval_shape(recurrence.cell.recurrent_weight, recurrence.params).shape


def _too_large(recurrence: Recurrence, plans: tuple[Plan | None, Plan | None], *, split: bool) -> str:
    gates, hidden = _weight_shape(recurrence)[1:]
    batch, dtype = recurrence.state.h.size // hidden, jnp.dtype(compute_dtype(recurrence.steps.z))
    most = min(most_units(gates, parts, dtype.itemsize, batch, split=split) for parts in (1, gates))
    most = f"at most {most}" if most else "no number of"
    place = f"{MULTIPROCESSORS} blocks of {SHARED_MEMORY // 1024} KiB" if split else f"{SHARED_MEMORY // 1024} KiB"
    return (
        f"the pallas backend holds the recurrent weight of {gates} gates in {place} of shared memory, with a batch of "
        f"{batch} in {dtype} {most} hidden units, got {hidden}; make hidden_size or the batch smaller, "
        "or ask for backend='xla'"
    )


class Live(NamedTuple):
    """The parts of a recurrence that have gradients."""

    params: Params
    state: State
    initial: State | None
    z: Any


def run(recurrence: Recurrence, *, interpret: bool = False) -> tuple[Array, State]:
    """Returns ``ys [T, *batch, H]`` and the state after the last step, where `why_not` has nothing against it.

    Gradients are those of reverse mode; their own derivatives are taken through `jax.lax.scan`.
    """
    kernels = _kernels(recurrence, interpret)
    initial = None if recurrence.steps.resets is None else recurrence.initial
    live = Live(recurrence.params, recurrence.state, initial, recurrence.steps.z)
    return _recur(kernels, live, (recurrence.steps.valid, recurrence.steps.resets))


def _kernels(recurrence: Recurrence, interpret: bool) -> Kernels:
    cell, state, z = recurrence.cell, recurrence.state, recurrence.steps.z
    axes, (_, *gates_and_units) = state.h.ndim - 1, _weight_shape(recurrence)

    def one(tree: Any, axes: int) -> Any:
        """Returns shapes and types without the first axes, time and batch."""
        return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[axes:], leaf.dtype), tree)

    r = jax.ShapeDtypeStruct(tuple(gates_and_units), state.h.dtype)
    gates = traced(cell, recurrence.params, one(state, axes), one(z, axes + 1), r)
    hidden = next(i for i, leaf in enumerate(jax.tree.leaves(state)) if leaf is state.h)
    forward, backward = _plans(recurrence, split=not interpret)
    assert forward is not None and backward is not None
    return Kernels(cell, gates, hidden, jnp.dtype(compute_dtype(z)), forward, backward, interpret)


def _recur(kernels: Kernels, live: Live, masks: tuple[Array | None, Array | None]) -> tuple[Array, State]:
    """Ties the kernels together: each has a derivative, the first one's is the second, the second's that of a scan."""

    def scanned(live: Live, masks: Any) -> tuple[Array, State]:
        steps = Steps(live.z, *masks)
        return Scan().run(Recurrence(kernels.cell, live.params, live.state, live.initial, steps))

    @jax.custom_jvp
    def forward(live, masks):
        return _forward(kernels, _given(kernels, live, masks), live)

    @forward.defjvp
    def _(primals, tangents):
        outputs, saved = forward(*primals)
        d_outputs = jax.jvp(lambda live: scanned(live, primals[1]), primals[:1], tangents[:1])[1]
        return (outputs, saved), (d_outputs, jax.tree.map(jnp.zeros_like, saved))

    @jax.custom_jvp
    def backward(live, masks, saved, d_outputs):
        given, pull = jax.vjp(lambda live: _given(kernels, live, masks)[:5], live)
        d_given = _backward(kernels, Given(*given, *_given(kernels, live, masks)[5:]), saved, *_flat(kernels, d_outputs))
        return pull(d_given)[0]

    @backward.defjvp
    def _(primals, tangents):
        live, masks, _, d_outputs = primals
        pull = lambda live, d_outputs: jax.vjp(lambda live: scanned(live, masks), live)[1](d_outputs)[0]  # noqa: E731
        return backward(*primals), jax.jvp(pull, (live, d_outputs), (tangents[0], tangents[3]))[1]

    @jax.custom_vjp
    def recur(live, masks):
        return forward(live, masks)[0]

    def ahead(live, masks):
        outputs, saved = forward(live, masks)
        return outputs, (live, masks, saved)

    recur.defvjp(ahead, lambda kept, d_outputs: (backward(*kept, d_outputs), None))
    return recur(live, masks)


def _given(kernels: Kernels, live: Live, masks: tuple[Array | None, Array | None]) -> Given:
    """Returns a recurrence as the kernels take it."""
    size, axes = kernels.forward.hidden, live.state.h.ndim - 1

    def flat(leaf: Array, before: int) -> Array:
        return leaf.reshape(*leaf.shape[:before], -1, *leaf.shape[before + axes :])

    return Given(
        kernels.cell.recurrent_weight(live.params),
        [by_unit(leaf, size) for leaf, own in zip(jax.tree.leaves(live.params), kernels.gates.own) if own],
        [flat(leaf, 0) for leaf in jax.tree.leaves(live.state)],
        None if live.initial is None else [flat(leaf, 0) for leaf in jax.tree.leaves(live.initial)],
        [by_unit(flat(leaf, 1), size, 2) for leaf in jax.tree.leaves(live.z)],
        *(None if mask is None else flat(mask, 1) for mask in masks),
    )


def _flat(kernels: Kernels, outputs: tuple[Array, State]) -> tuple[Array, list[Array]]:
    """Returns outputs and state, or their gradients, with one batch axis."""
    batch, size = kernels.forward.batch, kernels.forward.hidden
    ys, state = outputs
    return ys.reshape(-1, batch, size), [leaf.reshape(batch, size) for leaf in jax.tree.leaves(state)]


class Saved(NamedTuple):
    """What a step started from: `hs [T + 1, B, H]` as it was multiplied, and the leaves of the state that the
    derivative of the gates reads, ``[T, B, H]``."""

    hs: Array
    befores: list[Array | None]


def arranged(x: Array, plan: Plan, batch: bool = True) -> Array:
    """Returns ``[..., B, n, H]`` as ``[..., tiles, rows, n, blocks, groups, units]``.

    The padding repeats the last sequence and the last unit, so that gates see nothing there that they might not bear.
    """
    *others, size, n, hidden = x.shape
    rows, tiles = (plan.rows, plan.tiles) if batch else (plan.rows, 1)
    missing = [(0, 0)] * len(others) + [(0, rows * tiles - size), (0, 0), (0, plan.width - hidden)]
    x = jnp.pad(x, missing, mode="edge")
    return x.reshape(*others, tiles, rows, n, plan.blocks, plan.groups, plan.units)


def restored(x: Array, plan: Plan) -> Array:
    """Returns ``[..., tiles, rows, n, blocks, groups, units]`` as ``[..., B, n, H]``."""
    *others, tiles, rows, n, _, _, _ = x.shape
    return x.reshape(*others, tiles * rows, n, plan.width)[..., : plan.batch, :, : plan.hidden]


def _matrices(weight: Array, plan: Plan, dtype: Any) -> Array:
    """Returns ``[H, G, K]``, what makes each unit's gates, as ``[blocks, groups, matrix rows, width]``."""
    padding = plan.width - plan.hidden
    weight = jnp.pad(weight.astype(dtype), [(0, padding), (0, 0), (0, 0)], mode="edge")
    weight = jnp.pad(weight, [(0, 0), (0, 0), (0, padding)])
    weight = weight.reshape(plan.blocks, plan.groups, plan.units, plan.gates, plan.width).swapaxes(2, 3)
    weight = weight.reshape(plan.blocks, plan.groups, plan.gates * plan.units, plan.width)
    return jnp.pad(weight, [(0, 0), (0, 0), (0, plan.matrix_rows - weight.shape[2]), (0, 0)])


def _spread(own: list[Array], plan: Plan) -> list[Array]:
    """Returns parameters ``[n, H]`` as tiles that are the same for every sequence."""
    return [arranged(jnp.broadcast_to(x, (plan.rows, *x.shape)), plan, batch=False) for x in own]


def _mask(where: Array | None, plan: Plan) -> Array | None:
    """Returns truth values ``[T, B]`` as tiles of zeros and ones that are the same for all groups."""
    if where is None:
        return None
    where = jnp.pad(where.astype(jnp.float32), [(0, 0), (0, plan.tiles * plan.rows - plan.batch)], mode="edge")
    where = where.reshape(-1, plan.tiles, plan.rows, 1, 1, 1, 1)
    return jnp.broadcast_to(where, (*where.shape[:-1], plan.units))


def _like(*shape: int, dtype: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, dtype)


def _tile_shape(plan: Plan, n: int) -> tuple[int, ...]:
    return (plan.tiles, plan.rows, n, plan.blocks, plan.groups, plan.units)


def _published(plan: Plan, length: int, dtype: Any) -> jax.ShapeDtypeStruct:
    shape = (length, plan.tiles, plan.parts, plan.rows, plan.blocks, plan.groups, plan.units)
    return jax.ShapeDtypeStruct(shape, dtype)


def _forward(kernels: Kernels, given: Given, live: Live) -> tuple[tuple[Array, State], Saved]:
    plan, dtype, length = kernels.forward, kernels.dtype, given.zs[0].shape[0]
    alone = [x[..., None, :] for x in given.state]
    inputs = {
        "matrix": _matrices(given.weight.transpose(2, 1, 0), plan, dtype),
        "own": _spread(given.own, plan),
        "state": [arranged(x, plan) for x in alone],
        "initial": None if given.initial is None else [arranged(x[..., None, :], plan) for x in given.initial],
        "zs": [arranged(x, plan) for x in given.zs],
        "valid": _mask(given.valid, plan),
        "resets": _mask(given.resets, plan),
    }
    shape, masked = _tile_shape(plan, 1), given.valid is not None or given.resets is not None
    reads = kernels.gates.backward.reads[len(given.own) :]
    outputs = {
        "hs": _published(plan, length + 1, dtype),
        "ys": _like(length, *shape, dtype=dtype) if masked else None,
        "befores": [_like(length, *shape, dtype=x.dtype) if read else None for x, read in zip(given.state, reads)],
        "state": [_like(*shape, dtype=x.dtype) for x in given.state],
    }
    made = launch(_forward_kernel(kernels, length), plan, dtype, inputs, outputs, kernels.interpret)
    back = lambda x: restored(x, plan)[..., 0, :]  # noqa: E731
    hs = back(made["hs"].swapaxes(2, 3))
    befores = [None if x is None else back(x) for x in made["befores"]]
    ys = back(made["ys"]) if masked else hs[1:]
    old, structure = jax.tree.flatten(live.state)
    state = structure.unflatten([back(x).reshape(like.shape) for x, like in zip(made["state"], old)])
    return (ys.reshape(length, *live.state.h.shape), state), Saved(hs, befores)


def _forward_kernel(kernels: Kernels, length: int) -> Any:
    plan, gates, hidden = kernels.forward, kernels.gates.forward, kernels.hidden

    def kernel(block: Block, given: Any, made: Any) -> None:
        block.load_matrix(given["matrix"])
        own = [_entries(block, x) for x in given["own"]]
        initial = None if given["resets"] is None else [block.read(x, 0) for x in given["initial"]]
        state, ahead = [block.read(x, 0) for x in given["state"]], _fetched(block, given, 0)
        first = state[hidden] if initial is None else _where(ahead["resets"], initial[hidden], state[hidden])
        block.publish(0, [first.astype(kernels.dtype)], made["hs"], 0)

        def step(t, carry):
            state, now = carry
            ahead = _fetched(block, given, jax.lax.min(t + 1, length - 1))
            before = state if initial is None else [_where(now["resets"], a, b) for a, b in zip(initial, state)]
            for target, tile in zip(made["befores"], before):
                if target is not None:
                    block.write(target, 0, tile, t)
            product = block.product(t)
            r = [product(0, gate).astype(state[hidden].dtype) for gate in range(plan.gates)]
            new = [tiles[0] for tiles in gates(*own, *([x] for x in before), *now["zs"], r, like=r[0])]
            if made["ys"] is not None:
                block.write(made["ys"], 0, new[hidden].astype(kernels.dtype), t)
            if now["valid"] is not None:
                new = [_where(now["valid"], a, b) for a, b in zip(new, state)]
            h = new[hidden] if initial is None else _where(ahead["resets"], initial[hidden], new[hidden])
            block.publish(t + 1, [h.astype(kernels.dtype)], made["hs"], t + 1)
            return [block.settled(x) for x in new], ahead

        state, _ = jax.lax.fori_loop(0, length, step, (state, ahead))
        for target, tile in zip(made["state"], state):
            block.write(target, 0, tile)

    return kernel


def _backward(kernels: Kernels, given: Given, saved: Saved, d_ys: Array, d_state: list[Array]) -> tuple[Any, ...]:
    """Returns the gradients of the first five fields of `given`."""
    plan, dtype, length = kernels.backward, kernels.dtype, d_ys.shape[0]
    h_dtype, reads = given.state[kernels.hidden].dtype, kernels.gates.backward.reads
    rs = recurrent_product(saved.hs[:-1].astype(h_dtype), given.weight, dtype)
    inputs = {
        "matrix": _matrices(given.weight, plan, dtype),
        "own": _spread(given.own, plan),
        "befores": [None if x is None else arranged(x[..., None, :], plan) for x in saved.befores],
        "zs": [arranged(x, plan) for x in given.zs],
        "r": arranged(rs, plan) if reads[-1 - len(given.state)] else None,
        "d_ys": arranged(d_ys[..., None, :], plan),
        "d_state": [arranged(x[..., None, :], plan) for x in d_state],
        "valid": _mask(given.valid, plan),
        "resets": _mask(given.resets, plan),
    }
    one = _tile_shape(plan, 1)
    leaves = [_like(*one, dtype=x.dtype) for x in given.state]
    outputs = {
        "d_rs": _published(plan, length + 1, dtype),
        "d_zs": [_like(length, *_tile_shape(plan, x.shape[2]), dtype=x.dtype) for x in given.zs],
        "d_own": [_like(*_tile_shape(plan, len(x)), dtype=jnp.float32) for x in given.own],
        "direct": leaves,
        "kept": None if given.valid is None else leaves,
        "d_initial": None if given.initial is None else leaves,
    }
    made = launch(_backward_kernel(kernels, length), plan, dtype, inputs, outputs, kernels.interpret)
    return _gradients(kernels, given, saved, made)


def _gradients(kernels: Kernels, given: Given, saved: Saved, made: dict[str, Any]) -> tuple[Any, ...]:
    """Finishes what the backward kernel leaves: sums over time and batch, and the first step's share of the state."""
    plan, dtype = kernels.backward, kernels.dtype
    d_rs = restored(made["d_rs"].swapaxes(2, 3), plan)[:-1]
    d_weight = jnp.einsum("tbk,tbgh->kgh", saved.hs[:-1], d_rs, preferred_element_type=jnp.float32)
    d_own = [restored(x, plan).sum(0) for x in made["d_own"]]
    direct = [restored(x, plan)[..., 0, :] for x in made["direct"]]
    back = jnp.einsum("bgh,kgh->bk", d_rs[0], given.weight.astype(dtype), preferred_element_type=jnp.float32)
    direct[kernels.hidden] += back.astype(direct[kernels.hidden].dtype)
    d_state, d_initial = direct, None
    if given.resets is not None:
        first = given.resets[0][:, None]
        d_state = [jnp.where(first, 0, x) for x in direct]
        d_initial = [restored(x, plan)[..., 0, :] + jnp.where(first, y, 0) for x, y in zip(made["d_initial"], direct)]
    if given.valid is not None:
        d_state = [x + restored(y, plan)[..., 0, :] for x, y in zip(d_state, made["kept"])]
    d_own = [x.astype(like.dtype) for x, like in zip(d_own, given.own)]
    return d_weight.astype(given.weight.dtype), d_own, d_state, d_initial, [restored(x, plan) for x in made["d_zs"]]


def _backward_kernel(kernels: Kernels, length: int) -> Any:
    plan, gates, hidden = kernels.backward, kernels.gates.backward, kernels.hidden

    def kernel(block: Block, given: Any, made: Any) -> None:
        block.load_matrix(given["matrix"])
        own = [_entries(block, x) for x in given["own"]]
        kept = [block.read(x, 0) for x in given["d_state"]]  # gradients of the state that are not those of a step
        zero = [block.full(0, x.dtype) for x in kept]
        rows = block.full(0, kernels.dtype)
        block.publish(0, [rows] * plan.gates, made["d_rs"], length)
        masked = given["valid"] is not None

        def step(i, carry):
            direct, kept, d_own, d_initial, after, now = carry
            t = length - 1 - i
            product = block.product(i)
            ahead = _fetched(block, given, jax.lax.max(t - 1, 0))
            d_state = list(direct)
            for part in range(plan.gates):
                d_state[hidden] += product(part, part).astype(d_state[hidden].dtype)
            if after is not None:  # step t + 1 started from the initial state where it was reset
                d_initial = [_where(after, a + b, a) for a, b in zip(d_initial, d_state)]
                d_state = [_where(after, jnp.zeros_like(x), x) for x in d_state]
            d_state = [a + b for a, b in zip(d_state, kept)]
            d_new = [_where(now["valid"], x, jnp.zeros_like(x)) for x in d_state] if masked else list(d_state)
            kept = [_where(now["valid"], jnp.zeros_like(x), x) for x in d_state] if masked else zero
            d_new[hidden] += now["d_ys"].astype(d_new[hidden].dtype)
            start = [None if x is None else [x] for x in now["befores"]]
            found = iter(gates(*own, *start, *now["zs"], now["r"], *([x] for x in d_new), like=rows))
            d_own = [[a + b.astype(a.dtype) for a, b in zip(sums, next(found))] for sums in d_own]
            direct = [next(found)[0] for _ in direct]
            for target in made["d_zs"]:
                for n, tile in enumerate(next(found)):
                    block.write(target, n, tile, t)
            d_r = [tile.astype(kernels.dtype) for tile in next(found)]
            block.publish(i + 1, d_r, made["d_rs"], t)
            carried = direct, kept, d_own, d_initial, now["resets"], ahead
            return jax.tree.map(block.settled, carried)

        sums = [[block.full(0, jnp.float32) for _ in entries] for entries in own]
        now = _fetched(block, given, length - 1)
        after = None if given["resets"] is None else block.full(0, jnp.float32)
        d_initial = None if after is None else zero
        carry = zero, kept, sums, d_initial, after, now
        direct, kept, d_own, d_initial, _, _ = jax.lax.fori_loop(0, length, step, carry)
        for target, tile in zip(jax.tree.leaves((made["direct"], made["kept"], made["d_initial"])),
                                [*direct, *(kept if masked else ()), *(d_initial or ())]):
            block.write(target, 0, tile)
        for target, tiles in zip(made["d_own"], d_own):
            for n, tile in enumerate(tiles):
                block.write(target, n, tile)

    return kernel


def _entries(block: Block, source: Any, *time: Any) -> Tiles:
    """Returns every entry of an array as a tile."""
    return [block.read(source, n, *time) for n in range(source.shape[-4])]


def _fetched(block: Block, given: Any, t: Any) -> dict[str, Any]:
    """Returns what step t reads, in registers one step before it is needed."""

    def one(name: str) -> Any:
        return None if given.get(name) is None else block.read(given[name], 0, t)

    found = {name: one(name) for name in ("valid", "resets", "d_ys")}
    found["befores"] = [None if x is None else block.read(x, 0, t) for x in given.get("befores", ())]
    found["r"] = None if given.get("r") is None else _entries(block, given["r"], t)
    return found | {"zs": [_entries(block, x, t) for x in given["zs"]]}


def _where(mask: Array, yes: Array, no: Array) -> Array:
    return jax.lax.select(mask != 0, yes, no)
