"""Decisions that depend on the kind of device, a function for each, with the reason.

Those about speed were measured on CPUs only (docs/decisions.md, docs/performance.md).
"""

from __future__ import annotations

import os
import traceback

import jax

_MANY_NUMBERS = 2**21  # in an array that a CPU maps anew and whose reading takes longer than computing it again
_NUMBERS_IN_CACHE = 2**17
_FEWEST_STEPS = 16  # in a pass of a loop, which costs as much as some of its operations


def without_device(error: BaseException) -> str | None:
    """Returns a sentence if an error is JAX's that finds no device of the kind that is asked for, else None."""
    frames = traceback.extract_tb(error.__traceback__)
    if not frames or not frames[-1].filename.endswith("xla_bridge.py"):
        return None
    asked = os.environ.get("JAX_PLATFORMS", "")
    return (
        f"JAX finds no device here for JAX_PLATFORMS={asked!r}; set it to cpu, or install what it needs (rnnjax[cuda])"
    )


def on_cpu(platform: str | None = None) -> bool:
    """Says whether JAX computes on a CPU, or whether `platform` is one."""
    return (platform or jax.default_backend()) == "cpu"


def on_gpu(platform: str | None = None) -> bool:
    """Says whether JAX computes on a GPU, or whether `platform` is one."""
    return (platform or jax.default_backend()) in ("gpu", "cuda", "rocm")


def sequences_as_matrices() -> bool:
    """Whether sequences are reshaped to matrices before the product that gives a weight's gradient.

    Without it, XLA transposes them on a CPU. With it, an array that is sharded over other devices would be gathered.
    """
    return on_cpu()


def scans_in_order(platform: str | None = None) -> bool:
    """Whether a linear recurrence is computed one step after another, not as a tree.

    On a CPU the loop is as fast as memory allows; elsewhere a loop costs a kernel launch a step.
    """
    return on_cpu(platform)


def steps_at_once(steps: int, numbers: int) -> int | None:
    """Returns how many steps of a linear recurrence are computed at once; None: all.

    On a CPU, large arrays are mapped anew and read from memory for each operation; those of some steps stay in its
    cache. Elsewhere a loop costs a launch for each operation. Of sizes that are symbols nothing is known.

    Args:
      steps: of the recurrence.
      numbers: in its state.
    """
    size = steps * numbers
    if not on_cpu() or not isinstance(size, int) or size < _MANY_NUMBERS:
        return None
    return max(_FEWEST_STEPS, _NUMBERS_IN_CACHE // numbers)


def whole_jacobians_pay() -> bool:
    """Whether Newton's method may be faster than a loop where Jacobians are whole matrices.

    On a CPU it does many times the work of the loop, and as many steps one after another.
    """
    return not on_cpu()


def z_by_step() -> bool:
    """Whether a loop computes z step by step, if z of the whole sequence then need not be stored.

    On a CPU, every call would have to map that memory. Elsewhere one product for all steps is faster.
    """
    return on_cpu()


def fused_by_rule(platform: str | None = None) -> bool:
    """Whether gated cells are unrolled by `Fused` if nothing was measured; it is known to be fast on CPUs only."""
    return on_cpu(platform)


def runs_in_turn() -> bool:
    """Whether the runs of a sweep that share a program are computed one after another.

    On a CPU, XLA is slow at batched products of small matrices.
    """
    return on_cpu()


def waits_for_calls() -> bool:
    """Whether the host waits for a call before it makes the next one.

    Several programs that run at once on several CPU devices, each waiting for all devices, could use up XLA's threads.
    Other devices run programs in turn.
    """
    return on_cpu()


def asks_after_each_step() -> bool:
    """Whether a loop of an unknown number of steps may synchronise with the host after each step, as on a GPU."""
    return not on_cpu()


def shares_memory() -> bool:
    """Whether all devices share the machine's memory."""
    return on_cpu()


def device_takes_all_cores() -> bool:
    """Whether a single device may use all cores, so that splitting a batch over devices is not always faster.

    Then the parts of a batch must also be large enough.
    """
    return on_cpu()
