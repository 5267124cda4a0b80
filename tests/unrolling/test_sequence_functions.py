import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cells_under_test import H, I, close, inputs, parameters, same, some_state

from rnnjax import GRU, LSTM, Dropout, Method, Scan, Static, bidirectional, choose_method, static_unroll, unroll

B, T = 3, 4
LENGTHS = np.array([4, 0, 2])
RESETS = np.array([[0, 1, 0, 0], [0, 0, 0, 0], [1, 1, 0, 1]], bool)
KEY = jax.random.key(2)


def test_static_unroll_takes_a_list_of_steps_and_gives_a_list_of_outputs():
    cell = LSTM(H)
    params, xs, state = parameters(cell), inputs(B, T, I), some_state(cell, B)
    ys, last = static_unroll(cell, params, [xs[:, t] for t in range(T)], state)
    assert isinstance(ys, list)
    assert [y.shape for y in ys] == [(B, H)] * T
    expected, expected_last = unroll(cell, params, xs, state, method=Static())
    close((jnp.stack(ys, 1), last), (expected, expected_last))


def test_static_unroll_takes_the_options_of_unroll():
    cell = Dropout(GRU(H), input_rate=0.5)
    params, xs, state = parameters(cell), inputs(B, T, I), some_state(cell, B)
    ys, last = static_unroll(
        cell, params, list(xs.swapaxes(0, 1)), state, lengths=LENGTHS, resets=RESETS.T, reverse=True, key=KEY
    )
    expected = unroll(cell, params, xs, state, lengths=LENGTHS, resets=RESETS, reverse=True, key=KEY)
    close((jnp.stack(ys, 1), last), expected)


def test_static_unroll_takes_steps_without_a_batch():
    cell = GRU(H)
    params, xs = parameters(cell), inputs(T, I)
    ys, _ = static_unroll(cell, params, [*xs])
    close(jnp.stack(ys), unroll(cell, params, xs)[0])


def test_static_unroll_refuses_an_empty_list():
    with pytest.raises(ValueError, match="static_unroll needs at least one input, got an empty list"):
        static_unroll(GRU(H), parameters(GRU(H)), [])


@pytest.mark.parametrize("options", [{}, {"lengths": LENGTHS}, {"method": Scan(2)}], ids=range(3))
def test_bidirectional_is_one_unrolling_ahead_and_one_back(options):
    ahead, back = LSTM(H), GRU(2)
    params, xs = (parameters(ahead), parameters(back)), inputs(B, T, I)
    states = some_state(ahead, B), some_state(back, B)
    ys, last = bidirectional(ahead, back, params, xs, states, **options)
    first, first_last = unroll(ahead, params[0], xs, states[0], **options)
    second, second_last = unroll(back, params[1], xs, states[1], reverse=True, **options)
    assert ys.shape == (B, T, H + 2)
    close(ys, jnp.concatenate([first, second], -1))
    close(last, (first_last, second_last))


@pytest.mark.parametrize("time_major", [False, True])
def test_neither_direction_reads_across_a_reset(time_major):
    cell, steps = GRU(H), 8
    pair, xs = (parameters(cell), parameters(cell)), inputs(2, steps, I)
    valid = np.array([[1, 1, 0, 1, 1, 1, 1, 0], [1, 0, 0, 1, 0, 1, 1, 1]], bool)
    resets = np.array([[0, 0, 1, 1, 0, 0, 0, 1], [1, 0, 0, 1, 1, 0, 1, 0]], bool)  # those at missing steps cut nothing
    arrays = {"mask": valid, "resets": resets, "lengths": np.array([6, 8])}
    given = {name: flags.T if time_major and flags.ndim == 2 else flags for name, flags in arrays.items()}
    ys, _ = bidirectional(
        cell, cell, pair, xs.swapaxes(0, 1) if time_major else xs, **given, time_major=time_major, state=None
    )
    ys = ys.swapaxes(0, 1) if time_major else ys
    for b, parts in enumerate(([[0, 1], [3, 4, 5]], [[0], [3, 5], [6, 7]])):
        for part in map(np.array, parts):
            alone, _ = bidirectional(cell, cell, pair, xs[b : b + 1, part])
            close(ys[b, part], alone[0])


def test_a_reset_at_the_first_step_leaves_the_state_that_the_backward_cell_is_given():
    cell = GRU(H)
    pair, xs, states = (parameters(cell), parameters(cell)), inputs(B, T, I), (some_state(cell, B), some_state(cell, B))
    resets = np.zeros((B, T), bool)
    resets[:, 0] = True
    _, (_, cut) = bidirectional(cell, cell, pair, xs, states, resets=resets, lengths=LENGTHS)
    _, (_, whole) = bidirectional(cell, cell, pair, xs, states, lengths=LENGTHS)
    close(cut, whole)


def test_bidirectional_without_states_starts_both_from_their_own():
    ahead, back = LSTM(H), GRU(2)
    params, xs = (parameters(ahead), parameters(back)), inputs(T, B, I)
    ys, last = bidirectional(ahead, back, params, xs, time_major=True)
    zeros = ahead.initial_state(B), back.initial_state(B)
    close((ys, last), bidirectional(ahead, back, params, xs, zeros, time_major=True))


def test_bidirectional_zeroes_both_directions_past_the_lengths():
    cell = GRU(H)
    params = parameters(cell)
    ys, _ = bidirectional(cell, cell, (params, params), inputs(B, T, I), lengths=LENGTHS)
    for b, length in enumerate(LENGTHS):
        assert (ys[b, length:] == 0).all()
        assert (ys[b, :length] != 0).all()


def test_the_first_output_back_has_read_all_of_the_valid_part_and_nothing_else():
    cell = GRU(H)
    params, xs = parameters(cell), inputs(B, T, I)
    first = lambda xs: bidirectional(cell, cell, (params, params), xs, lengths=LENGTHS)[0][:, 0, H:].sum()  # noqa: E731
    read = (np.asarray(jax.jit(jax.grad(first))(xs)) != 0).any(-1)
    same(read, np.arange(T) < LENGTHS[:, None])


def test_the_two_directions_draw_independent_masks():
    cell = Dropout(GRU(16), output_rate=0.5)
    params = parameters(cell)
    ys, _ = bidirectional(cell, cell, (params, params), inputs(B, T, I), key=KEY)
    dropped = np.asarray(ys == 0)
    assert (dropped[..., :16] != dropped[..., 16:]).any()
    assert (dropped[..., :16] != dropped[:, ::-1, 16:]).any()


def test_the_method_chosen_is_the_one_unroll_takes():
    cell = GRU(H)
    params, xs = parameters(cell), inputs(B, T, I)
    chosen = choose_method(cell, (T, B, I))
    same(unroll(cell, params, xs), unroll(cell, params, xs, method=chosen))
    assert hash(chosen) == hash(choose_method(cell, (T, B, I), "cpu"))


def test_a_method_of_ones_own_receives_the_recurrence():
    class Listening(Method):
        def __init__(self):
            self.lengths = []

        def run(self, recurrence):
            self.lengths.append(recurrence.length)
            return Static().run(recurrence)

    method, cell = Listening(), GRU(H)
    params, xs = parameters(cell), inputs(B, T, I)
    close(unroll(cell, params, xs, method=method), unroll(cell, params, xs))
    assert method.lengths == [T]
