"""The two kernels of a recurrence, each one launch for all steps: forward, and backward in time for the gradients.

With h_t the hidden state before step t and r_t = h_t W, each step of the forward kernel

1. multiplies h_t by W,
2. evaluates the gates, which give the new state, and
3. publishes the new hidden state to all warpgroups, which multiply it in the next step.

It writes the states to the GPU's memory. The backward kernel goes from the last step to the first: it multiplies
d r_{t+1} by W^T, and evaluates the derivative of the gates at the stored states and at r_t. XLA computes two products
of all steps: the r_t, before the backward kernel, and the weight's gradient, sum_t h_t^T d r_t, after it.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int32

from rnnjax.cells.gated_cell import recurrent_product
from rnnjax.unrolling.kernels.arranging import (
    arranged,
    arranged_mask,
    arranged_params,
    arranged_units,
    arranged_weight,
    empty,
    published,
    restored,
    restored_single,
)
from rnnjax.unrolling.kernels.gpu_block import Block, launch
from rnnjax.unrolling.kernels.layout import Layout
from rnnjax.unrolling.kernels.pointwise import Tiles
from rnnjax.unrolling.kernels.tile_lists import select, sums, zero_where_unused
from rnnjax.unrolling.kernels.traced_gates import Gates
from rnnjax.unrolling.kernels.turns import DONE


class Operands(NamedTuple):
    """A recurrence as the kernels take it: hidden units on the last axis, one batch axis, pytrees as lists of leaves.

    Attributes:
      weight: the recurrent weight.
      gate_params: the parameters that the gates read.
      state, initial: the leaves of the first state, and of the state that resets go back to (None without resets).
      zs: the leaves of the projected inputs z.
      valid, resets, followed: as in `Steps`.
    """

    weight: Float[Array, "H G H"]
    gate_params: list[Float[Array, "_ H"]]
    state: list[Float[Array, "B H"]]
    initial: list[Float[Array, "B H"]] | None
    zs: list[Float[Array, "T B _ H"]]
    valid: Bool[Array, "T B"] | None
    resets: Bool[Array, "T B"] | None
    followed: Bool[Array, "T B"] | None


class StepStarts(NamedTuple):
    """What the steps started from.

    Attributes:
      hs: the hidden states in the type in which they were multiplied, and the last one.
      befores: the leaves of the states that the derivative of the gates reads, None for the other leaves.
    """

    hs: Float[Array, "T+1 B H"]
    befores: list[Float[Array, "T B H"] | None]


@dataclasses.dataclass(frozen=True, eq=False)
class Kernels:
    """What the two kernels are built from, none of it an array.

    Attributes:
      gates: the gates and their derivative, traced for one hidden unit.
      hidden: the position of the hidden state among the leaves of the state.
      dtype: type of the operands of products.
      forward, backward: the layouts of the two kernels.
      interpret: whether to run in JAX's interpreter of GPU kernels.
    """

    gates: Gates
    hidden: int
    dtype: Any
    forward: Layout
    backward: Layout
    interpret: bool


def forward(
    kernels: Kernels, operands: Operands, after: Int32[Array, "1"]
) -> tuple[Float[Array, "T B H"], list[Float[Array, "B H"]], StepStarts, Int32[Array, "1"]]:
    """Returns the outputs, the leaves of the last state, what the gradients need, and what the next runs after."""
    layout, dtype, length = kernels.forward, kernels.dtype, operands.zs[0].shape[0]
    masked = operands.valid is not None or operands.resets is not None
    inputs = {
        # The forward product computes the units on the last axis of the weight; `arranged_weight` has those first.
        "matrix": arranged_weight(operands.weight.transpose(2, 1, 0), layout, dtype),
        "gate_params": arranged_params(operands.gate_params, layout),
        "state": arranged_units(operands.state, layout),
        "initial": arranged_units(operands.initial, layout),
        "zs": [arranged(x, layout) for x in operands.zs],
        "valid": arranged_mask(operands.valid, layout),
        "resets": arranged_mask(operands.resets, layout),
        "after": after,
    }
    # Of the arguments of the gates' derivative, the state's leaves come after the parameters.
    reads_state = kernels.gates.backward.reads[len(operands.gate_params) :]
    outputs = {
        # One more than steps: the state after the last one is published too.
        "hs": published(layout, length + 1, dtype),
        # Without masks the outputs are the hidden states, which are written anyway.
        "ys": empty(layout, 1, dtype, length) if masked else None,
        "befores": [
            empty(layout, 1, leaf.dtype, length) if is_read else None
            for leaf, is_read in zip(operands.state, reads_state)
        ],
        "state": [empty(layout, 1, x.dtype) for x in operands.state],
        "done": DONE,
    }
    results = launch(_forward_kernel(kernels, length), layout, dtype, inputs, outputs, kernels.interpret)
    # [T+1, tiles, rows, parts, ...], with parts where other arrays have their n entries.
    hs = restored_single(results["hs"].swapaxes(2, 3), layout)
    ys = restored_single(results["ys"], layout) if masked else hs[1:]
    befores = [None if x is None else restored_single(x, layout) for x in results["befores"]]
    return ys, [restored_single(x, layout) for x in results["state"]], StepStarts(hs, befores), results["done"]


def _forward_kernel(kernels: Kernels, length: int) -> Callable[..., None]:
    """Returns the forward kernel, whose loop carries the state's tiles and what the coming step reads."""
    layout, gates, hidden = kernels.forward, kernels.gates.forward, kernels.hidden

    def kernel(block: Block, inputs: Any, outputs: Any) -> None:
        block.load_matrix(inputs["matrix"])
        gate_params = [_entries(block, x) for x in inputs["gate_params"]]
        initial = None
        if inputs["resets"] is not None:
            initial = [block.read(x, 0) for x in inputs["initial"]]

        def reset(state: list[Array], reads: dict[str, Any]) -> list[Array]:
            return state if initial is None else select(reads["resets"], initial, state)

        def publish(count: Any, state: list[Array], reads: dict[str, Any]) -> None:
            # Published after the reset, since the next step multiplies what it starts from.
            h = reset(state, reads)[hidden].astype(kernels.dtype)
            block.publish(count, [h], outputs["hs"], count)

        def step(t, carry):
            state, reads = carry
            # The last step reads its own inputs again, so that hs[T] is published with the wrong reset. It is read, as
            # the last output, only where there are no resets.
            next_reads = _prefetched(block, inputs, jax.lax.min(t + 1, length - 1))
            # The loop carries the state before its reset, which a step that is missing leaves as it is.
            before = reset(state, reads)
            for target, tile in zip(outputs["befores"], before):
                if target is not None:
                    block.write(target, 0, tile, t)
            product = block.multiply(t)
            r = [product(0, gate).astype(state[hidden].dtype) for gate in range(layout.gates)]
            before_tiles = ([x] for x in before)
            results = settled(gates(*gate_params, *before_tiles, *reads["zs"], r, like=r[0]))
            new = [tile for (tile,) in results]
            if outputs["ys"] is not None:
                block.write(outputs["ys"], 0, new[hidden].astype(kernels.dtype), t)
            after = new if reads["valid"] is None else select(reads["valid"], new, state)
            publish(t + 1, after, next_reads)
            return settled((after, next_reads))

        settled = functools.partial(jax.tree.map, block.settled)
        state = [block.read(x, 0) for x in inputs["state"]]
        reads = _prefetched(block, inputs, 0)
        # Before the loop, whose steps begin with a product.
        publish(0, state, reads)
        state, _ = jax.lax.fori_loop(0, length, step, settled((state, reads)))
        for target, tile in zip(outputs["state"], state):
            block.write(target, 0, tile)

    return kernel


