"""What a cell of one's own does wrong is said in one sentence, with the cell's name, by whatever way it is unrolled."""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rnnjax
from rnnjax import Associative, Fused, HiddenState, Native, Newton, Scan, Static

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
class Linear(rnnjax.LinearCell):
    gate_count = 3
    ab: Any = None

    def coefficients(self, params, zs):
        return self.ab(zs)


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
        end = r"; return a HiddenState of such shapes(\n|$)"
        with pytest.raises(TypeError, match=start + r"\[.*4\]" + end):
            _unrolled(kind(4, new=_an_array), method=method, resets=resets)
        with pytest.raises(TypeError, match=start + r"HiddenState\(h=\[.*2, 4\]\)" + end):
            _unrolled(kind(4, new=_with_gates), method=method, resets=resets)


@pytest.mark.parametrize("method", [Scan(), Static()])
def test_a_state_of_any_cell_must_keep_its_entries(method):
    with pytest.raises(
        TypeError,
        match=r"^Counting must make .*, \{'h': \[2, 3\], 'steps': \[2\]\}, got \{'h': \[2, 3\]\}; return a dict of",
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


def _dict_of_zeros(self, batch_size, dtype=jnp.float32):
    return {"h": self.zeros(batch_size, self.hidden_size, dtype)}


@pytest.mark.parametrize("method", [Fused(), Scan(), Newton(), Associative(), None])
@pytest.mark.parametrize("kind", [Gated, Diagonal])
def test_a_state_without_h_is_refused_where_h_is_read(kind, method):
    cell = type(kind.__name__, (kind,), {"initial_state": _dict_of_zeros})(4, new=lambda sums: {"h": sums[..., 0, :]})
    sentence = (
        rf"^{kind.__name__} must have a state with a field h, got \{{'h': \[2, 4\]\}}; have initial_state return a "
    )
    with pytest.raises(TypeError, match=sentence):
        _unrolled(cell, method=method)
    with pytest.raises(TypeError, match=sentence):
        cell(cell.init(jax.random.key(0), 3), cell.initial_state(2), XS[:, 0])


@pytest.mark.parametrize("method", [Associative(), Scan()])
def test_a_linear_cell_whose_state_has_no_h_must_say_how_it_is_read(method):
    cell = type("Linear", (Linear,), {"initial_state": _dict_of_zeros})(4, ab=lambda zs: (zs[..., 0, :], zs[..., 1, :]))
    with pytest.raises(TypeError, match=r"^Linear must have a state with a field h, .* or override read(\n|$)"):
        _unrolled(cell, method=method)


@pytest.mark.parametrize(
    ("ab", "kind", "sentence"),
    [
        (lambda zs: zs[..., 0, :], TypeError, r"a pair \(a, b\), for h' = a \* h \+ b, got \[.*2, 4\]"),
        (lambda zs: (zs[..., 0, :],) * 3, TypeError, r"a pair \(a, b\), .*, got \(\[.*4\], \[.*4\], \[.*4\]\)"),
        (lambda zs: None, TypeError, r"a pair \(a, b\), .*, got None"),
        (lambda zs: (zs, zs[..., 0, :]), ValueError, r"a that broadcasts to .*h=\[2, 4\]\).*; take one gate"),
        (
            lambda zs: (zs[..., 0, :], zs[..., 1, :2]),
            ValueError,
            r"b that broadcasts to .*, got HiddenState\(.*2, 2\]\)",
        ),
        (lambda zs: (zs[..., 0, :], {"c": zs[..., 1, :]}), TypeError, r"b as one array, or built as .*, got \{'c': "),
    ],
)
def test_coefficients_of_another_number_structure_or_shape_are_refused(ab, kind, sentence):
    cell = Linear(4, ab=ab)
    for method in (Associative(), Associative("associative"), Scan(), None):
        with pytest.raises(kind, match=r"^Linear\.coefficients must return " + sentence):
            _unrolled(cell, method=method)
    with pytest.raises(kind, match=r"^Linear\.coefficients must return " + sentence):
        cell(cell.init(jax.random.key(0), 3), cell.initial_state(2), XS[:, 0])


@dataclasses.dataclass(frozen=True)
class TwoStates(Linear):
    def initial_state(self, batch_size, dtype=jnp.float32):
        h = self.zeros(batch_size, self.hidden_size, dtype)
        return {"h": h, "deep": (h,)}

    def read(self, params, state, z):
        return state["h"] + state["deep"][0]


def test_coefficients_in_a_tree_may_be_numbers_too():
    cell = TwoStates(4, ab=lambda zs: ({"h": 0.5, "deep": (0.5,)}, {"h": zs[..., 0, :], "deep": (zs[..., 1, :],)}))
    np.testing.assert_allclose(_unrolled(cell, method=Associative())[0], _unrolled(cell, method=Scan())[0], rtol=1e-6)


def test_a_coefficient_may_be_a_number_of_python_or_numpy():
    as_array = Linear(4, ab=lambda zs: (jnp.full((4,), 0.5), zs[..., 1, :]))
    wanted = _unrolled(as_array, method=Scan())[0]
    for half in (0.5, np.float32(0.5), np.full(4, 0.5, np.float32)):
        for method in (Associative(), Scan()):
            ys = _unrolled(Linear(4, ab=lambda zs, half=half: (half, zs[..., 1, :])), method=method)[0]
            np.testing.assert_allclose(ys, wanted, rtol=1e-6)


class WiderOutputs(Gated):
    output_size = property(lambda self: self.hidden_size + 1)


def test_a_recurrent_weight_for_other_units_than_those_of_the_state_is_refused():
    with pytest.raises(
        ValueError, match=r"^WiderOutputs has a recurrent weight for 5 units, .* whose h has 4; have h be"
    ):
        _unrolled(WiderOutputs(4, new=lambda sums: HiddenState(sums[..., 0, :])))


def _reads_too_far(sums):
    return HiddenState(sums[..., 2, :])


@pytest.mark.parametrize(
    ("cell", "methods"),
    [
        (Gated(4, new=_reads_too_far), (Fused(), Scan(), Static(), Native(), None)),
        (Diagonal(4, new=_reads_too_far), (Newton(), Scan(), Native(), None)),
        (Linear(4, ab=lambda zs: (zs[..., 0, :], zs[..., 3, :])), (Associative(), Scan(), Native(), None)),
    ],
)
def test_a_gate_beyond_gate_count_is_refused_not_taken_for_the_last_one(cell, methods):
    for method in methods:
        with pytest.raises(
            ValueError, match=r"reads outside of its arrays \(index \d is out of .*; set gate_count, which"
        ):
            _unrolled(cell, method=method)


def test_equations_that_numpy_arrays_do_not_have_are_not_refused():
    updated = Gated(4, new=lambda sums: HiddenState(jnp.tanh(sums.at[..., 0, :].add(1.0)[..., 0, :])))
    assert np.isfinite(_unrolled(updated)[0]).all()


class Memory(NamedTuple):
    c: Any


class OfItsOwnParts(Diagonal):
    """A diagonal cell that advances by its own parameters and state, and never calls `gates`."""

    def init(self, key, input_size):
        return {"w": jnp.ones((input_size, self.hidden_size)), "keep": jnp.full(self.hidden_size, 0.5)}

    def initial_state(self, batch_size, dtype=jnp.float32):
        return Memory(jnp.zeros((batch_size, self.hidden_size), dtype))

    def inputs(self, params, xs, *, key=None):
        return xs @ params["w"]

    def advance(self, params, state, z):
        return Memory(params["keep"] * state.c + z)

    def read(self, params, state, z):
        return state.c


def test_a_diagonal_cell_that_advances_by_itself_needs_neither_gates_nor_w_h_nor_h():
    np.testing.assert_allclose(_unrolled(OfItsOwnParts(1))[0][0, :, 0], [3, 4.5, 5.25, 5.625, 5.8125])


@pytest.mark.parametrize("base", [Gated, Diagonal, Linear])
@pytest.mark.parametrize(("count", "kind"), [(0, ValueError), (None, TypeError)])
def test_a_number_of_gates_is_a_whole_number_from_one_on(base, count, kind):
    with pytest.raises(kind, match=r"^gate_count must be "):
        type("Own", (base,), {"gate_count": count})(4).init(jax.random.key(0), 3)


@pytest.mark.parametrize(
    ("cell", "method", "instead"),
    [
        (rnnjax.MinGRU(4), Fused(), r"Associative\(\) or Scan\(\)"),
        (rnnjax.ParaGRU(4), Fused(), r"Newton\(\) or Scan\(\)"),
        (rnnjax.GRU(4), Associative(), r"Fused\(\) or Scan\(\)"),
        (rnnjax.MinGRU(4), rnnjax.Pallas(interpret=True), r"Associative\(\) or Scan\(\)"),
        (rnnjax.MinGRU(4), rnnjax.CuDNN(), r"Associative\(\) or Scan\(\)"),
        (Counting(lambda state: state), Fused(), r"Scan\(\)"),
    ],
)
def test_a_method_that_does_not_serve_a_cell_names_those_that_do(cell, method, instead):
    with pytest.raises(ValueError, match=rf"; use {instead}(, or Auto|\n|$)"):
        _unrolled(cell, method=method)


@pytest.mark.parametrize("value", [[1.0], jnp.ones(4)])
@pytest.mark.parametrize("wrap", [lambda cell: cell, lambda cell: rnnjax.Stack((rnnjax.Residual(cell),))])
def test_cells_that_cannot_be_hashed_are_refused(value, wrap):
    cell = wrap(Gated(3, new=value))
    with pytest.raises(
        TypeError, match=r"cell must be hashable, as .* \(unhashable type: .*\); make it a @dataclasses"
    ):
        _unrolled(cell)


_PER_UNIT = np.linspace(0.5, 1, 4, dtype=np.float32)


def _looped(x):
    return jax.lax.while_loop(lambda carry: carry[0] < 3, lambda carry: (carry[0] + 1, jnp.tanh(carry[1])), (0, x))[1]


@pytest.mark.parametrize("equation", [lambda x: x * _PER_UNIT, _looped])
@pytest.mark.parametrize(
    ("kind", "method"), [(Gated, Native()), (Diagonal, Native()), (Gated, rnnjax.Pallas(interpret=True))]
)
def test_kernels_say_that_a_step_cannot_be_traced_for_one_unit_and_others_serve_it(kind, method, equation):
    cell = kind(4, new=lambda sums: HiddenState(equation(sums[..., 0, :])))
    with pytest.raises(
        ValueError, match=r"are traced for one hidden unit, and that fails: .*; use \w+\(\) or Scan\(\)"
    ):
        _unrolled(cell, method=method)
    np.testing.assert_allclose(_unrolled(cell)[0], _unrolled(cell, method=Scan())[0], rtol=1e-4, atol=1e-6)


def test_a_cell_with_inputs_of_its_own_is_not_told_of_gate_count():
    class OwnInputs(Linear):
        def inputs(self, params, xs, *, key=None):
            return xs[..., :1, None]

    with pytest.raises(ValueError, match=r"; have inputs make the number of gates that it reads(\n|$)"):
        _unrolled(OwnInputs(4, ab=lambda zs: (zs[..., 0, :], zs[..., 1, :])))
