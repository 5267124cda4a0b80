"""What a cell of one's own does wrong is said in one sentence, with the cell's name, by whatever way it is unrolled."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import pytest

import rnnjax
from rnnjax import Fused, HiddenState, Newton, Scan, Static

XS = jnp.ones((2, 5, 3))


@dataclasses.dataclass(frozen=True)
class Gated(rnnjax.GatedCell):
    gate_count = 2
    new: Any = None

    def gates(self, params, state, z, r):
        return self.new(z + r)


@dataclasses.dataclass(frozen=True)
class Diagonal(rnnjax.DiagonalCell):
    gate_count = 2
    new: Any = None

    def gates(self, params, state, z, r):
        return self.new(z + r)


@dataclasses.dataclass(frozen=True)
class Counting(rnnjax.Cell):
    """Its state is a dict with a whole number in it; what a step makes of the state is `new`."""

    new: Any
    output_size = property(lambda self: 3)

    def init(self, key, input_size):
        return {"w": jnp.ones((input_size, 3), jnp.float32)}

    def initial_state(self, batch_size, dtype=jnp.float32):
        return {"h": jnp.zeros((batch_size, 3), dtype), "steps": jnp.zeros((batch_size,), jnp.int32)}

    def inputs(self, params, xs, *, key=None):
        return xs.astype(jnp.float32) @ params["w"]

    def step(self, params, state, z):
        h = jnp.tanh(state["h"].astype(jnp.float32) + z)
        return self.new({"h": h, "steps": state["steps"] + 1}), h


def _unrolled(cell, xs=XS, **options):
    return rnnjax.unroll(cell, cell.init(jax.random.key(0), 3), xs, **options)


def _an_array(sums):
    return sums[..., 0, :]


def _with_gates(sums):
    return HiddenState(sums)


@pytest.mark.parametrize("resets", [None, jnp.ones((2, 5), bool)])
@pytest.mark.parametrize(("kind", "methods"), [(Gated, (Fused(), Scan(), Static())), (Diagonal, (Scan(), Newton()))])
def test_a_new_state_of_another_structure_or_shape_is_refused(kind, methods, resets):
    start = rf"^{kind.__name__} must make a new state that is built as the old one, HiddenState\(h=\[.*4\]\), got "
    for method in methods:
        with pytest.raises(TypeError, match=start + r"\[.*4\](\n|$)"):
            _unrolled(kind(4, new=_an_array), method=method, resets=resets)
        with pytest.raises(TypeError, match=start + r"HiddenState\(h=\[.*2, 4\]\)(\n|$)"):
            _unrolled(kind(4, new=_with_gates), method=method, resets=resets)


@pytest.mark.parametrize("method", [Scan(), Static()])
def test_a_state_of_any_cell_must_keep_its_entries(method):
    with pytest.raises(
        TypeError, match=r"^Counting must make .*, \{'h': \[2, 3\], 'steps': \[2\]\}, got \{'h': \[2, 3\]\}(\n|$)"
    ):
        _unrolled(Counting(lambda state: {"h": state["h"]}), method=method)


@pytest.mark.parametrize("shape", [(5, 3), (4, 2, 5, 3)])
def test_an_initial_state_of_a_whole_number_needs_one_batch_axis(shape):
    with pytest.raises(
        TypeError, match=r"^no initial state of Counting for the batch axes \[.*\] \(Shapes must .* tuple"
    ):
        _unrolled(Counting(lambda state: state), jnp.ones(shape))


def test_a_state_with_whole_numbers_is_not_learned():
    with pytest.raises(TypeError, match="floating-point numbers, and that of Counting has float32, int32; leave"):
        rnnjax.LearnedState(Counting(lambda state: state)).init(jax.random.key(0), 3)


@pytest.mark.parametrize("method", [Scan(), Static()])
def test_a_state_of_any_cell_must_keep_its_types(method):
    with pytest.raises(
        TypeError, match=r"^Counting must make a new state of the types .*, got float32 for bfloat16; cast"
    ):
        _unrolled(Counting(lambda state: state), XS.astype(jnp.bfloat16), method=method)
    ys, state = _unrolled(Counting(lambda state: state), method=method)
    assert (ys.dtype, state["steps"].tolist()) == (jnp.float32, [5, 5])


class Scaled(rnnjax.GatedCell):
    """Not a dataclass itself, and so compared by the size alone."""

    gate_count = 1

    def __init__(self, hidden_size, scale):
        super().__init__(hidden_size)
        self.scale = scale

    def gates(self, params, state, z, r):
        return HiddenState(self.scale * _an_array(z + r))


class Compared(Scaled):
    """Compares what it sets."""

    def __eq__(self, other):
        return type(other) is Compared and vars(self) == vars(other)

    def __hash__(self):
        return hash((self.hidden_size, self.scale))


def test_attributes_that_would_not_tell_cells_apart_are_refused():
    with pytest.raises(TypeError, match=r"Scaled cannot set scale, .*dataclass\(frozen=True\) with scale as a field"):
        Scaled(4, 2.0)
    one, other = Compared(4, 1.0), Compared(4, 2.0)
    params, xs = one.init(jax.random.key(0), 3), XS[:, :1]
    assert jnp.array_equal(2 * rnnjax.unroll(one, params, xs)[0], rnnjax.unroll(other, params, xs)[0])


@pytest.mark.parametrize("value", [[1.0], jnp.ones(4)])
@pytest.mark.parametrize("wrap", [lambda cell: cell, lambda cell: rnnjax.Stack((rnnjax.Residual(cell),))])
def test_cells_that_cannot_be_hashed_are_refused(value, wrap):
    cell = wrap(Gated(3, new=value))
    with pytest.raises(
        TypeError, match=r"cell must be hashable, as .* \(unhashable type: .*\); make it a @dataclasses"
    ):
        _unrolled(cell)
