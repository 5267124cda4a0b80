"""Measuring: tracing, compiling and running apart, contenders run in turns, and medians."""

from __future__ import annotations

import contextlib
import math
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import jax

Clock = Callable[[], float]
K = TypeVar("K")
_TURN = 0.05  # seconds


class Memory(NamedTuple):
    """What a compiled program holds at once, in bytes, as the compiler plans it."""

    argument_bytes: int
    output_bytes: int
    temp_bytes: int


class Build(NamedTuple):
    """A program compiled ahead of time: what to call, how long each stage took, and its memory (None: not known)."""

    run: Callable[..., Any]
    trace_seconds: float
    lower_seconds: float
    compile_seconds: float
    memory: Memory | None

    @property
    def seconds(self) -> float:
        """What a caller waits for before the first run."""
        return self.trace_seconds + self.lower_seconds + self.compile_seconds


class Spread(NamedTuple):
    """The median and the quartiles of some times, in seconds."""

    median: float
    low: float
    high: float


@contextlib.contextmanager
def cold_compilation() -> Iterator[None]:
    """Within it nothing compiled comes from the disk, and the compiler is loaded: builds pay for themselves only."""
    before = jax.config.values["jax_enable_compilation_cache"]
    jax.config.update("jax_enable_compilation_cache", False)
    try:
        jax.block_until_ready(jax.jit(lambda x: x @ x)(jax.numpy.ones((2, 2))))
        yield
    finally:
        jax.config.update("jax_enable_compilation_cache", before)


def build(function: Callable[..., Any], *arguments: Any, clock: Clock = time.perf_counter) -> Build:
    """Traces, lowers and compiles a function for some arguments, with nothing kept from builds before."""
    jax.clear_caches()
    start = clock()
    traced = jax.jit(function).trace(*arguments)
    at_trace = clock()
    lowered = traced.lower()
    at_lower = clock()
    compiled = lowered.compile()
    at_compile = clock()
    return Build(compiled, at_trace - start, at_lower - at_trace, at_compile - at_lower, planned_memory(compiled))


def planned_memory(compiled: jax.stages.Compiled) -> Memory | None:
    """Returns the memory of a compiled program, None where the backend does not say."""
    plan = compiled.memory_analysis()
    if plan is None:
        return None
    return Memory(plan.argument_size_in_bytes, plan.output_size_in_bytes, plan.temp_size_in_bytes)


def interleave(
    contenders: Mapping[K, Callable[[], Any]],
    *,
    repeats: int,
    seconds: float = float("inf"),
    least: int = 3,
    clock: Clock = time.perf_counter,
) -> dict[K, list[float]]:
    """Times contenders in turns, A B A B, each call until its result is ready; returns their times in seconds.

    Everyone runs once before, untimed. What disturbs the machine for a while then disturbs all of them alike.

    Args:
      contenders: what to call, by name or whatever tells them apart, in this order.
      repeats: number of rounds.
      seconds: after so long no round is begun,
      least: except up to this many (never more than `repeats`).
      clock: returns the time in seconds.
    """
    for call in contenders.values():
        jax.block_until_ready(call())
    times: dict[K, list[float]] = {name: [] for name in contenders}
    begin = clock()
    for turn in range(repeats):
        if turn >= least and clock() - begin >= seconds:
            break
        for name, call in contenders.items():
            times[name].append(duration(call, clock))
    return times


def duration(call: Callable[[], Any], clock: Clock = time.perf_counter) -> float:
    """Returns the seconds until the result of a call is ready."""
    start = clock()
    jax.block_until_ready(call())
    return clock() - start


class Turn:
    """A turn of a contender: one call that is not timed, then as many as take some time; keeps the time of one.

    The first call meets what the contender before left behind: memory that the system is still taking back, and threads
    that go on spinning, waiting for work. Where it leaves such threads itself, a pause follows.
    """

    def __init__(self, call: Callable[[], Any], pause: float = 0.0):
        self._call, self._pause = call, pause
        self._count = max(1, math.ceil(_TURN / max(duration(call), 1e-6)))
        self.times: list[float] = []

    def __call__(self) -> None:
        jax.block_until_ready(self._call())
        begin = time.perf_counter()
        for _ in range(self._count):
            jax.block_until_ready(self._call())
        self.times.append((time.perf_counter() - begin) / self._count)
        time.sleep(self._pause)


def in_turns(
    calls: Mapping[K, Callable[[], Any]], *, seconds: float, pauses: Mapping[K, float] | None = None
) -> dict[K, list[float]]:
    """Times contenders in turns of some calls each, for so long and three turns at least.

    Args:
      calls: what to call, by name or whatever tells them apart, in this order.
      seconds: after so long no round is begun.
      pauses: seconds to wait after a turn, of those whose threads go on spinning.

    Returns:
      The seconds of a call of each contender in each turn.
    """
    turns = {name: Turn(call, (pauses or {}).get(name, 0.0)) for name, call in calls.items()}
    interleave(turns, repeats=1000, seconds=seconds)
    # The first is from before the rounds.
    return {name: turn.times[1:] for name, turn in turns.items()}


def usual(call: Callable[[], Any], seconds: float = 0.3) -> float:
    """Returns the median seconds of the calls that such a time has room for, five at least, after one not timed."""
    jax.block_until_ready(call())
    times = [duration(call) for _ in range(5)]
    while sum(times) < seconds:
        times.append(duration(call))
    return statistics.median(times)


def spread(times: Sequence[float]) -> Spread:
    """Returns the median and the quartiles; those of a single time are that time."""
    if len(times) == 1:
        return Spread(times[0], times[0], times[0])
    low, median, high = statistics.quantiles(times, n=4, method="inclusive")
    return Spread(median, low, high)
