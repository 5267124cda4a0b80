"""What `unroll` refuses, and that it says which value was wrong and what was expected."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cells_under_test import H, I, inputs, parameters, same

from rnnjax import GRU, LSTM, HiddenState, LSTMState, Scan, Stack, Static, TimedKey, unroll

B, T = 2, 3
CELL = LSTM(H)
PARAMS = parameters(CELL)
XS = inputs(B, T, I)


def refused(error, match, xs=XS, state=None, cell=CELL, params=PARAMS, **options):
    with pytest.raises(error, match=match):
        unroll(cell, params, xs, state, **options)


@pytest.mark.parametrize("shape", [(), (I,)])
def test_inputs_need_an_axis_of_time_and_one_of_features(shape):
    refused(
        ValueError,
        rf"xs must have shape \[\*batch, T, I\], two axes at least, got \[{I if shape else ''}\]",
        jnp.zeros(shape),
    )


def test_inputs_that_are_parameters_are_refused():
    refused(TypeError, r"xs must be an array \[\*batch, T, I\], got dict; pass cell, params, xs", {"w": jnp.zeros(3)})


def test_inputs_without_features_are_refused():
    refused(ValueError, r"xs must have at least one feature, got the shape \[2, 3, 0\]", jnp.zeros((B, T, 0)))


@pytest.mark.parametrize("dtype", ["int32", "bool", "complex64"])
def test_inputs_that_are_not_floating_point_are_refused(dtype):
    refused(TypeError, f"xs must be floating point, got {dtype}; convert it", jnp.zeros((B, T, I), dtype))


def test_inputs_of_another_size_than_at_initialisation_are_refused():
    refused(ValueError, "xs has 5 features, but the cell was initialised for 3", jnp.zeros((B, T, 5)))


@pytest.mark.parametrize("dtype", ["float32", "bool"])
def test_lengths_that_are_not_whole_numbers_are_refused(dtype):
    refused(TypeError, f"lengths must be whole numbers, got {dtype}", lengths=np.ones(B, dtype))


def test_lengths_of_another_shape_than_the_batch_are_refused():
    refused(ValueError, r"lengths must have shape \[\*batch\] = \[2\], got \[3\]", lengths=np.ones(3, int))
    refused(ValueError, r"lengths must have shape \[\*batch\] = \[2\], got \[\]", lengths=1)
    refused(ValueError, r"lengths must have shape \[\*batch\] = \[2\], got \[2, 3\]", lengths=np.ones((2, 3), int))


@pytest.mark.parametrize("wrong", [-1, 4])
def test_lengths_beyond_the_sequence_are_refused(wrong):
    refused(ValueError, f"lengths must be between 0 and T = 3, got {wrong}", lengths=np.array([2, wrong]))


def test_lengths_may_be_a_list():
    same(unroll(CELL, PARAMS, XS, lengths=[3, 1]), unroll(CELL, PARAMS, XS, lengths=np.array([3, 1])))


def test_lengths_of_no_sequence_may_be_an_empty_list():
    ys, _ = unroll(CELL, PARAMS, XS[:0], lengths=[])
    assert ys.shape == (0, T, H)


@pytest.mark.parametrize(
    ("key", "got"),
    [
        (0, "int"),
        ("0", "str"),
        (jax.random.split(jax.random.key(0)), r"key<fry>\[2\]"),
        (TimedKey(jax.random.split(jax.random.PRNGKey(0)), jnp.arange(T)), r"uint32\[2, 2\]"),
    ],
)
def test_what_is_not_one_key_is_refused(key, got):
    refused(TypeError, rf"key must be one PRNG key, such as jax.random.key\(0\), or None .*, got {got}$", key=key)


def test_complex_parameters_are_named_as_such():
    params = PARAMS._replace(w_h=PARAMS.w_h.astype(jnp.complex64))
    refused(TypeError, "params must be floating point, got complex64 in LSTMParams", params=params)


def test_resets_that_are_not_bool_are_refused():
    refused(TypeError, "resets must be bool, got int32", resets=np.zeros((B, T), np.int32))


def test_resets_need_a_value_for_every_step():
    refused(
        ValueError, r"resets must have shape \[\*batch, T\] = \[2, 3\], got \[3, 2\]", resets=np.zeros((T, B), bool)
    )
    refused(
        ValueError,
        r"resets must have shape \[T, \*batch\] = \[3, 2\], got \[2, 3\]",
        XS.swapaxes(0, 1),
        resets=np.zeros((B, T), bool),
        time_major=True,
    )


def test_a_state_of_another_kind_is_refused():
    hidden = HiddenState(jnp.zeros((B, H)))
    refused(
        TypeError, r"state must be a LSTMState\(h=\[2, 4\], c=\[2, 4\]\), got HiddenState\(h=\[2, 4\]\)", state=hidden
    )
    refused(TypeError, r"state must be a LSTMState\(.*got \(\[2, 4\], \[2, 4\]\)", state=(hidden.h, hidden.h))


def test_a_state_of_another_shape_is_refused():
    refused(
        ValueError,
        r"state must have the shapes LSTMState\(h=\[2, 4\], c=\[2, 4\]\) for inputs with the batch axes \[2\], "
        r"got LSTMState\(h=\[2, 4\], c=\[3, 4\]\)",
        state=LSTMState(jnp.zeros((B, H)), jnp.zeros((3, H))),
    )


def test_a_stack_wants_a_state_for_every_layer():
    refused(
        TypeError,
        r"state must be a \(LSTMState\(.*\), HiddenState\(h=\[2, 4\]\)\), got LSTMState\(",
        cell=Stack((LSTM(H), GRU(H))),
        params=(PARAMS, parameters(GRU(H), H)),
        state=CELL.initial_state(B),
    )


@pytest.mark.parametrize("method", ["scan", Scan, Static, 3])
def test_what_is_not_a_method_is_refused(method):
    refused(TypeError, r"method must be an unrolling method such as Scan\(\) or Static\(\), got ", method=method)


@pytest.mark.parametrize("cell", ["lstm", LSTM, PARAMS], ids=["name", "class", "params"])
def test_what_is_not_a_cell_is_refused(cell):
    refused(TypeError, r"cell must be .*, got ", cell=cell)


@pytest.mark.parametrize("name", ["unroll", "remat_every"])
def test_scan_refuses_numbers_below_one_and_what_is_not_a_whole_number(name):
    with pytest.raises(ValueError, match=f"{name} must be at least 1, got 0"):
        Scan(**{name: 0})
    with pytest.raises(TypeError, match=rf"{name} must be a whole number, got 2\.5"):
        Scan(**{name: 2.5})


@pytest.mark.parametrize("name", ["reverse", "time_major"])
def test_what_is_on_or_off_is_a_bool_that_is_known(name):
    for value in ("no", None, 1.0, np.ones(2, bool)):
        with pytest.raises(TypeError, match=f"{name} must be True or False, got "):
            unroll(CELL, PARAMS, XS, **{name: value})
    with pytest.raises(TypeError, match=f"{name} must be True or False, got a traced value, which a static argument"):
        jax.jit(lambda value: unroll(CELL, PARAMS, XS, **{name: value}))(True)
