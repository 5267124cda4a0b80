"""The training loop: calls of many steps each, evaluations between them, and the stop after a signal."""

from __future__ import annotations

import contextlib
import time
from collections import deque
from collections.abc import Iterator
from typing import NamedTuple

import jax

from rnnjax.backend import waits_for_calls
from rnnjax.parallel.distributed import wait_for_all
from rnnjax.training.engine import Engine
from rnnjax.training.interruption import Interrupted, StopRequest
from rnnjax.training.pace import Pace
from rnnjax.training.program import TrainProgram, settle
from rnnjax.training.record import Beginning, CallResults, Record
from rnnjax.training.step import TrainState


class Trained(NamedTuple):
    """What training ends with.

    Attributes:
      states: of every run after the last step, on the devices.
      steps_per_second: of each run, with evaluations but without compiling the training steps.
      input_wait: the share of the steps' time that the host spent on gathering and sending batches.
    """

    states: TrainState
    steps_per_second: float
    input_wait: float


def train_and_test(engine: Engine, begin: Beginning, record: Record, stop: StopRequest) -> Trained:
    """Trains to the end of the runs, and records the metrics of the test split.

    Args:
      engine: the programs of the runs.
      begin: what to begin with.
      record: where everything is recorded.
      stop: tells of signals.

    Raises:
      Interrupted: if a signal stopped it, after a checkpoint unless no step was taken. A test that was stopped is
        repeated as a whole.
    """
    started, schedule = time.perf_counter(), engine.schedule
    with record.progress:
        states = train_steps(engine, begin, record, stop)
        # Programs are compiled in the loop, when they are first called.
        seconds = max(time.perf_counter() - started - engine.steps.compile_seconds, 1e-9)
        record.checkpoints.wait()
        # None if a signal has stopped it.
        metrics = engine.evaluate["test"](states.evaluated, stop.of_any_process)
        if metrics is not None:
            stop.unless_stopped(lambda: record.write_test(metrics, states.evaluated))
        wait_for_all("scored")  # scoring may take longer than the time limit of the checkpoints' own barriers
    stopped = stop.of_any_process()
    if stopped:
        raise Interrupted(f"stopped by {stopped} after the last step, {schedule.steps}, and its checkpoint")
    return Trained(states, (schedule.steps - begin.step) / seconds, engine.steps.input_seconds / seconds)


class CallTimer:
    """Measures calls, and chooses how many steps the next one takes. All processes of a run must call it alike.

    Args:
      bound: about how many seconds a call may take; 0 for no limit.
    """

    def __init__(self, bound: float):
        self._pace = Pace(bound)
        self._start_times: deque[float] = deque()  # of the calls that have not been waited for yet
        self._last_end = 0.0

    def count(self, available: int) -> int:
        """Returns how many of at most `available` steps the next call takes."""
        return self._pace.count(available)

    @contextlib.contextmanager
    def starting(self, steps: TrainProgram) -> Iterator[None]:
        """Notes when a call starts that is made within this context; time spent on compiling does not count."""
        start, compile_seconds = time.perf_counter(), steps.compile_seconds
        yield
        # As if the call had been made after compiling.
        self._start_times.append(start + steps.compile_seconds - compile_seconds)

    def wait_for(self, results: CallResults | None) -> None:
        """Waits for the earliest call that has not been waited for, which has these results, and measures it."""
        if not self._pace.bound or results is None or not results.count:
            return
        jax.block_until_ready(results.metrics)
        start = max(self._start_times.popleft(), self._last_end)  # a device computes one call after another
        self._last_end = time.perf_counter()
        self._pace = self._pace.after(results.count, self._last_end - start)


def train_steps(engine: Engine, begin: Beginning, record: Record, stop: StopRequest) -> TrainState:
    """Trains to the end of the run.

    The results of a call are recorded one call late: while the devices compute a call, the host logs the one before it
    and writes its checkpoint.

    Args:
      engine: the programs of the runs.
      begin: what to begin with.
      record: records the results of calls.
      stop: tells of signals.

    Returns:
      the states after the last step.

    Raises:
      Interrupted: if a signal stopped the runs, after a checkpoint unless no step was taken.
    """
    schedule, states, step = engine.schedule, begin.states, begin.step
    previous, timer = None, CallTimer(engine.config.call_seconds)
    stopped, evaluated = None, True

    def validate(results: CallResults) -> tuple[CallResults, bool]:
        """Adds validation metrics and states, unless a signal stops the evaluation; returns whether none did."""
        validation = engine.evaluate["validation"](states.evaluated, stop.of_any_process)
        if validation is None:
            return results, False
        # A copy, since the next call takes the memory of the states before these are written.
        return results._replace(validation=validation, state=settle(engine.copy_states(states))), True

    if begin.unfinished.evaluation:
        epoch = step // schedule.epoch_steps
        # A call of no steps: the evaluation that the stopped runs owe.
        previous, evaluated = validate(CallResults(epoch, step, 0, {}, None, None))
    while evaluated and step < schedule.steps:
        stopped = stop.of_any_process()
        if stopped:
            break
        epoch, first_batch = divmod(step, schedule.epoch_steps)
        count = engine.steps.best_count(timer.count(schedule.most_steps_after(step)))
        with timer.starting(engine.steps):
            states, metrics = engine.steps(states, engine.order(epoch), first_batch, count)
        step += count
        results = CallResults(epoch + 1, step, count, metrics, None, None)
        # Where calls are not waited for, the one before, so that the devices have this one to compute meanwhile.
        timer.wait_for(results if waits_for_calls() else previous)
        if schedule.evaluates_at(step):
            results, evaluated = validate(results)
        if previous is not None:
            record.write(previous)
        previous = results
    if previous is not None:
        record.write(previous)
    # A signal that came after the last step finds nothing left to stop here.
    if evaluated and step == schedule.steps:
        return states
    # None where a signal has ended an evaluation, which does not say which.
    stopped = stopped or stop.of_any_process()
    if step == 0:
        raise Interrupted(f"stopped by {stopped} before the first step")
    record.save_unfinished(step, settle(engine.copy_states(states)), evaluation=not evaluated)
    raise Interrupted(f"stopped by {stopped} at step {step} of {schedule.steps}, after a checkpoint")
