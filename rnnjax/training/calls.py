"""Runs the training loop: calls of many steps each, evaluations between them, and the stop after a signal."""

from __future__ import annotations

import contextlib
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

import jax
from jax.sharding import Mesh

from rnnjax.backend import waits_for_calls
from rnnjax.training.batches import Order
from rnnjax.training.checkpoint import Unfinished
from rnnjax.training.interruption import Interrupted, StopRequest
from rnnjax.training.pace import Pace
from rnnjax.training.program import longest_of_processes
from rnnjax.training.record import CallResults
from rnnjax.training.split_evaluation import Evaluate
from rnnjax.training.state import TrainState


class TrainingSchedule(NamedTuple):
    """How a run is divided into epochs and calls.

    Attributes:
      epoch_steps: steps in an epoch.
      epochs: number of epochs.
      call_steps: most steps in a call.
      evaluate_every: epochs from one evaluation to the next.
    """

    epoch_steps: int
    epochs: int
    call_steps: int
    evaluate_every: int

    @property
    def steps(self) -> int:
        """Steps of the whole run."""
        return self.epoch_steps * self.epochs

    def evaluates_at(self, step: int) -> bool:
        """Says whether the validation split is evaluated after `step` steps of the run."""
        epoch, rest = divmod(step, self.epoch_steps)
        return step > 0 and rest == 0 and (epoch % self.evaluate_every == 0 or epoch == self.epochs)

    def most_steps_after(self, step: int) -> int:
        """Returns the most steps that the call after `step` steps may take: it must not go beyond the epoch."""
        return min(self.call_steps, self.epoch_steps - step % self.epoch_steps)


class Steps(Protocol):
    """The compiled training steps of one run, or of many."""

    compile_seconds: float

    def __call__(self, state: TrainState, order: Order, first: int, count: int, /) -> tuple[TrainState, Any]:
        """Takes some training steps.

        Args:
          state: the state to begin with.
          order: batches, of which each step takes one.
          first: number of the first step's batch.
          count: number of steps.

        Returns:
          the state after the last step, and the metrics of each step, zeros from `count` on.
        """
        ...

    def best_count(self, count: int) -> int:
        """Returns how many of the next `count` steps one call should take."""
        ...


S = TypeVar("S", bound=Steps)


class Programs(NamedTuple, Generic[S]):
    """The compiled programs of one run, or of many that are trained together.

    Attributes:
      mesh: the devices.
      steps: training steps.
      order: returns the batches of an epoch.
      evaluate: by split, its evaluation.
      copy_state: copies a state, whose memory is donated to the next call.
    """

    mesh: Mesh
    steps: S
    order: Callable[[int], Order]
    evaluate: Mapping[str, Evaluate]
    copy_state: Callable[[TrainState], Any]


class Recorder(Protocol):
    """Records the results of calls."""

    def write(self, results: CallResults) -> None:
        """Records the results of a call, or of an evaluation."""
        ...

    def save_unfinished(self, step: int, state: Any, /, *, evaluation: bool) -> None:
        """Writes a checkpoint to resume from; returns when it is complete."""
        ...


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
        if not self._pace.bound:
            return available
        # All processes must take the same number of steps, since each has a collective: the slowest process decides.
        self._pace = self._pace._replace(step=longest_of_processes(self._pace.step))
        return self._pace.count(available)

    @contextlib.contextmanager
    def starting(self, steps: Steps) -> Iterator[None]:
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


def train_steps(
    schedule: TrainingSchedule,
    programs: Programs[Any],
    state: TrainState,
    first_step: int,
    unfinished: Unfinished,
    recorder: Recorder,
    stop: StopRequest,
    call_seconds: float,
) -> TrainState:
    """Trains to the end of the run.

    The results of a call are recorded one call late: while the devices compute a call, the host logs the one before it
    and writes its checkpoint.

    Args:
      schedule: of the run.
      programs: its compiled programs.
      state: the state to begin with.
      first_step: number of steps that led to it.
      unfinished: what the run was doing when it was stopped, if it is resumed.
      recorder: records the results of calls.
      stop: tells of signals.
      call_seconds: about how many seconds a call may take; 0 for no limit.

    Returns:
      the state after the last step.

    Raises:
      Interrupted: if a signal stopped the run, after a checkpoint unless no step was taken.
    """
    step, previous, timer = first_step, None, CallTimer(call_seconds)
    stopped, evaluated = None, True

    def validate(results: CallResults) -> tuple[CallResults, bool]:
        """Adds the validation metrics and the state, unless a signal stops the evaluation; returns whether none did."""
        validation = programs.evaluate["validation"](state.params, stop.of_any_process)
        if validation is None:
            return results, False
        # A copy, since the next call takes the state's memory before this one is written.
        return results._replace(validation=validation, state=programs.copy_state(state)), True

    if unfinished.evaluation:
        epoch = step // schedule.epoch_steps
        # A call of no steps: the evaluation that the stopped run owes.
        previous, evaluated = validate(CallResults(epoch, step, 0, {}, None, None))
    while evaluated and step < schedule.steps:
        stopped = stop.of_any_process()
        if stopped:
            break
        epoch, first_batch = divmod(step, schedule.epoch_steps)
        count = programs.steps.best_count(timer.count(schedule.most_steps_after(step)))
        with timer.starting(programs.steps):
            state, metrics = programs.steps(state, programs.order(epoch), first_batch, count)
        step += count
        results = CallResults(epoch + 1, step, count, metrics, None, None)
        # Where calls are not waited for, the one before, so that the devices have this one to compute meanwhile.
        timer.wait_for(results if waits_for_calls() else previous)
        if schedule.evaluates_at(step):
            results, evaluated = validate(results)
        if previous is not None:
            recorder.write(previous)
        previous = results
    if previous is not None:
        recorder.write(previous)
    # A signal that came after the last step finds nothing left to stop here.
    if evaluated and step == schedule.steps:
        return state
    # None where a signal has ended an evaluation, which does not say which.
    stopped = stopped or stop.of_any_process()
    if step == 0:
        raise Interrupted(f"stopped by {stopped} before the first step")
    recorder.save_unfinished(step, programs.copy_state(state), evaluation=not evaluated)
    raise Interrupted(f"stopped by {stopped} at step {step} of {schedule.steps}, after a checkpoint")
