"""A recurrence over one part of the steps, the other parts being elsewhere: what it must know of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, Protocol

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool

Combined = Callable[[Any, Any], Any]
Part = Callable[[Any, Any], tuple[Any, Any]]


class Chunks(Protocol):
    """What a recurrence over one part of the steps asks of the others; hashable.

    A step of a linear recurrence is a pair of what the state is multiplied by and of what is added, and two steps after
    one another are such a step again. ``combined(first, second)`` returns it, for steps that have an axis of time.
    """

    def start(self, combined: Combined, steps: tuple[Any, Any], h0: Any, reverse: bool = False) -> Any:
        """Returns the state before this part's first step, in a linear recurrence that begins with `h0`.

        Args:
          combined: returns the step that does what one step and then another do.
          steps: the steps of this part, each leaf ``[T, ...]``.
          h0: the state before the first step of all.
          reverse: whether to go from the last step to the first.
        """
        ...

    def before(self, hs: Any, h0: Any, reverse: bool = False) -> Any:
        """Returns the state before this part's first step from the states after all of its steps, known everywhere."""
        ...

    def at_start(self, number: Any, reverse: bool = False) -> Any:
        """Returns a number where the part is the first one, zero elsewhere."""
        ...

    def any(self, flag: Bool[Array, ""]) -> Bool[Array, ""]:
        """Returns whether a flag is true for any part."""
        ...

    def whole(self, numbers: Any) -> Any:
        """Returns numbers ``[T, ...]`` of this part's steps for all steps."""
        ...

    def in_turns(self, needed: Bool[Array, ""], part: Part, h0: Any, given: Any, reverse: bool = False) -> Any:
        """Returns what a function makes of every part, one after another, or what is given.

        Args:
          needed: whether to do so, the same for all parts.
          part: takes the state before the part's first step and what is given; returns the state after its last step
            and a result.
          h0: the state before the first step of all.
          given: a result, which is returned where nothing is needed.
          reverse: whether the last part is taken first.
        """
        ...


@dataclasses.dataclass(frozen=True)
class Whole:
    """The one part of a recurrence that is not split."""

    def start(self, combined: Combined, steps: tuple[Any, Any], h0: Any, reverse: bool = False) -> Any:
        """Returns `h0`.

        Args:
          combined, steps, h0, reverse: as in `Chunks`.
        """
        return h0

    def before(self, hs: Any, h0: Any, reverse: bool = False) -> Any:
        return h0

    def at_start(self, number: Any, reverse: bool = False) -> Any:
        return number

    def any(self, flag: Bool[Array, ""]) -> Bool[Array, ""]:
        return flag

    def whole(self, numbers: Any) -> Any:
        return numbers

    def in_turns(self, needed: Bool[Array, ""], part: Part, h0: Any, given: Any, reverse: bool = False) -> Any:
        """Returns what a function makes of all steps, or what is given.

        Args:
          needed, part, h0, given, reverse: as in `Chunks`.
        """

        # A loop of one turn or of none: of a condition, `jax.vmap` takes both branches.
        def turn(carry: tuple[Array, Any]) -> tuple[Array, Any]:
            return carry[0] + 1, part(h0, carry[1])[1]

        return jax.lax.while_loop(lambda carry: carry[0] < 1, turn, (jnp.where(needed, 0, 1), given))[1]


WHOLE = Whole()
