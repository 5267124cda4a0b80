"""The LSTM by cuDNN, with JAX's reference of it in its place, since tests have no GPU.

What reaches cuDNN and what comes back, and how both are taken apart and put together, is all real.
"""

import functools
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from fixtures.parameters import array
from jax.experimental import rnn
from jax.interpreters import mlir
from jax.sharding import PartitionSpec

from benchmarks.kernels import __main__ as kernels
from benchmarks.kernels.cases import Case
from benchmarks.kernels.contenders import CONTENDERS, rnnjax_ready
from rnnjax import GRU, LSTM, CuDNN, Dropout, LSTMParams, LSTMState, Scan, Stack, bidirectional, unroll
from rnnjax.unrolling.recurrence import Recurrence, Steps

B, T, I, H = 4, 4, 3, 6
CELL = LSTM(H)


class Unasked(CuDNN):
    """Unrolling by cuDNN, whatever there is against it."""

    def why_not(self, recurrence):
        return None


CUDNN, BINDING = Unasked(), rnn.gpu_rnn


def reference(x, h, c, w, lengths, *, input_size, hidden_size, num_layers, bidirectional, **_):
    """JAX's reference, which like cuDNN makes nothing of a batch with a sequence of no steps."""
    sizes = (input_size, hidden_size, num_layers, bidirectional)
    parts = rnn.unpack_lstm_weights(w, *sizes)
    outputs = rnn.lstm_ref(x, h, c, *parts, lengths, input_size, hidden_size, num_layers, 0.0, bidirectional)
    return tuple(jnp.where((lengths > 0).all(), output, jnp.nan) for output in outputs)


def forward(x, h, c, w, lengths, **settings):
    return *reference(x, h, c, w, lengths, **settings), jnp.zeros(1)


def backward(dy, dh, dc, x, h, c, w, y, reserve, lengths, **settings):
    _, vjp = jax.vjp(lambda x, h, c, w: reference(x, h, c, w, lengths, **settings), x, h, c, w)
    return vjp((dy, dh, dc))


@pytest.fixture(autouse=True)
def _cudnn_on_the_cpu(monkeypatch):
    """Computes cuDNN's two calls by JAX's reference."""
    sizes = types.SimpleNamespace(compute_rnn_workspace_reserve_space_sizes=lambda *_: (1, 1))
    monkeypatch.setattr(rnn, "gpu_rnn", sizes)
    for primitive, function in ((rnn.rnn_fwd_p, forward), (rnn.rnn_bwd_p, backward)):
        mlir.register_lowering(primitive, mlir.lower_fun(function, multiple_results=True), platform="cpu")


def drawn(shape, seed):
    return array(0.7 * np.random.default_rng(seed).standard_normal(shape))


def lstm(seed=0, input_size=I):
    return LSTMParams(drawn((input_size, 4, H), seed), drawn((H, 4, H), seed + 1), drawn((4, H), seed + 2))


XS, STATE = drawn((B, T, I), 10), LSTMState(drawn((B, H), 11), drawn((B, H), 12))


def results(run, *arguments):
    """Returns outputs and state, and the gradients of something that all of them have a part in."""

    def loss(*arguments):
        outputs = run(*arguments)
        leaves = jax.tree.leaves(outputs)
        return sum((jnp.cos(jnp.arange(leaf.size).reshape(leaf.shape)) * leaf).sum() for leaf in leaves), outputs

    return jax.grad(loss, tuple(range(len(arguments))), has_aux=True)(*arguments)


def agree(run, *arguments):
    """Asserts that cuDNN and `Scan` give the same in ``run(method, *arguments)``."""
    runs = [functools.partial(run, method) for method in (CUDNN, Scan())]
    got, expected = jax.jit(lambda *given: [results(each, *given) for each in runs])(*arguments)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), got, expected)


@pytest.mark.parametrize(
    "options",
    [{}, {"lengths": jnp.array([4, 0, 3, 1])}, {"lengths": jnp.array([0, 0, 0, 0])}, {"reverse": True}],
    ids=["whole", "lengths", "no steps at all", "reverse"],
)
def test_it_gives_what_scan_gives(options):
    agree(lambda method, params, xs, s: unroll(CELL, params, xs, s, method=method, **options), lstm(), XS, STATE)


def test_valid_parts_are_reversed_by_themselves():
    options = {"lengths": jnp.array([3, 4, 0, 2]), "reverse": True}
    agree(lambda method, params, xs: unroll(CELL, params, xs, method=method, **options), lstm(), XS)


def test_a_stack_and_both_directions_come_layer_by_layer():
    stack = Stack((CELL, Dropout(CELL, input_rate=0.5)))
    params, other = (lstm(), lstm(3, H)), (lstm(6), lstm(9, H))
    options = {"lengths": jnp.array([4, 2, 0, 3]), "key": jax.random.key(0)}
    agree(lambda method, p, q: bidirectional(stack, stack, (p, q), XS, method=method, **options), params, other)


def test_any_number_of_batch_axes_will_do():
    agree(lambda method, xs: unroll(CELL, lstm(), xs, method=method), drawn((2, 2, T, I), 13))
    agree(lambda method, xs: unroll(CELL, lstm(), xs, method=method), drawn((T, I), 14))


