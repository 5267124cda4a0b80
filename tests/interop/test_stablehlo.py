"""Exported programs run where nothing but JAX is installed, for any batch size and length."""

import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from fixtures.parameters import array, drawn_parameters

import rnnjax
from rnnjax import GRU, LRU, LSTM, Dropout, LearnedState, Residual, Stack, unroll
from rnnjax.interop import to_stablehlo
from rnnjax.interop.sizes import input_size_of

I, H = 3, 4
CELL = Stack([LearnedState(LSTM(H, peephole=True)), Residual(Dropout(GRU(H), output_rate=0.5)), LRU(H)])
PARAMS = drawn_parameters(lambda key: CELL.init(key, I))


@pytest.fixture(scope="module")
def written():
    return [program.serialize() for program in to_stablehlo(CELL, PARAMS)]


def test_a_program_carries_the_state_from_call_to_call_for_any_batch_and_length(written):
    run, start = (jax.export.deserialize(program).call for program in written)
    xs = np.random.default_rng(0).normal(size=(3, 6, I)).astype(np.float32)
    lengths = np.array([6, 0, 3], np.int32)
    expected, state = unroll(CELL, PARAMS, xs, lengths=lengths)
    first, between = run(xs[:, :4], np.minimum(lengths, 4), start(lengths))
    second, last = run(xs[:, 4:], np.maximum(lengths - 4, 0), between)
    np.testing.assert_allclose(np.concatenate([first, second], 1), expected, atol=1e-6)
    assert sorted(last[0]) == ["c", "h"]
    assert isinstance(last, tuple)
    np.testing.assert_allclose(last[0]["c"], state[0].c, atol=1e-6)
    np.testing.assert_allclose(last[2]["real"], state[2].real, atol=1e-6)


ELSEWHERE = """
import sys
sys.modules["rnnjax"] = None  # importing it fails
import jax, numpy as np
run, start = (jax.export.deserialize(open(path, "rb").read()).call for path in sys.argv[1:])
lengths = np.array([4, 2], np.int32)
ys, state = run(np.ones((2, 4, 3), np.float32), lengths, start(lengths))
print(float(ys.sum()), float(state[1]["h"].sum()))
"""


def test_a_program_runs_in_a_process_without_the_library(written, tmp_path):
    paths = [tmp_path / name for name in ("unroll", "start")]
    for path, content in zip(paths, written):
        path.write_bytes(content)
    command = [sys.executable, "-c", ELSEWHERE, *map(str, paths)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    ys, state = unroll(CELL, PARAMS, np.ones((2, 4, I), np.float32), lengths=np.array([4, 2]))
    np.testing.assert_allclose(list(map(float, done.stdout.split())), [ys.sum(), state[1].h.sum()], rtol=1e-4)


def test_parameters_and_states_are_arguments_of_functions_of_ones_own():
    cell = rnnjax.Project(LSTM(H), 2)
    params = drawn_parameters(lambda key: cell.init(key, I))
    state = cell.initial_state(2)
    shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), (params, state))
    step = jax.jit(lambda params, state: cell(params, state, jnp.ones((2, I))))
    program = jax.export.deserialize(jax.export.export(step)(*shapes).serialize())
    after, y = program.call(params, state)
    expected, expected_y = step(params, state)
    assert type(after) is type(expected)
    np.testing.assert_array_equal(y, expected_y)


def test_every_type_of_parameters_and_states_is_known_to_jax_export():
    modules = [module for name, module in sys.modules.items() if name.startswith("rnnjax.cells.")]
    kinds = {value for module in modules for value in vars(module).values() if hasattr(value, "_fields")}
    within_a_step = {"Association", "Attended", "DeltaZs", "DropoutMasks", "Finished", "LRUZs", "RGLRUZs", "StackZs"}
    within_a_step |= {"TimedKey", "WrapperZs"}
    kinds = [kind for kind in kinds if kind.__module__.startswith("rnnjax.") and kind.__name__ not in within_a_step]
    assert len(kinds) >= 20
    for kind in kinds:
        tree = kind(*(jax.ShapeDtypeStruct((), jnp.float32) for _ in kind._fields))
        jax.export.export(jax.jit(lambda tree: tree))(tree).serialize()


def test_the_size_of_inputs_is_read_off_the_parameters():
    assert input_size_of(CELL, PARAMS) == I
    assert input_size_of(Residual(GRU(H)), drawn_parameters(lambda key: GRU(H).init(key, H))) == H
    with pytest.raises(ValueError, match=r"the parameters are not those of GRU\(5\)"):
        input_size_of(GRU(H + 1), PARAMS)
    with pytest.raises(ValueError, match="the parameters are not those of"):
        input_size_of(GRU(H), {"w": array(np.ones((I, H)))})
