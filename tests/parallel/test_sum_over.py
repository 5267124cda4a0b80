"""Sums over the devices of a batch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from rnnjax.parallel.mapping import map_over_devices
from rnnjax.parallel.mesh import BATCH, batch_mesh, sum_over

SPLIT, EVERYWHERE = PartitionSpec(BATCH), PartitionSpec()


def parts(xs):
    """A tree of every kind of leaf: a scalar, a short and two long ones, and whole numbers."""
    total = xs.sum(0)
    long = jnp.outer(total, jnp.arange(4096.0))
    return {"scalar": total.sum(), "short": total, "long": long, "longer": long[:, None] * 2, "count": xs.shape[0]}


def compiled(devices, tree_of, xs, map="shard_map"):
    mesh = batch_mesh(str(devices), len(xs))
    return map_over_devices(lambda xs: sum_over(BATCH, tree_of(xs)), mesh, (SPLIT,), EVERYWHERE, map=map)(xs)


def arrays(xs):
    return jax.tree.map(jnp.asarray, parts(xs))


XS = np.arange(12, dtype=np.float32).reshape(4, 3)


@pytest.mark.parametrize("map", ["shard_map", "pmap"])
@pytest.mark.parametrize("devices", [1, 2])
def test_sums_are_those_of_the_whole_batch(devices, map):
    jax.tree.map(np.testing.assert_allclose, compiled(devices, arrays, XS, map)(XS), arrays(XS))


@pytest.mark.parametrize("names", [["long"], ["scalar"], ["long", "longer"]])
def test_leaves_of_one_size_only_are_summed_too(names):
    some = lambda xs: {name: arrays(xs)[name] for name in names}  # noqa: E731
    jax.tree.map(np.testing.assert_allclose, compiled(2, some, XS)(XS), some(XS))


def test_two_devices_meet_in_one_collective():
    assert compiled(2, arrays, XS).as_text().count(" all-reduce(") == 1


def test_one_device_meets_nobody():
    assert "all-reduce" not in compiled(1, arrays, XS).as_text()


def test_long_leaves_are_not_copied_into_one():
    lines = compiled(2, arrays, XS).as_text().splitlines()
    sizes = [line.split("[")[1].split("]")[0] for line in lines if " concatenate(" in line]
    short = sum(leaf.size for leaf in jax.tree.leaves(arrays(XS)) if leaf.size < 4096)
    assert sizes == [str(short)]
