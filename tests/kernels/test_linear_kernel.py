"""The kernel of linear recurrences: over parts of the steps in the interpreter, and lowered for a GPU."""

import functools
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from fixtures.thorough import main_of, once_more
from jax.sharding import AxisType, PartitionSpec

from rnnjax import Associative, Complex, MinGRU, linear_scan, unroll
from rnnjax.unrolling.kernels import linear

T, B, H = 10, 2, 5
RNG = np.random.default_rng(0)
RESETS = RNG.random((T, B)) < 0.2
A, ADDED = RNG.uniform(-1, 1, (2, T, B, H)).astype(np.float32)
H0 = RNG.standard_normal((B, H)).astype(np.float32)
WEIGHTS = np.cos(np.arange(T * B * H)).reshape(T, B, H).astype(np.float32)
FACTORS = {
    "real": (A, ADDED, H0),
    "the same at every step": (A[0], ADDED, H0),
    "complex": (Complex(0.7 * A, 0.7 * A[::-1]), Complex(ADDED, A), Complex(H0, -H0)),
}


@pytest.fixture(autouse=True)
def _in_five_parts(monkeypatch):
    """Cuts the steps into short parts, as the interpreter takes long for each step."""
    monkeypatch.setattr(linear, "_SHORTEST_PART", 2)
    assert linear.parts_of(T, 1) == 5


def outcome(implementation, numbers, **options):
    """Returns the states, the gradient by everything of a loss that weighs all of them, and its change."""

    def loss(numbers):
        hs = linear_scan(*numbers, implementation=implementation, interpret=True, **options)
        return sum((jnp.sin(leaf) * WEIGHTS).sum() for leaf in jax.tree.leaves(hs)), hs

    def derivatives(numbers):
        return jax.jvp(jax.grad(loss, has_aux=True), (numbers,), (numbers,))

    return jax.jit(derivatives)(jax.device_put(numbers))


@pytest.mark.parametrize("kind", main_of(FACTORS, ["complex"]))
@pytest.mark.parametrize(
    "options", [once_more({}), {"resets": RESETS, "reverse": True}], ids=["plain", "resets, reverse"]
)
def test_parts_of_the_steps_are_the_loop(kind, options):
    got, expected = (outcome(implementation, FACTORS[kind], **options) for implementation in ("pallas", "scan"))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), got, expected)


def test_what_is_not_finite_before_a_reset_reaches_no_part_after_it():
    added = ADDED.copy()
    added[3, 0] = np.inf
    resets = np.zeros((T, B), bool)
    resets[6] = True

    @jax.jit
    def both(*numbers):
        ways = {"pallas": {"interpret": True}, "scan": {}}
        return [linear_scan(*numbers, resets=resets, implementation=way, **more) for way, more in ways.items()]

    hs, expected = both(A, added, H0)
    np.testing.assert_allclose(hs, expected, rtol=1e-5, atol=1e-6)
    assert np.isfinite(hs[6:]).all()
    assert not np.isfinite(hs[3:6, 0]).any()


def test_inside_of_shard_map_each_device_runs_its_own():
    mesh, split = jax.make_mesh((2,), ("batch",), axis_types=(AxisType.Auto,)), PartitionSpec(None, "batch")
    run = functools.partial(linear_scan, implementation="pallas", interpret=True)
    # The interpreter's own arrays are not marked as varying; the kernel's are.
    mapped = jax.shard_map(run, mesh=mesh, in_specs=(split, split), out_specs=split, check_vma=False)
    np.testing.assert_allclose(jax.jit(mapped)(A, ADDED), linear_scan(A, ADDED), rtol=1e-5, atol=1e-6)


def test_it_needs_a_gpu_and_float32(monkeypatch):
    with pytest.raises(ValueError, match=r'implementation="pallas" needs a GPU, .*use "scan" or "associative"'):
        linear_scan(A, ADDED, implementation="pallas")
    monkeypatch.setattr(sys.modules["rnnjax.unrolling.linear_scan"], "on_gpu", lambda: True)
    with jax.enable_x64(True), pytest.raises(ValueError, match="computes in float32, got float64"):
        linear_scan(A.astype(float), ADDED.astype(float), implementation="pallas")


def test_without_a_gpu_a_linear_cell_is_refused_too():
    params = MinGRU(H).init(jax.random.key(0), 3)
    with pytest.raises(ValueError, match='implementation="pallas" needs a GPU'):
        unroll(MinGRU(H), params, np.ones((B, T, 3), np.float32), method=Associative("pallas"))


@pytest.mark.parametrize("shape", [(70, 2, 5), (4096, 16, 768)], ids=str)
def test_it_lowers_for_a_gpu(shape, monkeypatch):
    # By its full name, as the package has a function of the module's name.
    monkeypatch.setattr(sys.modules["rnnjax.unrolling.linear_scan"], "on_gpu", lambda: True)
    number = jax.ShapeDtypeStruct(shape, jnp.float32)
    loss = lambda a, b: linear_scan(a, b, implementation="pallas").sum()  # noqa: E731
    traced = jax.jit(jax.grad(loss, argnums=(0, 1))).trace(number, number)
    text = traced.lower(lowering_platforms=("cuda",)).as_text()
    assert text.count("@mosaic_gpu") == 4  # what each part does and its states, forward and backward
