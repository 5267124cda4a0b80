"""A run's steps, call after call: how many each takes, what is evaluated between, and where a signal stops them."""

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
from rnnjax.training.program import Evaluate, agreed_seconds
from rnnjax.training.record import Finished
from rnnjax.training.state import TrainState


class Plan(NamedTuple):
    """A run's shape: steps in an epoch, epochs, steps in a call at most, and the epochs between evaluations."""

    epoch_steps: int
    epochs: int
    call_steps: int
    evaluate_every: int

    @property
    def steps(self) -> int:
        """Steps of the whole run."""
        return self.epoch_steps * self.epochs

    def evaluates_at(self, step: int) -> bool:
        """Says whether the validation split is evaluated after so many steps of the run."""
        epoch, rest = divmod(step, self.epoch_steps)
        return step > 0 and rest == 0 and (epoch % self.evaluate_every == 0 or epoch == self.epochs)

    def room(self, step: int) -> int:
        """Returns how many steps a call after a step may take: it ends with an epoch at the latest."""
        return min(self.call_steps, self.epoch_steps - step % self.epoch_steps)


class Steps(Protocol):
    """The compiled steps of a run, or of many."""

    compile_seconds: float

    def __call__(self, state: TrainState, order: Order, first: int, count: int, /) -> tuple[TrainState, Any]:
        """Takes `count` steps from the batch `first` of an order; returns the state and metrics, ``[..., most]``."""
        ...

    def best_count(self, count: int) -> int:
        """Returns how many of `count` steps are best taken in one call."""
        ...


S = TypeVar("S", bound=Steps)


class Programs(NamedTuple, Generic[S]):
    """What a run computes with, or many that are one program.

    Attributes:
      mesh: the devices.
      steps: training steps.
      order: the batches of an epoch.
      evaluate: the evaluation of each split.
      keep: copies a state, whose memory the next call takes for its own.
    """

    mesh: Mesh
    steps: S
    order: Callable[[int], Order]
    evaluate: Mapping[str, Evaluate]
    keep: Callable[[TrainState], Any]


class Writes(Protocol):
    """The places where a run is written down."""

    def write(self, finished: Finished) -> None:
        """Writes what came back of a call, or of an evaluation."""
        ...

    def save_unfinished(self, step: int, state: Any, /, *, evaluation: bool) -> None:
        """Writes a checkpoint to resume from; returns when it is there."""
        ...


class CallTimer:
    """Measures calls, and says how many steps the next one takes; of several processes all must ask the same.

    Args:
      bound: seconds that a call may take, about; 0 for any time.
    """

    def __init__(self, bound: float):
        self._pace = Pace(bound)
        self._began: deque[float] = deque()  # of the calls that are not waited for yet
        self._there = 0.0  # when the last was done

    def count(self, room: int) -> int:
        """Returns how many of at most `room` steps the next call takes."""
        if not self._pace.bound:
            return room
        self._pace = self._pace._replace(step=agreed_seconds(self._pace.step))
        return self._pace.count(room)

    @contextlib.contextmanager
    def starts(self, steps: Steps) -> Iterator[None]:
        """Within it a call starts; what is compiled for it is not in its time."""
        began, compiling = time.perf_counter(), steps.compile_seconds
        yield
        self._began.append(began + steps.compile_seconds - compiling)

    def waits_for(self, finished: Finished | None) -> None:
        """Returns when a call is done, the earliest of those that were not waited for, and notes how long it took."""
        if not self._pace.bound or finished is None or not finished.count:
            return
        jax.block_until_ready(finished.metrics)
        began, self._there = max(self._began.popleft(), self._there), time.perf_counter()
        self._pace = self._pace.after(finished.count, self._there - began)


def train_steps(
    plan: Plan,
    programs: Programs[Any],
    state: TrainState,
    begin: int,
    unfinished: Unfinished,
    record: Writes,
    stop: StopRequest,
    call_seconds: float,
) -> TrainState:
    """Takes the steps from `begin` to the end of the run, and has what comes back written down one call late.

    While the devices work on a call, the host logs the one before it and writes its checkpoint.

    Raises:
      Interrupted: if a signal stopped it.
    """
    step, before, timer = begin, None, CallTimer(call_seconds)
    stopped, evaluated = None, True

    def validate() -> tuple[Any, Any]:
        validation = programs.evaluate["validation"](state.params, stop.of_any_process)
        return validation, None if validation is None else programs.keep(state)

    if unfinished.evaluation:
        validation, kept = validate()
        before, evaluated = Finished(step // plan.epoch_steps, step, 0, {}, validation, kept), validation is not None
    while evaluated and step < plan.steps:
        stopped = stop.of_any_process()
        if stopped:
            break
        epoch, first = divmod(step, plan.epoch_steps)
        count = programs.steps.best_count(timer.count(plan.room(step)))
        with timer.starts(programs.steps):
            state, metrics = programs.steps(state, programs.order(epoch), first, count)
        step += count
        finished = Finished(epoch + 1, step, count, metrics, None, None)
        timer.waits_for(finished if waits_for_calls() else before)
        if plan.evaluates_at(step):
            validation, kept = validate()
            finished, evaluated = finished._replace(validation=validation, state=kept), validation is not None
        if before is not None:
            record.write(before)
        before = finished
    if before is not None:
        record.write(before)
    if evaluated and step == plan.steps:
        return state
    stopped = stopped or stop.of_any_process()
    if step == 0:
        raise Interrupted(f"stopped by {stopped} before the first step")
    record.save_unfinished(step, programs.keep(state), evaluation=not evaluated)
    raise Interrupted(f"stopped by {stopped} at step {step} of {plan.steps}, after a checkpoint")
