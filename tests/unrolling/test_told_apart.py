"""Cells and methods that programs are compiled for are told apart by all that they have, or refused."""

import dataclasses
import functools
from typing import Any, Generic, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rnnjax
from rnnjax import GatedCell, HiddenState, Residual, Scan, Sessions, Stack, unroll

XS = jnp.ones((2, 3, 4))
REFUSED = r"^objects of \w+ that differ in scale alone are equal, and the program .*; make scale a field"


class Scaled(GatedCell):
    """A cell whose states are multiplied by its `scale`, which subclasses say in their ways."""

    scale: Any

    def gates(self, params, state, z, r):
        return HiddenState(self.scale * jnp.tanh(z + r)[..., 0, :])


@dataclasses.dataclass(frozen=True)
class BesideItsFields(Scaled):
    def __post_init__(self):
        object.__setattr__(self, "scale", 2.0)


class Undecorated(BesideItsFields):
    pass


class InAPostInit(Scaled):
    def __post_init__(self):
        self.scale = 2.0


class InAnInit(Scaled):
    def __init__(self, hidden_size):
        super().__init__(hidden_size)
        object.__setattr__(self, "scale", 2.0)


@dataclasses.dataclass(frozen=True)
class NotCompared(Scaled):
    scale: float = dataclasses.field(default=2.0, compare=False)


@dataclasses.dataclass(frozen=True, eq=False)
class ComparedByItsBase(Scaled):
    scale: float = 2.0


class ComparesLess(Scaled):
    scale = 2.0

    def __init__(self, hidden_size):
        super().__init__(hidden_size)
        vars(self)["scale"] = 2.0

    def __eq__(self, other):
        return type(other) is type(self) and {**vars(self), "scale": 0} == {**vars(other), "scale": 0}

    __hash__ = GatedCell.__hash__


_UNKNOWN = (BesideItsFields, Undecorated, InAPostInit, InAnInit, NotCompared, ComparedByItsBase, ComparesLess)


@pytest.mark.parametrize("kind", _UNKNOWN)
def test_a_cell_with_an_attribute_that_its_comparison_does_not_know_is_refused(kind):
    with pytest.raises(TypeError, match=REFUSED):
        unroll(kind(4), kind(4).init(jax.random.key(0), 4), XS)


def _in_a_session(sessions):
    return sessions.step({sessions.open(): np.ones(4, np.float32)})


@pytest.mark.parametrize(
    "use",
    [
        lambda cell, params: unroll(Stack((Residual(cell),)), (params,), XS),
        lambda cell, params: cell(params, cell.initial_state(2), XS[:, 0]),
        lambda cell, params: rnnjax.bidirectional(cell, cell, (params, params), XS),
        lambda cell, params: _in_a_session(Sessions(cell, params, slots=1)),
    ],
    ids=["inside of others", "one step", "both directions", "sessions"],
)
def test_such_a_cell_is_refused_however_it_is_used(use):
    with pytest.raises(TypeError, match=REFUSED):
        use(NotCompared(4), NotCompared(4).init(jax.random.key(0), 4))


@dataclasses.dataclass(frozen=True)
class Times(Scan):
    scale: float = dataclasses.field(default=2.0, compare=False)


@dataclasses.dataclass(frozen=True)
class Given(Scan):
    values: Any = ()


def test_a_method_with_an_attribute_that_its_comparison_does_not_know_is_refused():
    cell = rnnjax.GRU(4)
    for method in (Times(), Given(values=(("key", Times()),))):
        with pytest.raises(TypeError, match=REFUSED):
            unroll(cell, cell.init(jax.random.key(0), 4), XS, method=method)
    with pytest.raises(TypeError, match=r"^method must be hashable, .* Given is not \(unhashable type: 'list'\); make"):
        unroll(cell, cell.init(jax.random.key(0), 4), XS, method=Given(values=[]))


@dataclasses.dataclass(frozen=True)
class OfItsFields(Scaled):
    half: float = 1.0
    kept: float = dataclasses.field(init=False, default=0.0)

    def __post_init__(self):
        object.__setattr__(self, "kept", self.half)

    @functools.cached_property
    def scale(self):
        return np.full(4, self.half + self.kept, np.float32)


class Compares(Scaled):
    """No dataclass, but its comparison knows all that it has, an array included."""

    def __init__(self, half):
        super().__init__(4)
        self.scale = np.full(4, 2 * half, np.float32)

    def __eq__(self, other):
        alike = {**vars(self), "scale": None} == {**vars(other), "scale": None}
        return type(other) is type(self) and alike and np.array_equal(self.scale, other.scale)

    def __hash__(self):
        return hash(self.scale.tobytes())


@dataclasses.dataclass(frozen=True)
class NotHashed(Scaled):
    scale: Any = dataclasses.field(default=2.0, hash=False)


