"""Cells whose functions read a value that is being traced and is none of their arguments."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnnjax import (
    Associative,
    DiagonalCell,
    Fused,
    GatedCell,
    HiddenState,
    LinearCell,
    Native,
    Newton,
    Pallas,
    Scan,
    Static,
    unroll,
)

XS = jnp.asarray(np.random.default_rng(0).standard_normal((2, 5, 3)), jnp.float32)
RESETS = {"resets": np.arange(5) == np.array([[2], [3]])}


@dataclasses.dataclass(frozen=True)
class Gated(GatedCell):
    gate_count = 2
    of_sum: Any = None
    of_inputs: Any = None

    def gate_inputs(self, params, zs):
        return super().gate_inputs(params, zs) if self.of_inputs is None else self.of_inputs(zs)

    def gates(self, params, state, z, r):
        total = (z + 2 * r).sum(-2)
        return HiddenState(jnp.tanh(total if self.of_sum is None else self.of_sum(total)))


@dataclasses.dataclass(frozen=True)
class Diagonal(DiagonalCell):
    of_sum: Any = None

    def gates(self, params, state, z, r):
        return HiddenState(jnp.tanh(self.of_sum((z + r)[..., 0, :])))


@dataclasses.dataclass(frozen=True)
class Linear(LinearCell):
    of_sum: Any = None

    def coefficients(self, params, zs):
        return jax.nn.sigmoid(self.of_sum(zs[..., 0, :])), zs[..., 0, :]


def _loss(kind, scale, where="of_sum", **options):
    """A number that depends on a factor of what the cell sums, which is in a field that is a function."""
    cell = kind(4, **{where: lambda x: x * scale if where == "of_sum" else x + scale})
    params = cell.init(jax.random.key(0), 3)
    # Differentiated with respect to them in it, so that the derivative of all that a method defines is asked for.
    ys, gradient = jax.value_and_grad(lambda params: (unroll(cell, params, XS, **options)[0] ** 2).sum())(params)
    return ys + (gradient.w_x**2).sum()


@pytest.mark.parametrize("options", [{}, RESETS], ids=["no resets", "resets"])
@pytest.mark.parametrize("kind", [Gated, Diagonal, Linear])
def test_the_default_method_and_scan_serve_such_a_cell(kind, options):
    of_scale = jax.value_and_grad(lambda scale, method: _loss(kind, scale, method=method, **options))
    step = 3e-2
    near = [_loss(kind, 0.7 + n * step, **options) for n in (-2, -1, 1, 2)]
    slope = np.dot([1, -8, 8, -1], near) / (12 * step)
    for method in (None, Scan(), Static()):
        for of_it in (of_scale, jax.jit(of_scale, static_argnums=1)):
            loss, gradient = of_it(0.7, method)
            np.testing.assert_allclose(loss, _loss(kind, 0.7, **options), rtol=1e-5)
            np.testing.assert_allclose(gradient, slope, rtol=1e-2)


@pytest.mark.parametrize(
    ("kind", "method", "options"),
    [
        (Gated, Fused(), {}),
        (Gated, Pallas(interpret=True), {}),
        (Gated, Native(), {}),
        (Linear, Associative(), RESETS),
        (Linear, Native(), {}),
        (Diagonal, Newton(), {}),
    ],
)
def test_methods_with_a_derivative_of_their_own_say_what_to_do(kind, method, options):
    for transformed in (jax.grad, jax.jit):
        with pytest.raises(
            ValueError, match=r"reads a value besides that is being traced, .*; pass it as a parameter, "
        ):
            transformed(lambda scale: _loss(kind, scale, method=method, **options))(0.7)


def test_fused_does_not_make_inputs_step_by_step_that_read_such_a_value():
    of_shift = jax.value_and_grad(lambda shift, method: _loss(Gated, shift, "of_inputs", method=method))
    for got, wanted in zip(of_shift(0.7, Fused()), of_shift(0.7, Scan())):
        np.testing.assert_allclose(got, wanted, rtol=1e-4)
