"""Contenders are timed in turns, without what comes before the first run."""

import jax
import jax.numpy as jnp
import pytest

from benchmarks import timing


class FakeClock:
    """A clock that stands still but for what `spend` adds, and a log of who spent."""

    def __init__(self):
        self.now, self.log = 0.0, []

    def __call__(self):
        return self.now

    def contender(self, name, *costs):
        remaining = list(costs)

        def call():
            self.log.append(name)
            self.now += remaining.pop(0) if len(remaining) > 1 else remaining[0]
            return jnp.zeros(())

        return call


def test_contenders_take_turns():
    clock = FakeClock()
    contenders = {"A": clock.contender("A", 1), "B": clock.contender("B", 2)}
    times = timing.interleave(contenders, repeats=3, clock=clock)
    assert "".join(clock.log) == "AB" + "ABABAB"
    assert times == {"A": [1, 1, 1], "B": [2, 2, 2]}


def test_the_first_run_is_not_counted():
    clock = FakeClock()
    times = timing.interleave({"A": clock.contender("A", 100, 1)}, repeats=4, clock=clock)
    assert times == {"A": [1, 1, 1, 1]}


@pytest.mark.parametrize(("seconds", "repeats", "rounds"), [(10, 100, 4), (1, 100, 3), (1, 2, 2), (1000, 5, 5)])
def test_rounds_end_with_the_time_but_not_before_the_third(seconds, repeats, rounds):
    clock = FakeClock()
    contenders = {"A": clock.contender("A", 1), "B": clock.contender("B", 2)}
    times = timing.interleave(contenders, repeats=repeats, seconds=seconds, clock=clock)
    assert [len(times[name]) for name in "AB"] == [rounds, rounds]


def test_spread_is_the_median_and_the_quartiles():
    assert timing.spread([5, 1, 4, 2, 3]) == (3, 2, 4)
    assert timing.spread([7]) == (7, 7, 7)


def test_build_times_each_stage_and_returns_what_runs():
    ticks = iter([0.0, 1.0, 3.0, 7.0])
    built = timing.build(lambda x: 2 * x, jnp.ones(8), clock=lambda: next(ticks))
    assert (built.trace_seconds, built.lower_seconds, built.compile_seconds, built.seconds) == (1, 2, 4, 7)
    assert float(built.run(jnp.ones(8)).sum()) == 16
    assert built.memory.argument_bytes == built.memory.output_bytes == 8 * 4


def test_cold_compilation_puts_the_cache_back():
    before = jax.config.values["jax_enable_compilation_cache"]
    with timing.cold_compilation():
        assert jax.config.values["jax_enable_compilation_cache"] is False
    assert jax.config.values["jax_enable_compilation_cache"] == before
