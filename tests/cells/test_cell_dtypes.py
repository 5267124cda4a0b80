import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy_cells import randomised

from rnnjax import GRU, LSTM, BasicRNN, Dropout, GatedResidual, MinGRU, ParaGRU, Project, Residual, Stack, unroll
from rnnjax.cells import GatedParams, HiddenState

pytestmark = pytest.mark.promotes_types

B, T, I, H = 2, 4, 3, 4
BF16, F16, F32, F64 = jnp.bfloat16, jnp.float16, jnp.float32, jnp.float64
GATED = {
    "rnn": BasicRNN,
    "lstm": lambda *size, **types: LSTM(*size, peephole=True, cell_clip=1.0, **types),
    "projected": lambda *size, **types: LSTM(*size, projection_size=2, projection_clip=1.0, **types),
    "normalised": lambda *size, **types: LSTM(*size, layer_norm=True, coupled_gates=True, **types),
    "gru": GRU,
    "before": lambda *size, **types: GRU(*size, reset="before", **types),
}


def traced(cell, xs_dtype, param_dtype=F32):
    """Returns the shapes and types of parameters, outputs and final state of an unrolling."""
    params = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, param_dtype),
        jax.eval_shape(lambda key: cell.init(key, I), jax.random.key(0)),
    )
    xs = jax.ShapeDtypeStruct((B, T, I), xs_dtype)
    ys, state = jax.eval_shape(lambda params, xs: unroll(cell, params, xs), params, xs)
    return params, ys, state


def dtypes(tree):
    return {leaf.dtype.type for leaf in jax.tree.leaves(tree)}


@pytest.mark.parametrize("make", GATED.values(), ids=GATED)
@pytest.mark.parametrize(
    ("xs", "types", "outputs", "state"),
    [
        (F32, {}, F32, F32),
        (BF16, {}, BF16, F32),
        (F16, {}, F16, F32),
        (F64, {}, F64, F64),
        (F32, {"dtype": BF16}, BF16, F32),
        (BF16, {"dtype": F32}, F32, F32),
        (F32, {"dtype": F64}, F64, F64),
        (BF16, {"state_dtype": BF16}, BF16, BF16),
        (F32, {"dtype": BF16, "state_dtype": BF16}, BF16, BF16),
        (F32, {"state_dtype": BF16}, F32, BF16),
        (F64, {"state_dtype": F32}, F64, F32),
        (F32, {"state_dtype": F64}, F32, F64),
    ],
)
def test_outputs_are_of_the_type_of_the_inputs_or_of_dtype_and_the_state_of_its_own(make, xs, types, outputs, state):
    with jax.enable_x64(True):
        _, ys, final = traced(make(H, **types), xs)
        assert ys.dtype == outputs
        assert dtypes(final) == {state}


@pytest.mark.parametrize("make", GATED.values(), ids=GATED)
@pytest.mark.parametrize("state_dtype", [None, BF16, F32, F64])
def test_a_step_gives_the_state_back_in_the_type_that_it_came_in(make, state_dtype):
    with jax.enable_x64(True):
        cell = make(H, state_dtype=state_dtype)
        params = jax.eval_shape(lambda key: cell.init(key, I), jax.random.key(0))
        for dtype in (BF16, F16, F32, F64):
            before = jax.eval_shape(lambda dtype=dtype: cell.initial_state(B, dtype))
            after, y = jax.eval_shape(cell, params, before, jax.ShapeDtypeStruct((B, I), dtype))
            assert after == before
            assert y.dtype == dtype


@pytest.mark.parametrize("wrapped", [lambda **t: Project(GRU(H), 2, **t), lambda **t: GatedResidual(GRU(H), **t)])
@pytest.mark.parametrize("dtype", [jnp.int32, jnp.complex64])
def test_wrappers_refuse_parameters_that_are_not_floating_point_as_cells_do(wrapped, dtype):
    with pytest.raises(TypeError, match=f"param_dtype must be a floating-point type, got {jnp.dtype(dtype)}"):
        wrapped(param_dtype=dtype)


