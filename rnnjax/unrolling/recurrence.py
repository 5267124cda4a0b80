"""The contract of an unrolling method, and the recurrences that a method runs."""

from __future__ import annotations

from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from rnnjax.cells.cell import Cell, Key, Params, State
from rnnjax.cells.checks import check_new_state, check_new_types
from rnnjax.cells.told_apart import ToldApart
from rnnjax.unrolling.closed_over import with_closed_over
from rnnjax.unrolling.cutting import Taken, nan_up_to_reset, step_before_reset
from rnnjax.unrolling.own_gates import check_own_gates
from rnnjax.unrolling.selecting import select, zeros_where
from rnnjax.unrolling.varying import vary, varying_axes


class Steps(NamedTuple):
    """What the steps read, each leaf ``[T, ...]``.

    Attributes:
      z: what the cell's `inputs` returned.
      valid: which sequences take each step; None: all.
      resets: which sequences are reset before each step, none where they do not take it; None: none.
      followed: which sequences are reset at some time after each step; None: none.
    """

    z: Any
    valid: Bool[Array, "T *B"] | None
    resets: Bool[Array, "T *B"] | None
    followed: Bool[Array, "T *B"] | None = None


class Recurrence(NamedTuple):
    """The step of one cell, to be repeated over time.

    Attributes:
      cell: the cell.
      params: its parameters.
      state: the state before the first step, each leaf ``[*batch, ...]``.
      initial: the state that resets go back to; None without resets.
      steps: what the steps read.
      xs: the inputs from which the cell's `inputs` computed the z of all steps; None if it used more than them.
      gaps: whether steps that are not valid may lie anywhere; otherwise they follow all valid ones.
      keeps_states: whether every output is a pair of ``y`` and the state after the step.
      may_finish: whether a method may call the cell's `outputs` itself, and return `Finished`.
    """

    cell: Cell
    params: Params
    state: State
    initial: State
    steps: Steps
    xs: Float[Array, "T *B I"] | None = None
    gaps: bool = False
    keeps_states: bool = False
    may_finish: bool = False

    @property
    def length(self) -> int:
        """Number T of steps."""
        # Any leaf will do: z may be a tree, and the masks None.
        return jax.tree.leaves(self.steps)[0].shape[0]

    @property
    def closes_over_traced(self) -> bool:
        """Whether the cell's step reads values that are being traced and are none of its arguments."""

        def step(params: Params, state: State, zs: Any) -> Any:
            return self.cell.step(params, state, jax.tree.map(lambda leaf: leaf[0], zs))

        return bool(with_closed_over(step, self.params, self.state, self.steps.z)[1])

    def step(self, state: State, step: Steps) -> tuple[State, Any]:
        """Takes one step from the initial state where it is reset; the state stays as it was where it is not valid."""
        before = state if step.resets is None else select(step.resets, self.initial, state)
        if step.followed is None:
            after, y = self.cell.step(self.params, before, step.z)
        else:
            after, y = step_before_reset(self.cell, Taken(self.params, before, step.z, self.initial, step.followed))
        check_new_state(self.cell, after, before)
        check_new_types(self.cell, after, before)
        # Back to `state`, not to `before`: a reset at a step that is missing is skipped with it.
        after = after if step.valid is None else select(step.valid, after, state)
        return after, (y, after) if self.keeps_states else y


class CellSequence(NamedTuple):
    """A whole cell over a time-major batch of sequences, before it is taken apart into recurrences.

    Attributes:
      cell: the cell, which may be made of several, such as a `Stack`.
      params: its parameters.
      xs: the inputs.
      state: the state before the first step.
      initial: the state that resets go back to; None without resets.
      valid, resets, followed: as in `Steps`.
      key: PRNG key for dropout; None means evaluation.
      gaps, keeps_states: as in `Recurrence`.
    """

    cell: Cell
    params: Params
    xs: Float[Array, "T *B I"]
    state: State
    initial: State
    valid: Bool[Array, "T *B"] | None
    resets: Bool[Array, "T *B"] | None
    key: Key
    gaps: bool = False
    keeps_states: bool = False
    followed: Bool[Array, "T *B"] | None = None


