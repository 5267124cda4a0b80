"""How kernels are laid out: by arithmetic, with the limits of an H100."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rnnjax.unrolling.kernels.layout import MULTIPROCESSORS, SHARED_MEMORY, layout, most_units


@given(
    gates=st.integers(1, 6),
    itemsize=st.sampled_from([2, 4]),
    batch=st.integers(1, 400),
    hidden=st.integers(1, 1500),
    backward=st.booleans(),
)
def test_a_layout_has_room_for_everything_and_no_block_waits_for_one_that_cannot_run(
    gates, itemsize, batch, hidden, backward
):
    p = layout(gates, gates if backward else 1, itemsize, batch, hidden)
    if p is None:
        return
    assert p.shared_bytes <= SHARED_MEMORY
    assert p.tiles * p.rows >= batch > (p.tiles - 1) * p.rows
    assert p.width >= hidden
    assert p.blocks == 1 or p.tiles * p.blocks <= MULTIPROCESSORS
    assert p.columns % 8 == p.units % 16 == p.matrix_rows % 64 == 0
    assert p.matrix_rows >= gates * p.units


@pytest.mark.parametrize("backward", [False, True])
def test_small_recurrences_fit_one_block_and_large_ones_are_spread(backward):
    blocks = [layout(4, 4 if backward else 1, 2, 16, hidden).blocks for hidden in (48, 128, 768)]
    assert blocks == [1, 1, 48]


def test_shared_memory_is_what_the_weight_the_operand_and_the_product_take():
    p = layout(4, 1, 2, 16, 128)
    assert (p.groups, p.units, p.rows, p.slots) == (4, 32, 8, 2)
    weight, operand, product = 4 * 128 * 128 * 2, 2 * 8 * 128 * 2, 4 * 8 * 128 * 4
    assert p.shared_bytes - 1024 == weight + operand + product


def test_the_widest_layout_is_one_and_the_next_is_not():
    widest = most_units(4, 4, 2, 16)
    assert layout(4, 4, 2, 16, widest) is not None
    assert layout(4, 4, 2, 16, widest + 16) is None
    assert most_units(4, 1, 2, 16, split=False) < widest
