"""Problems whose sequences are made, not downloaded: each draws an example from a key, and says what counts."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
from abc import ABC, abstractmethod
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int, PRNGKeyArray, Shaped

from rnnjax.unrolling.varying import vary, varying_axes

Length = int | Int[Array, ""]


class Example(NamedTuple):
    """One example: T steps, of which those past its end are padding that nothing counts.

    Attributes:
      inputs: symbols, whole numbers ``[T]``; or numbers ``[T, I]``.
      targets: what is to be answered at each step: classes ``[T]``, or numbers ``[T]``.
      counted: the steps that the loss is the mean of.
      scored: the steps whose answers the accuracy counts.
    """

    inputs: Shaped[Array, "T ..."]
    targets: Shaped[Array, " T"]
    counted: Bool[Array, " T"]
    scored: Bool[Array, " T"]


class Alphabets(NamedTuple):
    """The numbers of different symbols; 0 where there are numbers in place of symbols.

    Attributes:
      inputs: of the inputs.
      answers: of the targets, the classes.
    """

    inputs: int
    answers: int


@dataclasses.dataclass(frozen=True)
class Problem(ABC):
    """What there is to learn: it draws an example of any length from a key, and says which of its steps count.

    A problem of your own is a subclass with `alphabets` and `example`, and a line in `PROBLEMS`.

    Attributes:
      any_length: whether training has all lengths up to the longest, not that one alone, as published.
    """

    any_length: ClassVar[bool] = False

    @property
    @abstractmethod
    def alphabets(self) -> Alphabets:
        """How many symbols there are."""

    @property
    def shortest(self) -> int:
        """The least length that an example can have."""
        return 1

    def steps(self, length: int) -> int:
        """Returns the number of steps of an example of a length."""
        return length

    @abstractmethod
    def example(self, key: PRNGKeyArray, length: Length, steps: int) -> Example:
        """Returns an example.

        Args:
          key: the PRNG key that it follows from.
          length: its length, which may be traced.
          steps: number T of steps, at least those of its length; the others are padding.
        """

    def baseline(self, length: int) -> float | None:
        """Returns the loss of a model that remembers nothing, as published; None if nothing was."""
        return None


@dataclasses.dataclass(frozen=True)
class Parity(Problem):
    """Whether the number of ones among bits is odd, asked at the last (Delétang et al., 2022, "parity check")."""

    any_length = True

    @property
    def alphabets(self) -> Alphabets:
        return Alphabets(2, 2)

    def example(self, key: PRNGKeyArray, length: Length, steps: int) -> Example:
        bits = jax.random.randint(key, (steps,), 0, 2)
        return _asked_at_the_end(bits, jnp.cumsum(bits) % 2, length)


@dataclasses.dataclass(frozen=True)
class CycleNavigation(Problem):
    """Where steps left (0), none (1) and right (2) lead to on a cycle of five (Delétang et al., 2022)."""

    places: int = 5

    any_length = True

    @property
    def alphabets(self) -> Alphabets:
        return Alphabets(3, self.places)

    def example(self, key: PRNGKeyArray, length: Length, steps: int) -> Example:
        moves = jax.random.randint(key, (steps,), 0, 3)
        return _asked_at_the_end(moves, jnp.cumsum(moves - 1) % self.places, length)


@dataclasses.dataclass(frozen=True)
class ModularArithmetic(Problem):
    """The value of ``3 + 2 * 4 - 1`` modulo five, products first (Delétang et al., 2022, the simple version).

    Symbols are the numbers, then +, - and *. An example has an odd number of symbols: an even length has one less.
    """

    modulus: int = 5

    any_length = True

    @property
    def alphabets(self) -> Alphabets:
        return Alphabets(self.modulus + 3, self.modulus)

    def example(self, key: PRNGKeyArray, length: Length, steps: int) -> Example:
        k_numbers, k_operators = jax.random.split(key)
        numbers = jax.random.randint(k_numbers, (steps,), 0, self.modulus)
        operators = self.modulus + jax.random.randint(k_operators, (steps,), 0, 3)
        symbols = jnp.where(jnp.arange(steps) % 2 == 0, numbers, operators)
        start = vary((jnp.int32(0), jnp.int32(0), jnp.int32(self.modulus)), varying_axes(symbols))
        values = jax.lax.scan(self._read, start, symbols)[1]
        return _asked_at_the_end(symbols, values, length - 1 + length % 2)

    def _read(self, state: tuple[Array, Array, Array], symbol: Array) -> tuple[tuple[Array, Array, Array], Array]:
        """Reads a symbol: the state is the sum of the terms before the last, the last term, and the last operator."""
        total, term, operator = state
        minus, times = operator == self.modulus + 1, operator == self.modulus + 2
        is_number = symbol < self.modulus
        number = jnp.where(minus, -symbol, symbol)
        total = jnp.where(is_number & ~times, (total + term) % self.modulus, total)
        term = jnp.where(is_number, jnp.where(times, term * symbol, number) % self.modulus, term)
        return (total, term, jnp.where(is_number, operator, symbol)), (total + term) % self.modulus


@dataclasses.dataclass(frozen=True)
class WordProblem(Problem):
    """The product of permutations of five things so far, asked at every step (Merrill et al., 2024).

    Symbols and answers are the elements of the symmetric group S5 in the order of `itertools.permutations`; the
    permutation that comes last is applied last.
    """

    things: int = 5

    @property
    def alphabets(self) -> Alphabets:
        return Alphabets(math.factorial(self.things), math.factorial(self.things))

    def example(self, key: PRNGKeyArray, length: Length, steps: int) -> Example:
        symbols = jax.random.randint(key, (steps,), 0, self.alphabets.inputs)
        table = jnp.asarray(_products(self.things))
        products = jax.lax.associative_scan(lambda p, q: table[p, q], self.elements(symbols))
        inside = jnp.arange(steps) < length
        return Example(symbols, products, inside, inside)

    def elements(self, symbols: Int[Array, " T"]) -> Int[Array, " T"]:
        """Returns the elements of the group that symbols stand for."""
        return symbols


@dataclasses.dataclass(frozen=True)
class SwapWordProblem(WordProblem):
    """The same, where each symbol swaps two neighbours of the five: four swaps make all 120 permutations."""

    @property
    def alphabets(self) -> Alphabets:
        return Alphabets(self.things - 1, math.factorial(self.things))

    def elements(self, symbols: Int[Array, " T"]) -> Int[Array, " T"]:
        return jnp.asarray(_swaps(self.things))[symbols]


@dataclasses.dataclass(frozen=True)
class Adding(Problem):
    """The sum of the two marked numbers among many, asked at the last.

    Numbers are uniform on [0, 1], one marked in the first half and one in the second (Hochreiter and Schmidhuber, 1997;
    in this form Le et al., 2015, and Arjovsky et al., 2016). Always answering 1 has the loss 1/6.
    """

    @property
    def alphabets(self) -> Alphabets:
        return Alphabets(0, 0)

    @property
    def shortest(self) -> int:
        return 2

    def example(self, key: PRNGKeyArray, length: Length, steps: int) -> Example:
        k_numbers, k_first, k_second = jax.random.split(key, 3)
        numbers, time = jax.random.uniform(k_numbers, (steps,)), jnp.arange(steps)
        first = jax.random.randint(k_first, (), 0, length // 2)
        second = jax.random.randint(k_second, (), length // 2, length)
        marks = (time == first) | (time == second)
        total = jnp.where(marks, numbers, 0).sum()
        inputs = jnp.stack([numbers, marks.astype(numbers.dtype)], -1)
        return _asked_at_the_end(inputs, jnp.broadcast_to(total, (steps,)), length)

    def baseline(self, length: int) -> float:
        return 1 / 6


@dataclasses.dataclass(frozen=True)
class Copy(Problem):
    """Ten symbols, a silence of the example's length, then the symbols again (Arjovsky et al., 2016).

    The last symbol of the silence asks for the answers; before, the answer is silence, which the loss alone counts.

    Attributes:
      memory: symbols to remember.
      alphabet: different ones among them.
    """

    memory: int = 10
    alphabet: int = 8

    @property
    def alphabets(self) -> Alphabets:
        return Alphabets(self.alphabet + 2, self.alphabet + 1)

    def steps(self, length: int) -> int:
        return length + 2 * self.memory

    def example(self, key: PRNGKeyArray, length: Length, steps: int) -> Example:
        items = jax.random.randint(key, (self.memory,), 0, self.alphabet)
        silence, asking = self.alphabet, self.alphabet + 1
        time, answers_at = jnp.arange(steps), length + self.memory
        shown = _placed(items, 0, steps, silence)
        inputs = jnp.where(time == answers_at - 1, asking, shown)
        end = answers_at + self.memory
        scored = (time >= answers_at) & (time < end)
        return Example(inputs, _placed(items, answers_at, steps, silence), time < end, scored)

    def baseline(self, length: int) -> float:
        return self.memory * math.log(self.alphabet) / self.steps(length)


@dataclasses.dataclass(frozen=True)
class SelectiveCopy(Problem):
    """Sixteen symbols scattered among noise, to be repeated in their order after it (Gu and Dao, 2023).

    The length is that of noise and symbols together, after which as many markers ask for the answers. Symbol 0 is the
    noise, the last of the alphabet the marker.

    Attributes:
      memory: symbols to remember.
      alphabet: different symbols, the noise and the marker included.
    """

    memory: int = 16
    alphabet: int = 16

    @property
    def alphabets(self) -> Alphabets:
        return Alphabets(self.alphabet, self.alphabet)

    @property
    def shortest(self) -> int:
        return self.memory

    def steps(self, length: int) -> int:
        return length + self.memory

    def example(self, key: PRNGKeyArray, length: Length, steps: int) -> Example:
        k_items, k_places = jax.random.split(key)
        items, time = jax.random.randint(k_items, (self.memory,), 1, self.alphabet - 1), jnp.arange(steps)
        lots = jnp.where(time < length, jax.random.uniform(k_places, (steps,)), -1.0)
        places = jnp.sort(jax.lax.top_k(lots, self.memory)[1])
        asked = (time >= length) & (time < length + self.memory)
        inputs = jnp.where(asked, self.alphabet - 1, jnp.zeros(steps, jnp.int32).at[places].set(items))
        return Example(inputs, _placed(items, length, steps, 0), asked, asked)


@dataclasses.dataclass(frozen=True)
class AssociativeRecall(Problem):
    """Pairs of a key and a value, then keys whose values are asked for, among noise (Arora et al., 2023, "MQAR").

    Every key is asked for once, at an even distance of 2g after the pairs, where g has a probability proportional to
    (g + 1)^(power - 1); all other symbols after the pairs are random. Keys are from the first half of the vocabulary,
    values from the second.

    Attributes:
      memory: pairs.
      alphabet: symbols of the vocabulary.
      power: 1 asks for keys everywhere alike; less asks for most of them soon.
    """

    memory: int = 4
    alphabet: int = 8192
    power: float = 0.01

    @property
    def alphabets(self) -> Alphabets:
        return Alphabets(self.alphabet, self.alphabet)

    @property
    def shortest(self) -> int:
        return 4 * self.memory

    def example(self, key: PRNGKeyArray, length: Length, steps: int) -> Example:
        k_keys, k_values, k_gaps, k_noise = jax.random.split(key, 4)
        half = self.alphabet // 2
        keys = 1 + _distinct(k_keys, self.memory, half - 1)
        values = half + _distinct(k_values, self.memory, self.alphabet - half)
        queries = 2 * self.memory + 2 * self._gaps(k_gaps, length, steps)
        pairs = jnp.stack([keys, values], 1).reshape(-1)
        noise = jax.random.randint(k_noise, (steps,), 0, self.alphabet)
        inputs = noise.at[: len(pairs)].set(pairs).at[queries].set(keys)
        scored = jnp.zeros(steps, bool).at[queries].set(True)
        return Example(inputs, jnp.zeros(steps, jnp.int32).at[queries].set(values), scored, scored)

    def _gaps(self, key: PRNGKeyArray, length: Length, steps: int) -> Int[Array, " items"]:
        """Returns different gaps, drawn one after another by their probabilities."""
        gaps = jnp.arange(steps // 2 - self.memory)
        logits = (self.power - 1) * jnp.log1p(gaps.astype(jnp.float32))
        logits = jnp.where(gaps < length // 2 - self.memory, logits, -jnp.inf)
        return jax.lax.top_k(logits + jax.random.gumbel(key, gaps.shape), self.memory)[1]


PROBLEMS: dict[str, type[Problem]] = {
    "adding": Adding,
    "copy": Copy,
    "parity": Parity,
    "modular_arithmetic": ModularArithmetic,
    "cycle_navigation": CycleNavigation,
    "s5": WordProblem,
    "s5_swaps": SwapWordProblem,
    "mqar": AssociativeRecall,
    "selective_copy": SelectiveCopy,
}


def _asked_at_the_end(inputs: Array, answers: Array, length: Length) -> Example:
    """Returns an example whose answer is asked for at its last step alone; `answers` has those of all steps."""
    last = jnp.arange(len(inputs)) == length - 1
    return Example(inputs, answers, last, last)


def _placed(items: Int[Array, " items"], start: Length, steps: int, elsewhere: int) -> Int[Array, " steps"]:
    """Returns items from a step on, and another symbol at all other steps."""
    number = jnp.arange(steps) - start
    there = (number >= 0) & (number < len(items))
    return jnp.where(there, items[jnp.clip(number, 0, len(items) - 1)], elsewhere)


def _distinct(key: PRNGKeyArray, count: int, total: int) -> Int[Array, " count"]:
    """Returns different numbers below `total` in random order, without drawing lots for all of them (Floyd, 1987)."""
    k_draws, k_order = jax.random.split(key)
    largest = jnp.arange(total - count, total)
    draws = jax.random.randint(k_draws, (count,), 0, largest + 1)

    def choose(chosen: Array, item: tuple[Array, Array, Array]) -> tuple[Array, None]:
        number, draw, otherwise = item
        return chosen.at[number].set(jnp.where((chosen == draw).any(), otherwise, draw)), None

    none_yet = vary(jnp.full(count, -1), varying_axes(draws))
    chosen, _ = jax.lax.scan(choose, none_yet, (jnp.arange(count), draws, largest))
    return jax.random.permutation(k_order, chosen)


def _permutations(things: int) -> dict[tuple[int, ...], int]:
    """Returns all permutations and their numbers."""
    return {permutation: number for number, permutation in enumerate(itertools.permutations(range(things)))}


@functools.cache
def _products(things: int) -> Int[np.ndarray, "G G"]:
    """Returns the number of the permutation that is one permutation, and then another, by their numbers."""
    numbers = _permutations(things)
    return np.array([[numbers[tuple(q[i] for i in p)] for q in numbers] for p in numbers], np.int32)


def _swaps(things: int) -> Int[np.ndarray, " S"]:
    """Returns the numbers of the permutations that swap two neighbours, the first two first."""
    numbers, order = _permutations(things), list(range(things))
    return np.array([numbers[(*order[:i], i + 1, i, *order[i + 2 :])] for i in range(things - 1)], np.int32)
