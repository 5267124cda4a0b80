"""What the pallas kernels do not run, and what is said of it."""

import dataclasses
import re
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import pytest
from cells_under_test import H, I, LeakySum, inputs, parameters

from rnnjax import GRU, LSTM, GatedCell, Heads, HiddenState, Pallas, Stack, unroll
from rnnjax.unrolling.kernels.pallas import unsuited_device, unsuited_recurrence
from rnnjax.unrolling.recurrence import Recurrence, Steps

INTERPRETED = Pallas(interpret=True)


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
        (Pallas(), LSTM(H), r"Pallas\(\) runs on a GPU; .* Pallas\(interpret=True\) to test it"),
        (INTERPRETED, LeakySum(I), "takes gated cells whose step is GatedCell's, and LeakySum is not one"),
        (INTERPRETED, GRU(H, reset="before"), r"GRU mixes hidden units in its gates, .* use Fused\(\) or Scan\(\)"),
        (INTERPRETED, LSTM(H, layer_norm=True), "LSTM mixes hidden units in its gates"),
        (INTERPRETED, Stack((LSTM(H), LSTM(H, projection_size=2))), "LSTM mixes hidden units in its gates"),
    ],
    ids=str,
)
def test_what_the_kernels_cannot_run_is_said(method, cell, sentence):
    with pytest.raises(ValueError, match=sentence):
        unroll(cell, parameters(cell), inputs(2, 3, I), method=method)


def gates_of(function):
    @dataclasses.dataclass(frozen=True)
    class Own(GatedCell):
        gate_count = 2

        def gates(self, params, state, z, r):
            return HiddenState(function(z + r)[..., 1, :])

    return Own(H)


@pytest.mark.parametrize(
    ("function", "sentence"),
    [
        (jnp.tan, r"Pallas\(\) has no instruction for tan, which the gates of Own or their derivative use; use Fused"),
        (
            lambda x: jnp.cumsum(x, -2),
            "cannot run the gates of Own: gates use cumsum, which is not known to be pointwise",
        ),
    ],
    ids=["no instruction", "not pointwise"],
)
def test_gates_that_no_kernel_can_compute_are_refused_before_one_is_built(function, sentence):
    assert re.search(sentence, unsuited_recurrence(shapes(gates_of(function))))
    with pytest.raises(ValueError, match=sentence):
        unroll(gates_of(function), parameters(gates_of(function)), inputs(2, 3, I), method=INTERPRETED)


def test_types_that_tensor_cores_do_not_multiply_are_named():
    with jax.enable_x64(True), pytest.raises(ValueError, match="float32, bfloat16, float16, got float64"):
        unroll(LSTM(H), parameters(LSTM(H), dtype=float), inputs(2, 3, I, dtype=float), method=INTERPRETED)


def test_a_weight_that_does_not_fit_names_the_limit_and_the_nearest_size_that_does():
    reason = unsuited_recurrence(shapes(LSTM(4000)))
    nearest = int(reason.split("at most ")[1].split()[0])
    assert unsuited_recurrence(shapes(LSTM(nearest))) is None
    assert unsuited_recurrence(shapes(LSTM(nearest + 16))) is not None
    assert "132 blocks of 227 KiB" in reason
    assert "a batch of 16 in bfloat16" in reason


def test_the_limits_of_heads_are_those_of_one_head_but_for_the_length():
    assert unsuited_recurrence(in_heads(LSTM(4000), 40)) is None
    assert re.search("at most [0-9]+ hidden units a head, got 2000", unsuited_recurrence(in_heads(LSTM(4000), 2)))
    most = 2**31 // (12 * 16 * 4 * 64) - 1
    assert f"at most {most} steps" in unsuited_recurrence(in_heads(LSTM(768), 12, steps=most + 1))
    assert unsuited_recurrence(in_heads(LSTM(768), 12, steps=most)) is None


def in_heads(cell, n, **options):
    """Returns the recurrence of a cell in heads, as shapes."""
    return shapes(Heads(cell, n), **options)._replace(cell=cell)


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
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(jax, "devices", lambda: [gpu(*device)])
    reason = unsuited_device()
    assert reason is None if sentence is None else re.search(sentence, reason)


def test_exact_products_of_float32_are_left_to_others():
    with jax.default_matmul_precision("highest"):
        assert "multiplies float32 in TensorFloat-32" in unsuited_recurrence(shapes(LSTM(64), dtype=jnp.float32))
        assert unsuited_recurrence(shapes(LSTM(64))) is None


def test_parameters_of_other_types_are_named():
    given = shapes(LSTM(64))
    whole = given._replace(params=given.params._replace(b=jax.ShapeDtypeStruct((4, 64), jnp.int32)))
    assert "got int32" in unsuited_recurrence(whole)


def test_a_sequence_too_long_to_index_names_the_limit_with_the_padding_of_the_batch():
    most = 2**31 // (8 * 4 * 768) - 1
    reason = unsuited_recurrence(shapes(LSTM(768), batch=1, steps=most + 1))
    assert f"at most {most} steps at once here, got {most + 1}" in reason
    assert unsuited_recurrence(shapes(LSTM(768), batch=1, steps=most)) is None


@pytest.mark.parametrize(
    ("variable", "value", "sentence"),
    [
        (
            "XLA_FLAGS",
            "--xla_a=1 --xla_gpu_command_buffer_scheduling_mode=CONCURRENT",
            "=CONCURRENT; leave that out, or",
        ),
        ("XLA_FLAGS", "--xla_gpu_graph_enable_concurrent_region", "concurrent_region; leave that out, or use Fused"),
        ("CUDA_MPS_PIPE_DIRECTORY", "", "CUDA's multi-process service runs, as .* shows; end it, or"),
    ],
)
def test_what_would_run_another_kernel_beside_one_whose_blocks_wait_is_named(
    monkeypatch, tmp_path, variable, value, sentence
):
    monkeypatch.setenv("CUDA_MPS_PIPE_DIRECTORY", str(tmp_path / "none"))
    monkeypatch.setenv("XLA_FLAGS", "--xla_gpu_command_buffer_scheduling_mode=LHS")
    assert unsuited_recurrence(shapes(LSTM(256))) is None
    (tmp_path / "control").touch()
    monkeypatch.setenv(variable, value or str(tmp_path))
    assert re.search(sentence, unsuited_recurrence(shapes(LSTM(256))))
    assert unsuited_recurrence(shapes(LSTM(16))) is None


@pytest.mark.parametrize("interpret", [1, "yes", None])
def test_interpreting_is_asked_for_by_a_bool(interpret):
    with pytest.raises(TypeError, match=f"interpret must be True or False, got {interpret!r}"):
        Pallas(interpret)