@pytest.mark.parametrize(
    "kind",
    [
        lambda half: OfItsFields(4, half=half),
        Compares,
        lambda half: NotHashed(4, scale=2 * half),
    ],
    ids=["from its fields", "a comparison of its own", "not hashed"],
)
def test_attributes_that_follow_from_fields_or_are_compared_give_each_cell_its_own_program(kind):
    cells = [kind(1.0), kind(2.0), kind(1.0)]
    params = cells[0].init(jax.random.key(0), 4)
    first, doubled, again = (unroll(cell, params, XS[:, :1])[0] for cell in cells)
    np.testing.assert_array_equal(2 * first, doubled)
    np.testing.assert_array_equal(first, again)


@dataclasses.dataclass(unsafe_hash=True)
class Thawed(rnnjax.Cell):
    size: int
    output_size = property(lambda self: self.size)
    init = initial_state = inputs = lambda self, *args, **options: None


def test_a_class_without_fields_of_its_own_below_a_dataclass_that_is_not_frozen_can_be_made():
    kind = type("Below", (Thawed,), {})
    assert kind(4) == kind(4) != kind(5)


@dataclasses.dataclass(frozen=True)
class KeepsWhatJaxComputes(Scaled):
    @functools.cached_property
    def scale(self):
        return jnp.full(4, 2.0)


class StepKeepsWhatJaxComputes(KeepsWhatJaxComputes):
    def step(self, params, state, z):
        state, y = super().step(params, state, z)
        return state, self.scale * y


def test_arrays_and_traced_values_that_a_cell_holds_are_refused():
    params = NotHashed(4).init(jax.random.key(0), 4)
    refused = r"^\w+ holds in scale what cannot be compared \(.*\); pass it as a parameter, or, if it is a constant, "
    for scale in (np.ones(4, np.float32), jnp.ones(4)):
        with pytest.raises(TypeError, match=refused):
            unroll(NotHashed(4, scale=scale), params, XS)
    unroll(NotHashed(4, scale=1.0), params, XS)
    traced = r"^\w+ holds in scale a value that is being traced, .*; pass it as a parameter"
    with pytest.raises(TypeError, match=traced):  # a number that is traced is equal to the one of before
        jax.grad(lambda scale: unroll(NotHashed(4, scale=scale), params, XS)[0].sum())(1.0)
    with pytest.raises(TypeError, match=traced):
        unroll(KeepsWhatJaxComputes(4), params, XS)
    cell = StepKeepsWhatJaxComputes(4)
    unroll(cell, params, XS)
    with pytest.raises(TypeError, match=traced):
        unroll(cell, params, XS)


NO: Any = "no"


@pytest.mark.parametrize(
    ("cell", "method", "field"),
    [
        (rnnjax.LSTM(3, peephole=NO), None, "peephole of LSTM"),
        (Stack([rnnjax.Dropout(rnnjax.GRU(3), input_rate=0.1, variational=NO)]), None, "variational of Dropout"),
        (rnnjax.MinGRU(3), rnnjax.Associative(interpret=NO), "interpret of Associative"),
    ],
)
def test_a_field_that_is_true_or_false_is_refused_where_it_is_a_text(cell, method, field):
    params = cell.init(jax.random.key(0), 4)
    with pytest.raises(TypeError, match=f"^{field} must be True or False, got 'no'$"):
        unroll(cell, params, XS, method=method)


Size = TypeVar("Size")


class Generically(GatedCell, Generic[Size]):
    """A class that typing writes `__orig_class__` on, where it can."""

    gate_count = 1

    def __init__(self, hidden_size):
        object.__setattr__(self, "hidden_size", hidden_size)

    def gates(self, params, state, z, r):
        return HiddenState(jnp.tanh(z + r)[..., 0, :])


@dataclasses.dataclass(frozen=True)
class WithOptions(Scaled):
    scale: Any = dataclasses.field(default_factory=lambda: {"by": 2.0}, hash=False)

    def gates(self, params, state, z, r):
        return HiddenState(self.scale["by"] * jnp.tanh(z + r)[..., 0, :])


@pytest.mark.parametrize("cell", [Generically[int](3), WithOptions(3)], ids=["generic", "unhashed options"])
def test_generic_classes_and_fields_that_are_compared_but_not_hashed_are_taken(cell):
    ys, _ = unroll(cell, cell.init(jax.random.key(0), 4), XS)
    assert ys.shape == (2, 3, 3)


@dataclasses.dataclass(frozen=True)
class KeptWhileTraced(Scaled):
    @functools.cached_property
    def scale(self):
        return {"by": jnp.arange(3.0)}

    def gates(self, params, state, z, r):
        return HiddenState(self.scale["by"] * jnp.tanh(z + r)[..., 0, :])


def test_what_was_computed_while_a_program_was_traced_is_named():
    cell = KeptWhileTraced(3)
    params = cell.init(jax.random.key(0), 4)
    refused = "^KeptWhileTraced holds in scale a value that is being traced, or was when it was computed; pass it as"
    with pytest.raises(TypeError, match=refused):
        unroll(cell, params, XS)
