"""The comparison of two revisions' programs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export

from benchmarks.command import exit_code
from benchmarks.revisions import __main__ as revisions
from benchmarks.revisions import programs
from rnnjax import LSTM, Scan, unroll

pytestmark = pytest.mark.usefixtures("compiled_quickly")

SHAPE = (2, 1, 2, 3)


@pytest.fixture(scope="module")
def written():
    """Two programs, as a revision writes them."""

    def program(name):
        function, arguments = programs.program(name, SHAPE, "scan", "forward")
        return bytes(export.export(jax.jit(function))(*arguments).serialize())

    return {name: program(name) for name in ("BasicRNN", "LSTM")}


def test_a_written_program_computes_what_unroll_does(written):
    cell = LSTM(3)
    exported = export.deserialize(bytearray(written["LSTM"]))
    arrays = [np.random.default_rng(0).standard_normal(like.shape).astype(np.float32) for like in exported.in_avals]
    *leaves, xs = map(jnp.asarray, arrays)
    params = jax.tree.unflatten(jax.tree.structure(cell.init(jax.random.key(0), 2)), leaves)
    ys, state = unroll(cell, params, xs, method=Scan())
    for got, expected in zip(exported.call(*arrays), [ys, *state], strict=True):
        np.testing.assert_allclose(got, expected, atol=1e-6)


def test_equal_programs_are_not_timed_and_others_are_in_turns(written):
    key = ("LSTM", "2,1,2,3", "scan", "forward")
    same = revisions.measured(key, written["LSTM"], written["LSTM"], 0.0)
    other = revisions.measured(key, written["BasicRNN"], written["LSTM"], 0.0)
    assert (same.ratio, same.runs) == (1.0, 0)
    assert (other.ratio, other.runs) == (other.after_seconds / other.before_seconds, 5)


def test_a_commit_that_there_is_not_is_named(capsys):
    assert exit_code(revisions.main, ["--before", "nonsense"]) == 2
    assert capsys.readouterr().err.startswith("rnnjax: fatal: ")