def test_nothing_in_the_padding_matters():
    lengths = jnp.array([4, 0, 3, 1])
    spoiled = jnp.where(jnp.arange(T)[:, None] < lengths[:, None, None], XS, jnp.nan)
    run = lambda xs, *given: unroll(CELL, given[0], xs, given[1], method=CUDNN, lengths=lengths)  # noqa: E731
    compiled = jax.jit(lambda xs, *given: results(functools.partial(run, xs), *given))
    got, expected = (compiled(xs, lstm(), STATE) for xs in (spoiled, XS))
    jax.tree.map(np.testing.assert_array_equal, got, expected)


def test_a_batch_split_over_devices_has_the_same_gradient():
    mesh = jax.make_mesh((2,), ("batch",), axis_types=(jax.sharding.AxisType.Auto,))
    everywhere, split = PartitionSpec(), PartitionSpec("batch")

    def split_unroll(method, params, xs):
        run = jax.shard_map(
            lambda params, xs: unroll(CELL, params, xs, method=method)[0],
            mesh=mesh,
            in_specs=(everywhere, split),
            out_specs=split,
        )
        return run(params, xs)

    agree(split_unroll, lstm(), XS)


def test_for_cuda_it_is_one_call_of_cudnn_each_way(monkeypatch):
    library = types.SimpleNamespace(build_rnn_descriptor=lambda *sizes: "sizes")
    monkeypatch.setattr(BINDING, "compute_rnn_workspace_reserve_space_sizes", lambda *_: (1, 1), raising=False)
    for primitive, lowering in (
        (rnn.rnn_fwd_p, BINDING.cudnn_rnn_lowering),
        (rnn.rnn_bwd_p, BINDING.cudnn_rnn_bwd_lowering),
    ):
        mlir.register_lowering(primitive, functools.partial(lowering.func, library, "cu"), platform="cuda")
    gradient = jax.jit(jax.grad(lambda params, xs: unroll(CELL, params, xs, method=CUDNN)[0].sum()))
    lowered = gradient.trace(lstm(), XS).lower(lowering_platforms=("cuda",)).as_text()
    assert [lowered.count(f"@cudnn_rnn_{way}") for way in ("ffi", "bwd_ffi")] == [1, 1]


@pytest.mark.parametrize(("precision", "exact"), [(None, False), ("highest", True), ("bfloat16", False)])
def test_products_are_in_tf32_unless_exact_ones_are_asked_for(precision, exact):
    with jax.default_matmul_precision(precision):
        jaxpr = jax.make_jaxpr(lambda: unroll(CELL, lstm(), XS, method=CUDNN))()
    assert f"cudnn_allow_tf32={not exact}" in str(jaxpr)


def recurrence(cell=CELL, dtype=jnp.float32, **changes):
    """Returns a recurrence of which only shapes and types are known."""

    def made():
        xs, params = jnp.ones((T, B, I), dtype), cell.init(jax.random.key(0), I)
        return params, cell.initial_state(B, dtype), cell.inputs(params, xs), xs

    params, state, zs, xs = jax.eval_shape(made)
    return Recurrence(cell, params, state, None, Steps(zs, None, None), xs)._replace(**changes)


RESET = Steps(np.ones((T, B, 4, H), np.float32), None, np.zeros((T, B), bool))


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        (recurrence(GRU(H)), "runs the plain LSTM only, got GRU"),
        (recurrence(LSTM(H, peephole=True, cell_clip=1.0)), "got one with peephole, cell_clip"),
        (recurrence(LSTM(H, use_bias=False)), "got one with use_bias=False"),
        (recurrence(LSTM(H, activation="relu")), "got one with activation='relu'"),
        (recurrence(dtype=jnp.bfloat16), "supports float32 only, got bfloat16"),
        (recurrence(LSTM(H, dtype=jnp.bfloat16)), "supports float32 only, got bfloat16"),
        (recurrence(steps=RESET), "cannot reset the state"),
        (recurrence(xs=None), "they are already projected"),
        (recurrence(), "needs an NVIDIA GPU, but JAX runs on cpu"),
    ],
)
def test_it_says_in_a_sentence_what_it_cannot_run(given, reason):
    said = CuDNN().why_not(given)
    assert reason in said
    assert len(said.splitlines()) == 1


def test_it_has_nothing_against_a_plain_lstm_on_an_nvidia_gpu(monkeypatch):
    device = types.SimpleNamespace(client=types.SimpleNamespace(platform_version="cuda 13000"))
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(jax, "devices", lambda: [device])
    assert CuDNN().why_not(recurrence()) is None
    device.client.platform_version = "rocm 60000"
    assert "ROCm" in CuDNN().why_not(recurrence())
    device.client.platform_version = "cuda 13000"
    monkeypatch.setattr(rnn, "gpu_rnn", None)
    assert "built without cuDNN" in CuDNN().why_not(recurrence())


@pytest.mark.thorough
def test_the_benchmark_finds_it_right(monkeypatch):
    monkeypatch.setitem(CONTENDERS, "cudnn", functools.partial(rnnjax_ready, Unasked()))
    case = Case("LSTM", 1, H, B, 10, "float32", projected=True)
    (row,) = kernels.measure("base", case, ["cudnn"], kernels.parse(["--smoke", "--patience", "1000"]))
    assert row.reason is None
    assert row.error < 1e-5
