"""What the programs that unrolling makes consist of."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cells_under_test import H, I, LeakySum, UpdateGateRNN, parameters

from rnnjax import (
    GRU,
    LRU,
    LSTM,
    Associative,
    BasicRNN,
    Dropout,
    LearnedState,
    Project,
    Residual,
    Scan,
    Stack,
    Static,
    unroll,
)

B, T = 2, 6


def program(cell, method=None, **options):
    """Returns the jaxpr of an unrolling, ``xs [B, T, I]``."""
    xs = jax.ShapeDtypeStruct((B, T, I), jnp.float32)
    unrolled = lambda params, xs: unroll(cell, params, xs, method=method, **options)  # noqa: E731
    return jax.make_jaxpr(unrolled)(parameters(cell), xs).jaxpr


def inside(jaxpr, stop_at=()):
    """Yields every equation, those of functions within included, except within the primitives named."""
    for equation in jaxpr.eqns:
        yield equation
        if equation.primitive.name not in stop_at:
            for value in equation.params.values():
                for within in value if isinstance(value, (tuple, list)) else [value]:
                    within = getattr(within, "jaxpr", within)
                    if hasattr(within, "eqns"):
                        yield from inside(within, stop_at)


def named(name, jaxpr, stop_at=()):
    return [equation for equation in inside(jaxpr, stop_at) if equation.primitive.name == name]


def carried_and_stacked(scan):
    """Returns the shapes of the final carry of a scan, and those of what it stacks over its steps."""
    made = [(of_step.aval.shape, v.aval.shape) for of_step, v in zip(scan.params["jaxpr"].jaxpr.outvars, scan.outvars)]
    carried = [shape for of_step, shape in made if shape == of_step]
    return carried, [shape for of_step, shape in made if shape == (scan.params["length"], *of_step)]


def bodies(jaxpr):
    return [scan.params["jaxpr"].jaxpr for scan in named("scan", jaxpr)]


@pytest.mark.parametrize(
    ("cell", "products"),
    [
        (BasicRNN(H), 1),
        (LSTM(H), 1),
        (LSTM(H, peephole=True, coupled_gates=True, layer_norm=True, cell_clip=1.0), 1),
        (LSTM(H, projection_size=2), 2),
        (GRU(H), 1),
        (GRU(H, reset="before"), 2),
        (UpdateGateRNN(H), 1),
        (LearnedState(Project(LSTM(H), 2)), 1),
        (Residual(GRU(I)), 1),
        (Dropout(LSTM(H), input_rate=0.1, state_rate=0.1, output_rate=0.1), 1),
    ],
    ids=range(10),
)
def test_the_loop_holds_the_recurrent_product_alone_and_the_inputs_are_projected_before_it(cell, products):
    jaxpr = program(cell, Scan(), key=jax.random.key(0))
    (body,) = bodies(jaxpr)
    assert len(named("dot_general", body)) == products
    outside = named("dot_general", jaxpr, stop_at=("scan",))
    assert outside[0].invars[0].aval.shape == (T, B, I)
    assert len(outside) == (2 if "Project" in str(cell) else 1)


def test_no_random_number_is_drawn_in_the_loop_over_one_cell():
    cell = Dropout(LSTM(H), input_rate=0.1, state_rate=0.1, output_rate=0.1)
    (body,) = bodies(program(cell, key=jax.random.key(0)))
    assert not [equation for equation in inside(body) if "random" in equation.primitive.name]


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_a_stack_is_a_loop_for_each_layer_with_its_own_projection(layers):
    jaxpr = program(Stack([LSTM(H)] * layers))
    assert [len(named("dot_general", body)) for body in bodies(jaxpr)] == [1] * layers
    projections = named("dot_general", jaxpr, stop_at=("scan",))
    assert [product.invars[0].aval.shape[:2] for product in projections] == [(T, B)] * layers


@pytest.mark.parametrize(
    "wrap",
    [
        LearnedState,
        Residual,
        lambda cell: Project(cell, 2),
        lambda cell: Stack((cell,)),
        lambda cell: Dropout(cell, input_rate=0.1, output_rate=0.1),
    ],
    ids=["learned", "residual", "project", "stack", "dropout"],
)
def test_a_stack_within_a_wrapper_is_still_taken_layer_by_layer(wrap):
    assert len(bodies(program(wrap(Stack((GRU(I), GRU(I)))), key=jax.random.key(0)))) == 2


def test_state_dropout_around_a_stack_takes_its_layers_together_only_while_training():
    cell = Dropout(Stack((GRU(H), GRU(H))), state_rate=0.1)
    assert len(bodies(program(cell, key=jax.random.key(0)))) == 1
    assert len(bodies(program(cell))) == 2


def test_static_has_no_loop_and_a_copy_of_the_step_for_every_time():
    jaxpr = program(GRU(H), Static())
    assert not bodies(jaxpr)
    assert len(named("dot_general", jaxpr)) == T + 1


def test_scan_unrolls_its_loop_as_often_as_asked():
    for unroll_by in (1, 2, 3):
        (scan,) = named("scan", program(GRU(H), Scan(unroll_by)))
        assert (scan.params["unroll"], scan.params["length"]) == (unroll_by, T)


@pytest.mark.parametrize(("every", "outer", "inner"), [(2, 3, 2), (3, 2, 3), (4, 1, 4)])
def test_remat_nests_a_loop_over_chunks_and_one_over_the_steps_of_a_chunk(every, outer, inner):
    scans = named("scan", program(GRU(H), Scan(remat_every=every)))
    rest = [T % every] if T % every else []
    assert [scan.params["length"] for scan in scans] == [outer, inner, *rest]


@pytest.mark.parametrize(("length", "loops"), [(2**12, [16, 256]), (2**10, [2**10])])
def test_a_cpu_computes_a_long_sequence_in_pieces_that_its_cache_holds(length, loops):
    cell = LRU(256)
    xs = jax.ShapeDtypeStruct((1, length, I), jnp.float32)
    jaxpr = jax.make_jaxpr(lambda params, xs: unroll(cell, params, xs, method=Associative()))(parameters(cell), xs)
    assert [scan.params["length"] for scan in named("scan", jaxpr.jaxpr)] == loops


def test_without_lengths_and_resets_the_loop_selects_nothing():
    (body,) = bodies(program(LeakySum(I)))
    assert not named("select_n", body)
    (body,) = bodies(program(LeakySum(I), lengths=np.array([T, 1])))
    assert len(named("select_n", body)) == 1


def temporary_bytes(method, length):
    cell = LSTM(16)
    params = parameters(cell)
    loss = lambda params, xs: unroll(cell, params, xs, method=method)[0].sum()  # noqa: E731
    xs = jax.ShapeDtypeStruct((8, length, I), jnp.float32)
    return jax.jit(jax.grad(loss)).lower(params, xs).compile().memory_analysis().temp_size_in_bytes


def test_remat_keeps_less_for_the_gradient_the_more_so_the_longer_the_sequence():
    length = 256
    whole = temporary_bytes(Scan(), length)
    in_chunks = temporary_bytes(Scan(remat_every=math.isqrt(length)), length)
    assert in_chunks < 0.7 * whole
