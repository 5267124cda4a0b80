"""Data sets of problems: training examples as the keys that they follow from, held-out ones as they are."""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Int, Shaped

from rnnjax.data.dataset import Arrays, DataSet, content_checksum
from rnnjax.data.problems import Problem


class Sizes(NamedTuple):
    """How much of a problem there is.

    Attributes:
      examples: of training.
      shortest, longest: lengths in training and validation, where all from the one to the other are as frequent.
      held_out: examples of validation, and of the test split for each of its lengths.
      test_lengths: lengths in the test split.
    """

    examples: int
    shortest: int
    longest: int
    held_out: int
    test_lengths: tuple[int, ...]


def load_sequences(name: str, problem: Problem, sizes: Sizes, seed: int) -> DataSet:
    """Returns a data set of a problem.

    Of a training example there is what it follows from, ``key [N, 2]`` and ``length [N]``, from which `examples_of`
    makes it. `validation` and `test` hold `Example`'s fields, ``[N, T, ...]``, and ``length``; they are the same for
    every seed, and the examples of `test` are in the order of their lengths.

    Args:
      name: of the problem.
      problem: the problem.
      sizes: numbers of examples and their lengths.
      seed: of the training examples.
    """
    train = _keys_and_lengths(seed, 0, sizes.examples, sizes)
    validation = _keys_and_lengths(0, 1, sizes.held_out, sizes)
    test = _keys_and_lengths(0, 2, sizes.held_out * len(sizes.test_lengths), sizes)
    test["length"] = np.repeat(np.array(sizes.test_lengths, np.int32), sizes.held_out)
    splits: dict[str, Arrays] = {
        "train": train,
        "validation": _made(problem, validation, problem.steps(sizes.longest)),
        "test": _made(problem, test, problem.steps(max(sizes.test_lengths))),
    }
    source = f"{sizes.examples:,} examples of {problem!r} of lengths to {sizes.longest}, generated with seed {seed}"
    return DataSet(name, splits, source, content_checksum(splits))


def examples_of(
    problem: Problem, keys: Int[Array, "B 2"], lengths: Int[Array, " B"], steps: int
) -> dict[str, Shaped[Array, "B ..."]]:
    """Returns the fields of the examples that follow from keys, ``[B, steps, ...]``.

    Args:
      problem: the problem.
      keys: the data of each example's PRNG key.
      lengths: of the examples.
      steps: number of steps, at least those of the longest.
    """
    draw = functools.partial(problem.example, steps=steps)
    examples = jax.vmap(draw)(jax.random.wrap_key_data(keys, impl="threefry2x32"), lengths)
    return examples._asdict()


def _keys_and_lengths(seed: int, split: int, count: int, sizes: Sizes) -> dict[str, np.ndarray]:
    """Returns the keys and lengths of a split's examples, which depend on the seed and the number of the split."""
    keys = jax.random.split(jax.random.fold_in(jax.random.key(seed, impl="threefry2x32"), split), count)
    lengths = np.random.default_rng([seed, split]).integers(sizes.shortest, sizes.longest, count, endpoint=True)
    return {"key": np.asarray(jax.random.key_data(keys)), "length": lengths.astype(np.int32)}


def _made(problem: Problem, split: Arrays, steps: int) -> dict[str, np.ndarray]:
    """Returns a split's examples themselves."""
    make = jax.jit(functools.partial(examples_of, problem, steps=steps))
    fields = make(split["key"], split["length"])
    return {"length": split["length"]} | {name: np.asarray(values) for name, values in fields.items()}
