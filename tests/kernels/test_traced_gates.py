"""Gates traced for one unit compute on tiles what they compute on whole arrays."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cells_under_test import close, drawn
from fixtures.parameters import array

from rnnjax.unrolling.kernels import instructions
from rnnjax.unrolling.kernels.layout import one_unit
from rnnjax.unrolling.kernels.pointwise import Pointwise
from rnnjax.unrolling.kernels.traced_gates import by_unit

TILE = (2, 3)  # [rows, units]


def on_tiles(function, *arrays, rewritten=types.MappingProxyType({})):
    """Evaluates a function of arrays ``[..., 1]`` on tiles in the place of their entries."""
    shapes = [jax.ShapeDtypeStruct((*array.shape[:-2], 1), array.dtype) for array in arrays]
    tiles = [list(array.reshape(-1, *TILE)) for array in arrays]
    results = Pointwise(function, *shapes).rewritten(rewritten)(*tiles, like=jnp.zeros(TILE))
    return [jnp.stack(result) for result in results]


def on_arrays(function, *arrays):
    """Evaluates it on each entry of the tiles by itself."""
    each = jax.vmap(jax.vmap(function, -2, -2), -2, -2)
    return [result.reshape(-1, *TILE) for result in jax.tree.leaves(each(*(array[..., None] for array in arrays)))]


MOVING = {
    "slices": lambda x: x[1:] - x[:-1],
    "negative": lambda x: x[..., -1, :] * x[..., ::-1, :],
    "broadcast": lambda x: x[:, None] * x[None],
    "concatenated": lambda x: jnp.concatenate([x[2:], x[:1], jnp.ones((1, 1))]),
    "stacked": lambda x: jnp.stack([x, x + 1], 1).reshape(-1, 1),
    "transposed": lambda x: jnp.outer(x, x).T[..., None],
    "padded": lambda x: jnp.pad(x, ((1, 2), (0, 0)), constant_values=3.0),
    "split": lambda x: jnp.split(x, 2)[1],
    "softmax": lambda x: jax.nn.softmax(x, 0),
    "least": lambda x: x.min(0) + x.prod(0),
    "called": jax.jit(lambda x: jax.nn.relu(x) + jax.checkpoint(jnp.sin)(x)),
    "constant": lambda x: x * jnp.arange(4.0)[:, None] + np.float32(2),
}


@pytest.mark.parametrize("function", MOVING.values(), ids=MOVING)
def test_what_moves_entries_moves_tiles(function):
    (x,) = drawn([jax.ShapeDtypeStruct((4, *TILE), jnp.float32)])
    derivative = lambda x: jax.vjp(function, x)[1](jnp.cos(function(x)))[0]  # noqa: E731
    both = (function, derivative)
    close(*jax.jit(lambda x: [[compute(f, x) for f in both] for compute in (on_tiles, on_arrays)])(x))


@pytest.mark.parametrize(
    "function", [jnp.log1p, jnp.expm1, jax.nn.softplus, jax.nn.elu, jax.nn.gelu], ids=lambda f: f.__name__
)
def test_what_a_gpu_has_no_instruction_for_is_as_accurate(function):
    x = array(np.geomspace(1e-9, 20, 6).reshape(TILE) * [[1], [-0.04]])[None]
    close(on_tiles(function, x), on_arrays(function, x), rtol=3e-6, atol=0)


def test_what_is_not_read_is_known():
    shape = jax.ShapeDtypeStruct((1,), jnp.float32)
    assert Pointwise(lambda a, b, c: (a + c, jnp.sin(b))[0], shape, shape, shape).reads == (True, False, True)


def test_what_is_not_pointwise_is_refused():
    x = jnp.zeros((4, *TILE))
    with pytest.raises(NotImplementedError, match="gates use sort, which is not known to be pointwise"):
        on_tiles(lambda x: jnp.sort(x, 0), x)


def test_an_array_without_an_axis_of_units_is_the_same_for_all():
    x = jnp.arange(6.0).reshape(2, 3)
    assert one_unit(x, 3).shape == (2, 1)
    close(by_unit(x, 3), x)
    assert one_unit(x, 5).shape == (2, 3)
    close(by_unit(x, 5), jnp.broadcast_to(x.reshape(6, 1), (6, 5)))


@pytest.mark.parametrize(
    "function",
    [jnp.floor, jnp.ceil, jnp.sqrt, jnp.isfinite, lambda x: x**-3, lambda x: x**0, lambda x: x**1],
    ids=["floor", "ceil", "sqrt", "isfinite", "negative power", "no power", "one factor"],
)
def test_what_a_gpu_computes_by_other_instructions_is_the_same_at_the_edges_too(function):
    x = array([[-2.5, -1.0, 0.0], [2.0, np.inf, np.nan]])[None]
    close(on_tiles(function, x, rewritten=instructions._REWRITTEN), on_arrays(function, x), rtol=1e-6, atol=0)


@pytest.mark.parametrize("function", [lambda x: jnp.cumsum(x, 0), lambda x: jax.lax.cummax(x, 0)], ids=["sum", "max"])
def test_what_keeps_a_shape_is_not_taken_for_pointwise(function):
    with pytest.raises(NotImplementedError, match=r"gates use cum(sum|max), which is not known to be pointwise"):
        on_tiles(function, jnp.ones((4, *TILE)))
