import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rnnjax.data.bucketing import assign_buckets, choose_widths, padding_waste


def drawn(seed, count=3000):
    rng = np.random.default_rng(seed)
    source = 3 + rng.poisson(12, count)
    return {"source": source, "target": np.maximum(1, source + rng.integers(-3, 4, count))}


def test_waste_is_the_share_of_padding():
    lengths = {"source": np.array([1, 2, 4]), "target": np.array([2, 2, 5])}
    one = ({"source": 4, "target": 5},)
    assert padding_waste(lengths, one) == pytest.approx(1 - 16 / 27)
    two = ({"source": 2, "target": 2}, *one)
    assert assign_buckets(lengths, two).tolist() == [0, 0, 1]
    assert padding_waste(lengths, two) == pytest.approx(1 - 16 / 17)


def test_less_than_a_tenth_is_padding_with_enough_buckets():
    lengths = drawn(0)
    assert padding_waste(lengths, choose_widths(lengths, most=1, smallest=64)) > 0.4
    assert padding_waste(lengths, choose_widths(lengths, most=24, smallest=64)) < 0.1


def test_no_more_buckets_are_made_than_are_needed():
    lengths = drawn(0)
    few, many = (choose_widths(lengths, most=24, smallest=64, waste=waste) for waste in (0.3, 0.1))
    assert len(few) < len(many) < 24
    assert len(choose_widths({"source": np.full(9, 5), "target": np.full(9, 2)}, most=9, smallest=1)) == 1


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 9), st.sampled_from([1, 30, 200]), st.integers(200, 600))
def test_every_example_fits_and_every_bucket_fills_a_batch(seed, most, smallest, count):
    lengths = drawn(seed, count)
    widths = choose_widths(lengths, most=most, smallest=smallest)
    buckets = assign_buckets(lengths, widths)
    assert len(widths) <= most
    for name, values in lengths.items():
        assert (values <= np.array([width[name] for width in widths])[buckets]).all()
        assert widths[-1][name] == values.max()
    counts = np.bincount(buckets, minlength=len(widths))
    assert (counts[:-1] >= smallest).all()
    assert counts.sum() == count


def test_an_example_that_fits_nowhere_is_named():
    with pytest.raises(ValueError, match=r"lengths \[9, 1\] fits in no bucket"):
        assign_buckets({"source": np.array([9]), "target": np.array([1])}, ({"source": 4, "target": 4},))
