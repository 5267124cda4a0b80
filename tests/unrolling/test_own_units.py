"""Methods that take units, steps or sequences by themselves refuse a user's cell that gives other numbers then."""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnnjax import (
    Associative,
    BasicRNN,
    DiagonalCell,
    GatedCell,
    HiddenState,
    LinearCell,
    Native,
    Newton,
    Pallas,
    Zoneout,
    check_cell,
    unroll,
)

XS = jnp.asarray(np.random.default_rng(0).standard_normal((2, 3, 3)), jnp.float32)
H = 4


@dataclasses.dataclass(frozen=True)
class Gated(GatedCell):
    of_sum: Any = jnp.tanh
    by_size: bool = False

    def gates(self, params, state, z, r):
        total = (z + r)[..., 0, :]
        return HiddenState(self.of_sum(total / self.hidden_size if self.by_size else total))


@dataclasses.dataclass(frozen=True)
class Diagonal(DiagonalCell):
    of_sum: Any = jnp.tanh

    def gates(self, params, state, z, r):
        return HiddenState(self.of_sum((z + r)[..., 0, :]))


@dataclasses.dataclass(frozen=True)
class Linear(LinearCell):
    of_sum: Any = jnp.tanh

    def coefficients(self, params, zs):
        return jax.nn.sigmoid(self.of_sum(zs[..., 0, :])), zs[..., 0, :]


def _numbered(x):
    return jnp.tanh(x * jnp.arange(x.shape[-1], dtype=x.dtype))


def _by_place(x):
    return jnp.tanh(x * jnp.arange(1, 1 + x.size, dtype=x.dtype).reshape(x.shape))


def _last_of_all(x):
    return jnp.tanh(x + x[..., -1:])


def _turned(x):
    return jnp.tanh(x[..., ::-1])


def _random(x):
    return jnp.tanh(x) * jax.random.uniform(jax.random.key(0), x.shape)


@pytest.mark.parametrize(
    ("cell", "method", "sentence"),
    [
        *((Gated(H, of_sum=f), Pallas(interpret=True), "each hidden unit") for f in (jax.nn.softmax, _numbered)),
        (Gated(H, by_size=True), Pallas(interpret=True), "hidden_size = 1"),
        (BasicRNN(H, activation=jax.nn.softmax), Pallas(interpret=True), "each hidden unit"),
        *((Diagonal(H, of_sum=f), Newton(), "each hidden unit") for f in (_last_of_all, _turned)),
        *((Diagonal(H, of_sum=f), Newton(), "many steps at once") for f in (_by_place, _random)),
        (Gated(H, of_sum=_by_place), Newton(), "each sequence"),
        (Zoneout(Gated(H, of_sum=_by_place), rate=0.1), Newton(), "each sequence"),
        *((Linear(H, of_sum=f), Associative(), "many steps at once") for f in (_by_place, lambda x: jnp.cumsum(x, 0))),
        (Gated(H, of_sum=_random), Native(), "random numbers"),
        (Gated(H, of_sum=_random), Pallas(interpret=True), "random numbers"),
    ],
)
def test_a_method_refuses_a_cell_that_is_not_what_it_relies_on(cell, method, sentence):
    with pytest.raises(ValueError, match=rf"{sentence}.*Scan\(\)(\n|$)"):
        unroll(cell, cell.init(jax.random.key(0), 3), XS, method=method)


@dataclasses.dataclass(frozen=True)
class Even(Gated):
    def __post_init__(self):
        assert self.hidden_size % 2 == 0, "an even number of units"


def _watched(x):
    jax.debug.callback(lambda _: None, x)
    return jnp.tanh(x)


@pytest.mark.parametrize("method", [Native(), Pallas(interpret=True)])
def test_kernels_say_what_they_cannot_trace(method):
    for cell, sentence in (
        (Even(H), "an even number of units"),
        (Gated(H, of_sum=_watched), "gates use debug_callback"),
    ):
        with pytest.raises(ValueError, match=sentence):
            unroll(cell, cell.init(jax.random.key(0), 3), XS, method=method)


def test_what_a_step_tells_the_host_is_of_real_numbers_alone():
    told = []

    def telling(x):
        jax.debug.callback(lambda x: told.append(np.asarray(x)), x)
        return x

    cell = Linear(H, of_sum=telling)
    unroll(cell, cell.init(jax.random.key(0), 3), jnp.zeros_like(XS), method=Associative())
    jax.effects_barrier()
    assert told
    assert not any(x.any() for x in told)


class Counted(NamedTuple):
    h: Any
    n: Any


@dataclasses.dataclass(frozen=True)
class Counting(LinearCell):
    def initial_state(self, batch_size, dtype=jnp.float32):
        h = self.zeros(batch_size, self.hidden_size, dtype)
        return Counted(h, jnp.zeros(h.shape, jnp.int32))

    def coefficients(self, params, zs):
        return Counted(0.5, 1), Counted(zs[..., 0, :], jnp.ones_like(zs[..., 0, :], jnp.int32))


def test_a_linear_cell_that_counts_is_served_by_the_default_method():
    cell = Counting(H)
    params = cell.init(jax.random.key(0), 3)
    _, state = unroll(cell, params, XS)
    np.testing.assert_array_equal(state.n, 3)
    with pytest.raises(ValueError, match=r"^Associative\(\) takes states of floating-point .* has float32, int32; use"):
        unroll(cell, params, XS, method=Associative())


@pytest.mark.parametrize(
    ("cell", "methods"),
    [
        (Gated(H), (Pallas(interpret=True), Newton())),
        (Diagonal(H), (Newton(),)),
        (Diagonal(H, of_sum=_numbered), (Newton(),)),
        (Linear(H, of_sum=_turned), (Associative(), Newton())),
    ],
)
def test_a_cell_that_is_what_they_rely_on_is_served(cell, methods):
    params = cell.init(jax.random.key(0), 3)
    for method in methods:
        np.testing.assert_allclose(unroll(cell, params, XS, method=method)[0], unroll(cell, params, XS)[0], atol=1e-5)


def test_the_default_method_takes_the_steps_of_such_a_linear_cell_in_turn():
    cell = Linear(H, of_sum=lambda x: jnp.cumsum(x, 0))
    params, xs = cell.init(jax.random.key(0), 3), XS[:1]
    state, ys = cell.initial_state(1), []
    for t in range(xs.shape[1]):
        state, y = cell(params, state, xs[:, t])
        ys.append(y)
    np.testing.assert_allclose(unroll(cell, params, xs)[0], jnp.stack(ys, 1), rtol=1e-5)


def test_check_cell_says_that_units_of_a_diagonal_cell_read_each_other():
    with pytest.raises(ValueError, match=r"^Diagonal is a DiagonalCell, and the new state of a hidden unit follows"):
        check_cell(Diagonal(H, of_sum=_last_of_all), 3)