def backward(
    kernels: Kernels,
    operands: Operands,
    starts: StepStarts,
    d_ys: Float[Array, "T B H"],
    d_state: list[Float[Array, "B H"]],
    after: Int32[Array, "1"],
) -> tuple[tuple[Any, ...], Int32[Array, "1"]]:
    """Returns the gradients of the first five fields of `operands`, in their order, and what the next runs after.

    Args:
      kernels: what the kernels are built from.
      operands: the recurrence.
      starts: what `forward` returned for it.
      d_ys: gradient of the outputs.
      d_state: gradients of the leaves of the last state.
      after: what the kernel before returned last.
    """
    layout, dtype, length = kernels.backward, kernels.dtype, d_ys.shape[0]
    h = operands.state[kernels.hidden]
    inputs = {
        "matrix": arranged_weight(operands.weight, layout, dtype),
        "gate_params": arranged_params(operands.gate_params, layout),
        "befores": arranged_units(starts.befores, layout),
        "zs": [arranged(x, layout) for x in operands.zs],
        # Computed again for all steps at once, [T, B, G, H]: the forward kernel need not write it.
        "r": arranged(recurrent_product(starts.hs[:-1].astype(h.dtype), operands.weight, dtype), layout),
        "d_ys": arranged(d_ys[..., None, :], layout),  # [T, B, 1, H], one entry a unit
        "d_state": arranged_units(d_state, layout),
        "valid": arranged_mask(operands.valid, layout),
        "resets": arranged_mask(operands.resets, layout),
        "followed": arranged_mask(operands.followed, layout),
        "lost": arranged_mask(_lost(operands, starts), layout),
        "after": after,
    }
    state = [empty(layout, 1, x.dtype) for x in operands.state]
    # See `_backward_kernel` for the three parts of the state's gradient.
    d_zs = [empty(layout, x.shape[2], x.dtype, length) for x in operands.zs]
    outputs = {
        # One more than steps: index T holds the zeros that the last step's product is of.
        "d_rs": published(layout, length + 1, dtype),
        # Where gates read z + r, both have the gradient that is published for r.
        "d_zs": [] if kernels.gates.summed else d_zs,
        # In float32, since each entry is a sum over all steps.
        "d_gate_params": [empty(layout, len(x), jnp.float32) for x in operands.gate_params],
        "direct": state,
        "skipped": None if operands.valid is None else state,
        "d_initial": None if operands.resets is None else state,
        "done": DONE,
    }
    results = launch(_backward_kernel(kernels, length), layout, dtype, inputs, outputs, kernels.interpret)
    return _gradients(kernels, operands, starts, results), results["done"]