class Method(ToldApart):
    """A way to unroll: derive from it as a frozen dataclass, since a method is static under `jax.jit`.

    Most methods define `run`, and `why_not` if there is a recurrence that they cannot run. A method that needs the
    whole cell at once overrides `over` instead.
    """

    keeps_states: ClassVar[bool] = False  # whether `run` can return the states of all steps, as `unroll_states` needs

    def why_not(self, recurrence: Recurrence) -> str | None:
        """Returns in one sentence why the method cannot run a recurrence, and what to do; None if it can."""
        return None

    def run(self, recurrence: Recurrence) -> tuple[Array, State]:
        """Returns ``ys [T, *batch, O]`` and the state after the last step."""
        raise NotImplementedError(f"{type(self).__name__} must define run, or over if it unrolls whole cells")

    def serve(self, recurrence: Recurrence) -> tuple[Any, State]:
        """Runs a recurrence after asking `why_not`.

        Raises:
          ValueError: with the sentence of `why_not`, if the method cannot run it; for a user's own cell that reads a
            gate which it does not have.
        """
        check_own_gates(recurrence.cell, recurrence.params, recurrence.state, recurrence.steps.z)
        reason = self.why_not(recurrence)
        if reason is not None:
            raise ValueError(reason)
        return self.run(recurrence)

    def over(self, sequence: CellSequence) -> tuple[Array, State]:
        """Returns ``ys [T, *batch, O]`` and the last state of a whole cell, by running each recurrence in it.

        Raises:
          ValueError: if the method cannot run one of them.
        """
        cut = _Cut(sequence)

        def recur(cell, params, zs, state, initial, xs=None, may_finish=False) -> tuple[Any, State]:
            steps = Steps(zs, sequence.valid, sequence.resets, sequence.followed)
            # Together, so that a state and the one it is reset to have the same type.
            state, initial = varying_like(steps, params, state, initial)
            # What is not finite before a reset is made finite before any product.
            options = sequence.gaps, sequence.keeps_states, may_finish and sequence.followed is None
            recurrence = Recurrence(cell, params, state, initial, steps, xs, *options)
            outputs, last = self.serve(recurrence)
            # `over_time` puts the states that its recurrences return together without looking into them: given the
            # states of all steps in the place of the last, it returns those of all steps.
            ys, states = outputs if sequence.keeps_states else (outputs, last)
            return cut.finite(ys), states

        # Inputs were made finite by `cut_off`, except inside `Wavefront`, whose layers read what others have computed.
        xs = cut.finite(sequence.xs)
        ys, state = sequence.cell.over_time(recur, sequence.params, xs, sequence.state, sequence.initial, sequence.key)
        return cut.marked(ys), state


class _Cut:
    """What is not finite before a reset, among the inputs of a cell's parts and outputs: zero within, NaN in the end.

    A layer above multiplies its inputs by weights, whose gradient would be zero times what is not finite.
    """

    def __init__(self, sequence: CellSequence):
        self._resets, self._followed = sequence.resets, sequence.followed
        # One mask [T, *B] for the inputs and for the outputs of each part, in the order in which they are run.
        self._bad: list[Array] = []

    def finite(self, ys: Array) -> Array:
        """Returns a sequence with zeros at the steps whose numbers are not finite; `marked` knows which these are."""
        if self._followed is None:
            return ys
        # Only where a reset follows: otherwise NaN must reach whatever it would reach without resets.
        self._bad.append(self._followed & ~jnp.isfinite(ys).all(-1))
        return zeros_where(self._bad[-1], ys)

    def marked(self, ys: Array) -> Array:
        """Returns outputs that are NaN from the first of these steps on, up to the reset."""
        if self._resets is None or not self._bad:
            return ys
        # [parts, T, *B] to [T, *B]: whichever part it was that had to be made finite.
        return nan_up_to_reset(ys, jnp.stack(self._bad).any(0), self._resets)


def varying_like(steps: Steps, params: Params, *states: State) -> list[State]:
    """Returns states marked as varying over every mesh axis over which the steps or the parameters vary.

    Inside `jax.shard_map` a loop's carry must have one type throughout; elsewhere this changes nothing.
    """
    return vary(list(states), varying_axes((steps, params, states)))
