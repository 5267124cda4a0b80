"""Which backend serves, and what is said when one cannot."""

import re
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import pytest
from cells_under_test import H, I, LeakySum, inputs, parameters, same

from rnnjax import GRU, LSTM, Dropout, Fused, Stack, unroll
from rnnjax.unrolling.kernels import pallas, selection
from rnnjax.unrolling.recurrence import Recurrence, Steps

INTERPRETED = Fused(backend="pallas", interpret=True)


def shapes(cell, batch=16, dtype=jnp.bfloat16, steps=5):
    """Returns a recurrence of shapes alone."""

    def made():
        params, xs = cell.init(jax.random.key(0), 8), jnp.zeros((steps, batch, 8), dtype)
        state = cell.initial_state(batch, dtype)
        return Recurrence(None, params, state, state, Steps(cell.inputs(params, xs), None, None))

    return jax.eval_shape(made)._replace(cell=cell)


@pytest.mark.parametrize(
    ("method", "cell", "sentence"),
    [
        (Fused(backend="pallas"), LSTM(H), "the pallas backend runs on a GPU; .* interpret=True to test it"),
        (INTERPRETED, LeakySum(I), "takes gated cells whose step is GatedCell's, and LeakySum is not one"),
        (INTERPRETED, GRU(H, reset="before"), "GRU mixes hidden units in its gates, .* ask for backend='xla'"),
        (INTERPRETED, LSTM(H, layer_norm=True), "LSTM mixes hidden units in its gates"),
        (INTERPRETED, Stack((LSTM(H), LSTM(H, projection_size=2))), "LSTM mixes hidden units in its gates"),
    ],
    ids=str,
)
def test_a_backend_that_cannot_serve_says_so(method, cell, sentence):
    with pytest.raises(ValueError, match=sentence):
        unroll(cell, parameters(cell), inputs(2, 3, I), method=method)


def test_types_that_tensor_cores_do_not_multiply_are_named():
    with jax.enable_x64(True), pytest.raises(ValueError, match="float32, bfloat16, float16, got float64"):
        unroll(LSTM(H), parameters(LSTM(H), dtype=float), inputs(2, 3, I, dtype=float), method=INTERPRETED)


def test_a_weight_that_does_not_fit_names_the_limit_and_the_nearest_size_that_does():
    reason = pallas.why_not(shapes(LSTM(4000)), platform="gpu")
    nearest = int(reason.split("at most ")[1].split()[0])
    assert pallas.why_not(shapes(LSTM(nearest)), platform="gpu") is None
    assert pallas.why_not(shapes(LSTM(nearest + 16)), platform="gpu") is not None
    assert "132 blocks of 227 KiB" in reason
    assert "a batch of 16 in bfloat16" in reason


def gpu(name, capability, multiprocessors, cuda):
    return SimpleNamespace(
        platform="gpu",
        device_kind=name,
        compute_capability=capability,
        core_count=multiprocessors,
        client=SimpleNamespace(platform_version=f"PJRT C API\ncuda {cuda}"),
    )


@pytest.mark.parametrize(
    ("device", "sentence"),
    [
        (("NVIDIA H100 80GB HBM3", "9.0", 132, 13000), None),
        (("NVIDIA H100 PCIe", "9.0", 114, 13000), "with 132 multiprocessors, .* got NVIDIA H100 PCIe with 9.0 and 114"),
        (("NVIDIA A100", "8.0", 108, 13000), "compute capability 9.0 .* got NVIDIA A100 with 8.0 and 108"),
        (("NVIDIA H100 80GB HBM3", "9.0", 132, 12090), "needs CUDA 13, as CUDA 12 compiles it to wrong code"),
    ],
)
def test_gpus_that_the_kernels_are_not_for_are_named(monkeypatch, device, sentence):
    recurrence = shapes(LSTM(64))
    monkeypatch.setattr(jax, "devices", lambda: [gpu(*device)])
    reason = pallas.why_not(recurrence, platform="gpu")
    assert reason is None if sentence is None else re.search(sentence, reason)


def test_exact_products_of_float32_are_left_to_others():
    with jax.default_matmul_precision("highest"):
        assert "multiplies float32 in TensorFloat-32" in pallas.why_not(
            shapes(LSTM(64), dtype=jnp.float32), platform="gpu"
        )
        assert pallas.why_not(shapes(LSTM(64)), platform="gpu") is None


def test_parameters_of_other_types_are_named():
    given = shapes(LSTM(64))
    whole = given._replace(params=given.params._replace(b=jax.ShapeDtypeStruct((4, 64), jnp.int32)))
    assert "got int32" in pallas.why_not(whole, platform="gpu")


def test_a_sequence_too_long_to_index_names_the_limit_with_the_padding_of_the_batch():
    most = 2**31 // (8 * 4 * 768) - 1
    reason = pallas.why_not(shapes(LSTM(768), batch=1, steps=most + 1), platform="gpu")
    assert f"at most {most} steps at once, got {most + 1}" in reason
    assert pallas.why_not(shapes(LSTM(768), batch=1, steps=most), platform="gpu") is None


@pytest.mark.parametrize(
    ("options", "error", "sentence"),
    [
        ({"backend": "triton"}, ValueError, "backend must be one of auto, xla, pallas, cudnn, got 'triton'"),
        ({"interpret": True}, ValueError, "it needs backend='pallas', got 'auto'"),
        ({"backend": "pallas", "interpret": 1}, TypeError, "interpret must be True or False, got 1"),
    ],
)
def test_options_that_mean_nothing_are_refused(options, error, sentence):
    with pytest.raises(error, match=sentence):
        Fused(**options)


def test_on_a_cpu_the_choice_is_xlas_loop():
    cell = Dropout(GRU(H), state_rate=0.5)
    params, xs = parameters(cell), inputs(2, 3, I)
    same(unroll(cell, params, xs, method=Fused()), unroll(cell, params, xs, method=Fused(backend="xla")))
    assert selection.kernel_for("auto", shapes(LSTM(H)), False) is None


def test_on_a_gpu_the_choice_is_what_was_measured(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    kind = jax.devices()[0].device_kind
    monkeypatch.setattr(selection, "MEASURED", (selection.Row(kind, "bfloat16", 256, 32, "pallas"),))
    chosen = [
        selection.kernel_for("auto", shapes(LSTM(n), batch), False) for n, batch in [(256, 32), (272, 32), (256, 33)]
    ]
    assert [run is not None for run in chosen] == [True, False, False]
    assert selection.kernel_for("auto", shapes(LSTM(64), dtype=jnp.float32), False) is None
    assert selection.kernel_for("auto", shapes(LSTM(64, layer_norm=True)), False) is None
