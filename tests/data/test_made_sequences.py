import functools

import jax
import numpy as np

from rnnjax.data.problems import ModularArithmetic, Parity
from rnnjax.data.sequences import Sizes, examples_of, load_sequences

SIZES = Sizes(examples=50, shortest=3, longest=9, held_out=20, test_lengths=(9, 12))


@functools.cache
def data():
    return load_sequences("parity", Parity(), SIZES, 0)


def test_a_training_example_follows_from_its_key_alone():
    train, problem = data().splits["train"], ModularArithmetic()
    whole = examples_of(problem, train["key"], train["length"], 9)
    alone = examples_of(problem, train["key"][7:8], train["length"][7:8], 9)
    for name, values in alone.items():
        np.testing.assert_array_equal(values[0], whole[name][7])


def test_the_seed_decides_on_training_examples_and_nothing_else():
    same, other = (load_sequences("parity", Parity(), SIZES, seed) for seed in (0, 1))
    assert same.checksum == data().checksum != other.checksum
    assert not np.array_equal(other.splits["train"]["key"], data().splits["train"]["key"])
    for split in ("validation", "test"):
        for name, values in data().splits[split].items():
            np.testing.assert_array_equal(other.splits[split][name], values)


def test_training_and_validation_have_every_length_and_the_test_each_of_its_own_in_order():
    assert set(data().splits["train"]["length"]) == set(data().splits["validation"]["length"]) == set(range(3, 10))
    assert data().splits["test"]["length"].tolist() == [9] * 20 + [12] * 20
    assert data().splits["validation"]["inputs"].shape == (20, 9)
    assert data().splits["test"]["inputs"].shape == (40, 12)
    last = data().splits["test"]["scored"].argmax(1) + 1
    np.testing.assert_array_equal(last, data().splits["test"]["length"])


def test_no_two_examples_have_the_same_key():
    keys = load_sequences("parity", Parity(), SIZES._replace(examples=2000), 0).splits["train"]["key"]
    assert len(np.unique(keys, axis=0)) == 2000
    assert (jax.random.key_data(jax.random.key(0)) != keys).any(1).all()
