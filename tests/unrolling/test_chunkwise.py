"""Chunks of any size give what single steps give, whatever is missing, reset or decays at once."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cells_under_test import close, inputs, parameters, same, some_state
from fixtures.thorough import main_of
from hypothesis import given, settings
from hypothesis import strategies as st

from rnnjax import (
    GRU,
    Association,
    Chunkwise,
    GatedDeltaNet,
    GatedLinearAttention,
    HiddenState,
    LearnedState,
    MemoryCell,
    Scan,
    Stack,
    choose_method,
    unroll,
)

B, T, I, H = 2, 7, 3, 4


@dataclasses.dataclass(frozen=True)
class Linear(MemoryCell):
    """Linear attention without a decay, of three keys and two values in each of two heads."""

    gate_count = 5

    def initial_state(self, batch_size, dtype=jnp.float32):
        return HiddenState(self.zeros(batch_size, (2, 3, 2), dtype))

    def association(self, params, zs):
        numbers = zs.reshape(*zs.shape[:-2], 2, -1)
        return Association(numbers[..., :3], numbers[..., 3:6], numbers[..., 6:8])


CELLS = {
    "linear attention": Linear(H, 2),
    "rows decay": LearnedState(GatedLinearAttention(H, 2, sharpness=0.3)),
    "gated delta rule": LearnedState(GatedDeltaNet(H, 2, negative=True)),
    "delta rule": GatedDeltaNet(H, 2, decays=False),
}


@functools.lru_cache
def compiled(cell, method, reverse):
    def loss(params, xs, state, options):
        ys, last = unroll(cell, params, xs, state, method=method, reverse=reverse, **options)
        return (jnp.sin(ys) * jnp.arange(ys.size, dtype=ys.dtype).reshape(ys.shape)).sum() + jnp.cos(last.h).sum(), (
            ys,
            last,
        )

    return jax.jit(jax.grad(loss, (0, 1, 2), has_aux=True))


flags = st.lists(st.lists(st.booleans(), min_size=T, max_size=T), min_size=B, max_size=B).map(np.array)


@pytest.mark.parametrize("name", main_of(CELLS, ("rows decay", "gated delta rule")))
@settings(max_examples=12, deadline=None)
@given(
    mask=flags,
    resets=flags,
    lengths=st.lists(st.integers(0, T), min_size=B, max_size=B),
    size=st.sampled_from([3, 64]),
)
def test_values_and_gradients_are_those_of_single_steps(name, mask, resets, lengths, size):
    cell, options = CELLS[name], {"mask": mask, "resets": resets, "lengths": np.array(lengths)}
    with jax.enable_x64(True):
        given = parameters(cell, dtype=float), inputs(B, T, I, dtype=float), some_state(cell, B, dtype=float)
        found, expected = (compiled(cell, method, True)(*given, options) for method in (Chunkwise(size), Scan()))
        close(found, expected, rtol=1e-9, atol=1e-9)


@dataclasses.dataclass(frozen=True)
class Forgetful(Linear):
    """Decays of which some leave nothing, and others all but nothing."""

    def association(self, params, zs):
        sums = zs.sum((-1, -2))[..., None, None]
        decays = jnp.where(sums > 1, -jnp.inf, jnp.where(sums < -1, -80.0, -0.1))
        return super().association(params, zs)._replace(log_decay=jnp.broadcast_to(decays, (*zs.shape[:-2], 2, 1)))


def test_sums_after_a_decay_that_leaves_nothing_are_exact():
    cell = Forgetful(H, 2)
    params, xs = parameters(cell), inputs(B, 40, I)
    found, expected = (compiled(cell, method, False)(params, xs, None, {}) for method in (Chunkwise(), Scan()))
    close(found[1], expected[1], rtol=1e-5, atol=1e-5)
    close(found[0], expected[0], rtol=1e-3, atol=5e-2)  # of numbers up to 10^4


@pytest.mark.parametrize("name", ["rows decay", "gated delta rule"])
def test_what_is_not_finite_before_a_reset_changes_nothing_after_it(name):
    cell, reset = CELLS[name], 4
    params, xs = parameters(cell), inputs(B, T, I).at[0, 1].set(jnp.nan).at[1, 2].set(3e38)
    resets = np.tile(np.arange(T) == reset, (B, 1))

    def loss(params, xs, options):
        ys, last = unroll(cell, params, xs, method=Chunkwise(), **options)
        return jnp.sin(ys[:, -T + reset :]).sum() + jnp.cos(last.h).sum(), ys

    (got, ys), (expected, _) = (
        jax.jit(jax.grad(loss, has_aux=True))(params, xs[:, start:], options)
        for start, options in ((0, {"resets": resets}), (reset, {}))
    )
    close(got, expected)
    assert np.isnan(ys[0, 1:reset]).all()
    assert np.isfinite(ys[:, reset:]).all()
    assert np.isfinite(ys[:, 0]).all()


def test_chunks_with_carried_state_are_the_whole_and_half_types_stay():
    cell = CELLS["gated delta rule"]
    params, xs = parameters(cell), inputs(B, T, I).astype(jnp.bfloat16)
    whole, last = unroll(cell, params, xs, method=Chunkwise(3))
    first, state = unroll(cell, params, xs[:, :4], method=Chunkwise(3))
    second, end = unroll(cell, params, xs[:, 4:], state, method=Chunkwise(3))
    assert (whole.dtype, last.h.dtype) == (jnp.bfloat16, jnp.float32)
    close(jnp.concatenate([first, second], 1).astype(float), whole.astype(float), rtol=2e-2, atol=2e-2)
    close(end, last, rtol=1e-4)


def test_it_is_what_memory_cells_take_by_default_and_others_do_not():
    assert choose_method(GatedDeltaNet(H), (T, B, I)) == Chunkwise()
    assert choose_method(GatedLinearAttention(H), (T, B, I), "gpu") == Chunkwise()
    cell = Stack((GRU(H), GatedDeltaNet(H)))
    with pytest.raises(
        ValueError, match=r"memory cells whose step is MemoryCell's, and GRU is not one here; use Fused\(\)"
    ):
        unroll(cell, cell.init(jax.random.key(0), I), jnp.ones((B, T, I)), method=Chunkwise())


@dataclasses.dataclass(frozen=True)
class Halved(GatedDeltaNet):
    """A step of its own, which no association tells of."""

    def advance(self, params, state, z):
        return jax.tree.map(lambda leaf: leaf / 2, super().advance(params, state, z))


@dataclasses.dataclass(frozen=True)
class Doubled(GatedLinearAttention):
    """Coefficients of its own, which the association above them does not tell of."""

    def coefficients(self, params, zs):
        a, b = super().coefficients(params, zs)
        return a, 2 * b


@pytest.mark.parametrize("cell", [Halved(H), Doubled(H)])
def test_a_cell_with_other_steps_than_its_association_says_is_not_served(cell):
    params, xs = parameters(cell), inputs(B, T, I)
    with pytest.raises(ValueError, match="is not one here"):
        unroll(cell, params, xs, method=Chunkwise())
    same(unroll(cell, params, xs), unroll(cell, params, xs, method=choose_method(cell, (T, B, I))))
    close(unroll(cell, params, xs), unroll(cell, params, xs, method=Scan()))
