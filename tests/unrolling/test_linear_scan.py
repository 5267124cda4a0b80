"""linear_scan is the loop h_t = a_t h_{t-1} + b_t in value and in derivatives of any order, by each implementation."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from fixtures.thorough import once_more
from jax import lax
from jax.sharding import NamedSharding, PartitionSpec

from rnnjax import Complex, linear_scan

T, B, H = 5, 2, 3
RNG = np.random.default_rng(0)
A, WEIGHTS = RNG.uniform(-1, 1, (2, T, B, H))
ADDED, AGAIN = RNG.standard_normal((2, T, B, H))
H0 = RNG.standard_normal((B, H))
RESETS = np.array([[0, 1], [0, 0], [1, 0], [0, 0], [0, 1]], bool)
# The kernel, which computes in float32, has a file of its own: tests/kernels/test_linear_kernel.py.
each_implementation = pytest.mark.parametrize("implementation", ["scan", "associative"])


@pytest.fixture(autouse=True)
def _float64():
    with jax.enable_x64(True):
        yield


def by_hand(a, b, h0, reverse=False, resets=None):
    """The loop, written out; `a` and `b` may be of complex numbers."""
    resets = np.zeros((T, B), bool) if resets is None else resets
    hs, h = {}, h0
    for t in range(T)[::-1] if reverse else range(T):
        h = hs[t] = a[t] * jnp.where(resets[t][:, None], jnp.zeros_like(h), h) + b[t]
    return jnp.stack([hs[t] for t in range(T)])


def derivatives(function, *arguments):
    """Returns the value, the gradient, and the change of the gradient along the arguments themselves."""
    loss = lambda *arguments: (jnp.sin(function(*arguments)) * WEIGHTS).sum()  # noqa: E731
    gradient = jax.grad(loss, argnums=tuple(range(len(arguments))))
    return function(*arguments), jax.jvp(gradient, arguments, arguments)


def close(got, expected, **tolerance):
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, **({"rtol": 1e-9, "atol": 1e-11} | tolerance)), got, expected
    )


@each_implementation
@pytest.mark.parametrize(
    ("reverse", "resets"),
    [(False, None), once_more(True, None), once_more(False, RESETS), (True, RESETS)],
    ids=["forward-whole", "reverse-whole", "forward-resets", "reverse-resets"],
)
def test_values_and_derivatives_are_those_of_the_loop(implementation, reverse, resets):
    scan = functools.partial(linear_scan, reverse=reverse, resets=resets, implementation=implementation)
    loop = functools.partial(by_hand, reverse=reverse, resets=resets)
    got, expected = (jax.jit(functools.partial(derivatives, f))(A, ADDED, H0) for f in (scan, loop))
    close(got, expected)


@each_implementation
def test_complex_pairs_with_factors_that_are_the_same_at_every_step(implementation):
    def pairs(real, imag, more, h0):
        hs = linear_scan(
            Complex(real, imag), Complex(more, more**2), Complex(h0, -h0), implementation=implementation, reverse=True
        )
        return hs.real - 2 * hs.imag

    def loop(real, imag, more, h0):
        a = jnp.broadcast_to(lax.complex(real, imag), (T, H))
        hs = by_hand(a, lax.complex(more, more**2), lax.complex(h0, -h0), reverse=True)
        return hs.real - 2 * hs.imag

    arguments = A[0, 0], A[1, 1], ADDED, H0
    close(*(jax.jit(functools.partial(derivatives, f))(*arguments) for f in (pairs, loop)))


def test_one_part_of_a_complex_number_may_be_constant():
    def loss(real):
        hs = linear_scan(Complex(A[0, 0], A[1, 1]), Complex(real, ADDED))
        return jnp.square(hs.imag).sum()

    expected = jax.jit(jax.jvp, static_argnums=0)(loss, (AGAIN,), (WEIGHTS,))[1]
    close((jax.jit(jax.grad(loss))(AGAIN) * WEIGHTS).sum(), expected)


@each_implementation
def test_vmap_maps_over_any_axis_and_over_part_of_the_arguments(implementation):
    def gradient(a, b, h0, resets):
        loss = lambda a, b, h0: jnp.sin(linear_scan(a, b, h0, resets=resets, implementation=implementation)).sum()  # noqa: E731
        return jax.grad(loss, argnums=(0, 1, 2))(a, b, h0)

    mapped = jax.jit(jax.vmap(gradient, (None, 1, 0, 1)))(A[:, 0], ADDED, H0, RESETS)
    alone = jax.jit(gradient)
    for b in range(B):
        expected = alone(A[:, 0], ADDED[:, b], H0[b], RESETS[:, b])
        close(jax.tree.map(lambda leaf, b=b: np.asarray(leaf)[b], mapped), expected)


@each_implementation
def test_what_is_not_finite_before_a_reset_changes_nothing_after_it(implementation):
    resets = np.arange(T)[:, None] == np.full(B, 3)

    @jax.jit
    @functools.partial(jax.value_and_grad, argnums=(0, 1, 2), has_aux=True)
    def after(a, b, h0):
        hs = linear_scan(a, b, h0, resets=resets, implementation=implementation)
        return jnp.sin(hs[3:]).sum(), hs

    lost = ADDED.copy()
    lost[0, 0], lost[1, 0] = np.inf, -np.inf
    ((value, hs), gradient), ((expected, _), slopes) = after(A, lost, H0), after(A, ADDED, H0)
    close((value, gradient), (expected, slopes))
    assert not np.isfinite(hs[:3, 0]).any()


def test_shard_map_over_the_batch_changes_no_value_and_no_gradient():
    if jax.device_count() < 2:
        pytest.skip("needs two devices")
    mesh = jax.make_mesh((2,), ("batch",), devices=jax.devices()[:2])
    split = PartitionSpec(None, "batch")

    def total(a, b):  # factors and zeros for the first state are the same on every device
        return jnp.sin(linear_scan(a, b)).sum()

    local = lambda a, b: jax.lax.psum(total(a, b), "batch")  # noqa: E731
    sharded = jax.shard_map(local, mesh=mesh, in_specs=(PartitionSpec(), split), out_specs=PartitionSpec())
    got = jax.jit(jax.value_and_grad(sharded, argnums=(0, 1)))(
        A[0, 0], jax.device_put(ADDED, NamedSharding(mesh, split))
    )
    close(got, jax.jit(jax.value_and_grad(total, argnums=(0, 1)))(A[0, 0], ADDED))


def test_16_bit_numbers_are_summed_in_float32():
    small = jnp.full((1000, 1), 1e-3, jnp.bfloat16)
    hs = linear_scan(jnp.ones((), jnp.bfloat16), small)
    assert hs.dtype == jnp.bfloat16
    np.testing.assert_allclose(np.float32(hs[-1, 0]), 1.0, rtol=1e-2)  # sums in bfloat16 stop at 0.25


@pytest.mark.parametrize("shape", [(0, B, H), (T, 0, H)], ids=str)
def test_nothing_is_scanned_to_nothing(shape):
    nothing = jnp.zeros(shape)
    total = lambda a, b: linear_scan(a, b, resets=nothing[..., 0] > 0).sum()  # noqa: E731
    gradients = jax.grad(total, argnums=(0, 1))(nothing, nothing)
    assert [leaf.shape for leaf in gradients] == [shape, shape]


@pytest.mark.parametrize(
    ("arguments", "options", "error", "sentence"),
    [
        ((A[1:], ADDED), {}, ValueError, r"a must broadcast to the shape \[5, 2, 3\] of b, got \[4, 2, 3\]"),
        ((A, ADDED, H0[0]), {}, ValueError, r"h0 must have the shape \[2, 3\] of one step of b, got \[3\]"),
        ((A, ADDED), {"resets": RESETS[1:]}, ValueError, r"resets must be \[T, \*batch\], .*\[5, 2, 3\], got \[4, 2\]"),
        ((A, ADDED), {"resets": RESETS.astype(int)}, TypeError, "resets must be bool, got int64"),
        ((A, ADDED), {"implementation": "tree"}, ValueError, '"associative", "pallas" or None, got \'tree\''),
        ((Complex(A, A), ADDED), {}, ValueError, "b must be a Complex pair too, got an array"),
        ((1.0, 1.0), {}, ValueError, r"b must have shape \[T, \*batch, ...\], one axis at least, got \[\]"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_sentence(arguments, options, error, sentence):
    with pytest.raises(error, match=sentence):
        linear_scan(*arguments, **options)