def _backward_kernel(kernels: Kernels, length: int) -> Callable[..., None]:
    """Returns the backward kernel, whose loop carries the gradient of the state after step t, in parts.

    - `direct` came through the gates of step t + 1. What comes through its product is still missing: that product,
      d r_{t+1} W^T, is taken at the beginning of the loop's next turn.
    - `skipped` is the gradient of sequences that did not take step t + 1, whose state stayed as it was.
    - `d_initial` sums what goes to the initial state, from every step that was reset.
    """
    layout, gates, hidden = kernels.backward, kernels.gates.backward, kernels.hidden

    def kernel(block: Block, inputs: Any, outputs: Any) -> None:
        block.load_matrix(inputs["matrix"])
        gate_params = [_entries(block, x) for x in inputs["gate_params"]]
        d_last = [block.read(x, 0) for x in inputs["d_state"]]
        zeros = [block.full(0.0, x.dtype) for x in d_last]
        zero_operand = block.full(0.0, kernels.dtype)

        def through_product(direct, product):
            d_state = list(direct)
            for gate in range(layout.gates):
                # Part g of the operand is d r of gate g, which only the rows of that gate multiply.
                d_state[hidden] += product(gate, gate).astype(d_state[hidden].dtype)
            return d_state

        def added(totals, terms):
            return [total + term.astype(total.dtype) for total, term in zip(totals, terms)]

        def gate_gradients(d_new, reads):
            d_y = reads["d_ys"].astype(d_new[hidden].dtype)
            # Not masked by `valid`: `unroll` sets outputs of missing steps to zero outside, so that d_y is zero there.
            d_new = [x + d_y if leaf == hidden else x for leaf, x in enumerate(d_new)]
            before = [None if x is None else [x] for x in reads["befores"]]
            arguments = *gate_params, *before, *reads["zs"], reads["r"], *([x] for x in d_new)
            # One that is the same number everywhere is not in the layout that is written.
            gradients, followed = settled(gates(*arguments, like=zero_operand)), reads["followed"]
            return gradients if followed is None else zero_where_unused(gradients, d_new, followed, reads["lost"])

        def step(i, carry):
            direct, skipped, d_params, d_initial, later_resets, reads = carry
            t = length - 1 - i
            # Of publication i, which is d r of step t + 1: the numbers go up while time goes down.
            product = block.multiply(i)
            next_reads = _prefetched(block, inputs, jax.lax.max(t - 1, 0))
            d_state = through_product(direct, product)
            if d_initial is not None:  # where step t + 1 was reset, it started from the initial state
                d_initial = sums(d_initial, select(later_resets, d_state, zeros))
                d_state = select(later_resets, zeros, d_state)
            # After the select by resets: a step that was missing was not reset, and handed its state on.
            d_state = sums(d_state, skipped)
            d_new, skipped = d_state, zeros
            if reads["valid"] is not None:
                d_new = select(reads["valid"], d_state, zeros)
                skipped = select(reads["valid"], zeros, d_state)
            gradients = gate_gradients(d_new, reads)
            of_params, d_state_and_zs = gradients[: len(gate_params)], gradients[len(gate_params) :]
            d_params = [added(totals, terms) for totals, terms in zip(d_params, of_params)]
            direct = [tile for (tile,) in d_state_and_zs[: len(direct)]]
            for target, tiles in zip(outputs["d_zs"], d_state_and_zs[len(direct) :]):
                for n, tile in enumerate(tiles):
                    block.write(target, n, tile, t)
            # r is the last argument of the gates.
            d_r = [tile.astype(kernels.dtype) for tile in gradients[-1]]
            block.publish(i + 1, d_r, outputs["d_rs"], t)
            return settled((direct, skipped, d_params, d_initial, reads["resets"], next_reads))

        settled = functools.partial(jax.tree.map, block.settled)
        d_params = [[block.full(0.0, jnp.float32) for _ in tiles] for tiles in gate_params]
        # No step follows the last one: its product is of zeros, and nothing is reset after it.
        block.publish(0, [zero_operand] * layout.gates, outputs["d_rs"], length)
        masked = inputs["resets"] is not None
        # A mask is a tile of float32, as `arranged_mask` makes it.
        resets, d_initial = (block.full(0.0, jnp.float32), zeros) if masked else (None, None)
        reads = _prefetched(block, inputs, length - 1)
        # The gradient of the last state enters as if a step after it had been skipped.
        carry = settled((zeros, d_last, d_params, d_initial, resets, reads))
        direct, skipped, d_params, d_initial, _, _ = jax.lax.fori_loop(0, length, step, carry)
        for name, tiles in {"direct": direct, "skipped": skipped, "d_initial": d_initial}.items():
            for target, tile in zip(outputs[name] or (), tiles or ()):
                block.write(target, 0, tile)
        for target, tiles in zip(outputs["d_gate_params"], d_params):
            for n, tile in enumerate(tiles):
                block.write(target, n, tile)

    return kernel


