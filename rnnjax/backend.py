"""Where the kind of machine decides how something is computed: a question a function, each with its reason.

What is a matter of speed was measured on CPUs (docs/decisions.md, docs/performance.md), and nowhere else yet.
"""

from __future__ import annotations

import jax


def on_cpu(platform: str | None = None) -> bool:
    """Returns whether JAX computes on a CPU; `platform` asks of another than JAX's default."""
    return (platform or jax.default_backend()) == "cpu"


def sequences_as_matrices() -> bool:
    """Whether a sequence is made a matrix before the product that gives a weight's gradient.

    XLA would transpose it on a CPU. Elsewhere an array that is spread over devices would have to be gathered.
    """
    return on_cpu()


def z_by_step() -> bool:
    """Whether a loop makes the gates' inputs step by step, where that saves z of the whole sequence.

    On a CPU that is memory which every call has to map; elsewhere one product of all steps is the faster one.
    """
    return on_cpu()


def fused_by_rule(platform: str | None = None) -> bool:
    """Whether gated cells are unrolled by `Fused` where nothing else is known; elsewhere that has not been measured."""
    return on_cpu(platform)


def runs_in_turn() -> bool:
    """Whether the runs of a sweep that share a program are computed one after the other.

    XLA is slow on a CPU at small products of many runs in one.
    """
    return on_cpu()


def waits_for_calls() -> bool:
    """Whether a call is waited for before the next one is made.

    With programs of several CPU devices under way at the same time, each waiting for all devices, XLA's threads could
    run out. Other devices take programs in turn.
    """
    return on_cpu()


def asks_after_each_step() -> bool:
    """Whether a loop that does not know its number of steps has to ask the host after each: so it may be on a GPU."""
    return not on_cpu()


def shares_memory() -> bool:
    """Whether all devices have one memory, the machine's."""
    return on_cpu()


def device_takes_all_cores() -> bool:
    """Whether one device alone may use all that several share: a batch is then split only if that is faster.

    Parts of a batch must also be large enough to be worth it.
    """
    return on_cpu()