@pytest.mark.parametrize("cell", [GRU(H, state_dtype=BF16), MinGRU(H, state_dtype=BF16), ParaGRU(H, state_dtype=BF16)])
def test_the_two_types_of_16_bits_may_meet(cell):
    params, ys, state = traced(cell, F16, F16)
    assert (dtypes(params), ys.dtype, dtypes(state)) == ({F16}, F16, {BF16})


@pytest.mark.parametrize("make", GATED.values(), ids=GATED)
def test_gradients_come_in_the_types_of_the_parameters_and_of_the_inputs(make):
    cell = make(H)
    params = jax.eval_shape(lambda key: cell.init(key, I), jax.random.key(0))
    xs = jax.ShapeDtypeStruct((B, T, I), BF16)
    for_params, for_xs = jax.eval_shape(
        jax.grad(lambda params, xs: unroll(cell, params, xs)[0].astype(F32).sum(), argnums=(0, 1)), params, xs
    )
    assert for_params == params
    assert for_xs == xs


@pytest.mark.parametrize("make", GATED.values(), ids=GATED)
@pytest.mark.parametrize(("dtype", "tolerance"), [(BF16, 3e-2), (F16, 3e-3)])
def test_half_precision_stays_close_to_single(make, dtype, tolerance):
    cell = make(H)
    params = jax.tree.map(np.float32, randomised(cell, I, scale=0.5))
    xs = jax.random.normal(jax.random.key(1), (B, 12, I)).astype(dtype)
    exact, _ = unroll(cell, params, xs.astype(F32))
    near, state = unroll(cell, params, xs)
    np.testing.assert_allclose(near.astype(F32), exact, atol=tolerance)
    assert dtypes(state) == {F32}


@pytest.mark.parametrize(("state_dtype", "total"), [(None, 262), (BF16, 256)])
def test_the_state_adds_up_in_float32_what_bfloat16_would_lose(state_dtype, total):
    cell = LSTM(1, kernel_init="zeros", recurrent_init="zeros", state_dtype=state_dtype)
    all_open = cell.init(jax.random.key(0), 1)._replace(b=jnp.full((4, 1), 20.0))
    start = jax.tree.map(lambda leaf: leaf + 256, cell.initial_state(1, BF16))
    _, state = unroll(cell, all_open, jnp.ones((1, 6, 1), BF16), start)
    assert float(state.c[0, 0]) == pytest.approx(total, rel=1e-6)  # 256 + 1 is 256 in bfloat16


def test_the_recurrent_product_of_bfloat16_is_added_up_in_float32():
    cell = BasicRNN(2, "identity")
    adding = GatedParams(jnp.zeros((1, 1, 2)), jnp.ones((2, 1, 2)), jnp.zeros((1, 2)))
    state, _ = cell(adding, HiddenState(jnp.array([[256.0, 1.0]])), jnp.zeros((1, 1), BF16))
    np.testing.assert_array_equal(state.h, [[257, 257]])  # 256 + 1 is 256 in bfloat16


@pytest.mark.parametrize(
    "cell",
    [
        Stack((LSTM(H), GRU(H))),
        Dropout(LSTM(H), input_rate=0.5, state_rate=0.5, output_rate=0.5),
        Project(LSTM(H), 2),
        Residual(LSTM(I)),
    ],
    ids=["stack", "dropout", "project", "residual"],
)
def test_wrappers_keep_the_type_of_their_inputs(cell):
    params = jax.eval_shape(lambda key: cell.init(key, I), jax.random.key(0))
    xs = jax.ShapeDtypeStruct((B, T, I), BF16)
    ys, state = jax.eval_shape(lambda params, xs, key: unroll(cell, params, xs, key=key), params, xs, jax.random.key(0))
    assert ys.dtype == BF16
    assert dtypes(state) == {F32}


def test_parameters_in_another_type_than_the_inputs_change_neither_outputs_nor_state():
    for make in GATED.values():
        _, ys, state = traced(make(H), BF16, param_dtype=BF16)
        assert (ys.dtype, dtypes(state)) == (BF16, {F32})
        _, ys, state = traced(make(H), F32, param_dtype=BF16)
        assert (ys.dtype, dtypes(state)) == (F32, {F32})