def _lost(operands: Operands, starts: StepStarts) -> Bool[Array, "T B"] | None:
    """Returns which steps met or made a state that is not finite, which a later reset cuts off, as far as it is kept.

    What a step made is what the next one starts from; what a reset cuts off right after is not known, and then nothing
    comes back to it but from its output.
    """
    if operands.followed is None:
        return None
    kept = [starts.hs, *(jnp.concatenate([x, x[-1:]]) for x in starts.befores if x is not None)]
    finite = functools.reduce(jnp.logical_and, (jnp.isfinite(x).all(-1) for x in kept))
    return operands.followed & ~(finite[:-1] & finite[1:])


def _gradients(kernels: Kernels, operands: Operands, starts: StepStarts, results: dict[str, Any]) -> tuple[Any, ...]:
    """Returns the gradients: XLA sums over time and batch, and adds what came through the first step's product."""
    layout, dtype = kernels.backward, kernels.dtype
    einsum = functools.partial(jnp.einsum, preferred_element_type=jnp.float32)
    # [T, B, G, H], without the zeros at index T.
    d_rs = restored(results["d_rs"].swapaxes(2, 3), layout)[:-1]
    hs = starts.hs[:-1]
    if operands.followed is not None:  # there d r is zero, see `zero_where_unused`
        hs = jnp.where(operands.followed[..., None] & ~jnp.isfinite(hs), 0, hs)
    d_weight = einsum("tbk,tbgh->kgh", hs, d_rs).astype(operands.weight.dtype)
    # [B, n, H] each: the kernel has summed over time.
    by_sequence = [restored(x, layout) for x in results["d_gate_params"]]
    d_gate_params = [x.sum(0).astype(like.dtype) for x, like in zip(by_sequence, operands.gate_params)]
    d_state = [restored_single(x, layout) for x in results["direct"]]
    # The kernel has ended before the product of step 0, whose gradients belong to the first state.
    through_product = einsum("bgh,kgh->bk", d_rs[0], operands.weight.astype(dtype))
    d_state[kernels.hidden] += through_product.astype(d_state[kernels.hidden].dtype)
    d_initial = None
    if operands.resets is not None:
        # The kernel divides up a reset's gradient at the step before, which step 0 does not have.
        reset_first = operands.resets[0][:, None]
        later_resets = [restored_single(x, layout) for x in results["d_initial"]]
        d_initial = [x + jnp.where(reset_first, y, 0) for x, y in zip(later_resets, d_state)]
        d_state = [jnp.where(reset_first, 0, x) for x in d_state]
    if operands.valid is not None:
        # Last, since a step 0 that was missing was not reset.
        d_state = [x + restored_single(skipped, layout) for x, skipped in zip(d_state, results["skipped"])]
    d_zs = [d_rs] if kernels.gates.summed else [restored(x, layout) for x in results["d_zs"]]
    d_zs = [d_z.astype(z.dtype) for d_z, z in zip(d_zs, operands.zs)]
    return d_weight, d_gate_params, d_state, d_initial, d_zs


def _entries(block: Block, source: Any, *time: Any) -> Tiles:
    """Returns every entry n of an array ``[..., rows, n, blocks, groups, units]`` as a tile."""
    return [block.read(source, n, *time) for n in range(source.shape[-4])]


def _prefetched(block: Block, inputs: dict[str, Any], t: Any) -> dict[str, Any]:
    """Returns what step t reads; loaded one step early, it arrives while that step computes."""
    tiles: dict[str, Any] = {"zs": [_entries(block, x, t) for x in inputs["zs"]]}
    tiles["befores"] = [None if x is None else block.read(x, 0, t) for x in inputs.get("befores", ())]
    tiles["r"] = _entries(block, inputs["r"], t) if "r" in inputs else None
    for name in ("valid", "resets", "followed", "lost", "d_ys"):
        tiles[name] = None if inputs.get(name) is None else block.read(inputs[name], 0, t)
    return tiles
