import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnnjax import GRU, LSTM, BasicRNN, LearnedState, Project, Residual, Stack

I, H, P = 6, 8, 3
KEY = jax.random.key(0)
CELLS = [BasicRNN(H), LSTM(H), LSTM(H, coupled_gates=True), GRU(H), GRU(H, reset="before")]


@pytest.mark.parametrize("cell", CELLS, ids=["rnn", "lstm", "coupled", "gru", "before"])
def test_recurrent_weights_are_orthogonal_gate_by_gate_and_differ_between_gates(cell):
    params = cell.init(KEY, I)
    w_h = np.asarray(params.w_h)
    assert w_h.shape == (H, params.b.shape[0], H)
    for gate in range(w_h.shape[1]):
        np.testing.assert_allclose(w_h[:, gate].T @ w_h[:, gate], np.eye(H), atol=1e-5)
        for other in range(gate):
            assert np.abs(w_h[:, gate] - w_h[:, other]).max() > 0.1


def test_recurrent_weights_of_a_projected_lstm_have_orthonormal_rows():
    w_h = np.asarray(LSTM(H, projection_size=P).init(KEY, I).w_h)
    assert w_h.shape == (P, 4, H)
    for gate in range(4):
        np.testing.assert_allclose(w_h[:, gate] @ w_h[:, gate].T, np.eye(P), atol=1e-5)


@pytest.mark.parametrize("cell", [BasicRNN(40), LSTM(40), GRU(40)], ids=["rnn", "lstm", "gru"])
def test_input_weights_fill_the_glorot_bounds_of_one_gate(cell):
    w_x = np.abs(jax.jit(lambda: cell.init(KEY, 30).w_x)())
    bound = np.sqrt(6 / (30 + 40))
    assert (w_x.max(axis=(0, 2)) <= bound).all()
    assert (w_x.max(axis=(0, 2)) > 0.97 * bound).all()


@pytest.mark.parametrize(("coupled_gates", "forget"), [(False, 1), (True, 0)])
@pytest.mark.parametrize("forget_bias", [None, 2.5])
def test_only_the_forget_gate_of_an_lstm_starts_with_a_bias(coupled_gates, forget, forget_bias):
    options = {} if forget_bias is None else {"forget_bias": forget_bias}
    expected = np.zeros((3 if coupled_gates else 4, H))
    expected[forget] = 1.0 if forget_bias is None else forget_bias
    np.testing.assert_array_equal(LSTM(H, coupled_gates=coupled_gates, **options).init(KEY, I).b, expected)


def test_the_forget_bias_is_added_to_the_chosen_initial_bias():
    b = LSTM(H, 0.5, bias_init="ones").init(KEY, I).b
    np.testing.assert_array_equal(b[:, 0], [1, 1.5, 1, 1])


def test_shapes_of_parameters_keep_the_gate_axis():
    def shapes(cell):
        params = jax.eval_shape(lambda: cell.init(KEY, I))
        return {name: leaf.shape for name, leaf in params._asdict().items() if hasattr(leaf, "shape")}

    assert shapes(BasicRNN(H)) == {"w_x": (I, 1, H), "w_h": (H, 1, H), "b": (1, H)}
    assert shapes(GRU(H)) == {"w_x": (I, 3, H), "w_h": (H, 3, H), "b": (3, H), "b_hn": (H,)}
    assert shapes(GRU(H, reset="before")) == {"w_x": (I, 3, H), "w_h": (H, 3, H), "b": (3, H)}
    assert shapes(LSTM(H)) == {"w_x": (I, 4, H), "w_h": (H, 4, H), "b": (4, H)}
    everything = LSTM(H, peephole=True, projection_size=P, coupled_gates=True)
    sizes = {"w_x": (I, 3, H), "w_h": (P, 3, H), "b": (3, H), "peephole": (2, H), "w_p": (H, P)}
    assert shapes(everything) == sizes
    assert shapes(LSTM(H, peephole=True))["peephole"] == (3, H)


def test_layer_normalisation_starts_with_scales_of_one_and_no_shift():
    norm = LSTM(H, layer_norm=True).init(KEY, I).norm
    for got, expected in zip(norm, [np.ones((4, H)), np.ones((4, H)), np.ones(H), np.zeros(H)]):
        np.testing.assert_array_equal(got, expected)


def test_an_initialiser_may_be_named():
    params = LSTM(H, kernel_init="ones", recurrent_init="zeros", bias_init="normal").init(KEY, I)
    assert (params.w_x == 1).all()
    assert (params.w_h == 0).all()
    assert np.unique(params.b).size == 4 * H


def test_an_initialiser_may_be_a_function_and_is_asked_gate_by_gate_in_the_type_of_the_parameters():
    asked = []

    def counting(key, shape, dtype):
        asked.append((shape, dtype))
        return jnp.full(shape, len(asked), dtype)

    params = GRU(H, kernel_init=counting, param_dtype=jnp.float16, recurrent_init="zeros").init(KEY, I)
    assert asked == [((I, H), jnp.float16)] * 3
    np.testing.assert_array_equal(params.w_x[0, :, 0], [1, 2, 3])


def initialised(cell, field):
    """Returns one field of a cell's parameters, compiled without the others."""
    return np.asarray(jax.jit(lambda key: getattr(cell.init(key, I), field))(KEY))


VECTORS = {
    "peephole": ("peephole", lambda name: LSTM(256, peephole=True, kernel_init=name)),
    "bias": ("b", lambda name: LSTM(256, forget_bias=0.0, bias_init=name)),
    "coupled peephole": ("peephole", lambda name: LSTM(256, peephole=True, coupled_gates=True, kernel_init=name)),
    "candidate's bias": ("b_hn", lambda name: GRU(256, bias_init=name)),
}


@pytest.mark.parametrize(("field", "cell"), VECTORS.values(), ids=VECTORS)
@pytest.mark.parametrize(("name", "bound"), [("glorot_uniform", 0.10825), ("he_uniform", 0.15309)])
def test_every_vector_is_drawn_by_itself_with_both_fans_its_size_as_tensorflow_1_does(field, cell, name, bound):
    largest = np.atleast_1d(np.abs(initialised(cell(name), field)).max(-1))  # bound: sqrt(3 * scale / 256)
    assert (largest <= bound).all()
    assert (largest > 0.97 * bound).all()


@pytest.mark.parametrize("name", ["glorot", "lecun", "he"])
def test_normal_vectors_have_the_deviation_of_their_size(name):
    drawn = initialised(LSTM(4096, peephole=True, kernel_init=f"{name}_normal", recurrent_init="zeros"), "peephole")
    expected = np.sqrt((2 if name == "he" else 1) / 4096)
    np.testing.assert_allclose(np.std(drawn, -1), expected, rtol=0.04)


def test_an_initialiser_that_is_a_function_is_asked_for_every_vector():
    def numbered(key, shape, dtype):
        return jnp.arange(np.prod(shape), dtype=dtype).reshape(shape)

    params = LSTM(H, 0.0, peephole=True, kernel_init=numbered, bias_init=numbered).init(KEY, I)
    np.testing.assert_array_equal(params.peephole, [np.arange(H)] * 3)
    np.testing.assert_array_equal(params.b, [np.arange(H)] * 4)


@pytest.mark.parametrize("options", [{"peephole": True, "kernel_init": "orthogonal"}, {"bias_init": "orthogonal"}])
def test_orthogonal_vectors_are_refused_where_the_cell_is_made(options):
    with pytest.raises(ValueError, match='"orthogonal" is for matrices and cannot draw a vector; choose another'):
        LSTM(H, **options)


def test_a_function_that_draws_matrices_alone_is_refused_with_the_vector_it_was_asked_for():
    cell = LSTM(H, peephole=True, kernel_init=jax.nn.initializers.glorot_uniform())
    with pytest.raises(ValueError, match=r"cannot draw one of the cell's vectors, of shape \[8\] .*; give a function"):
        cell.init(KEY, I)


def test_an_initialiser_that_is_not_known_is_refused_with_those_that_are():
    with pytest.raises(ValueError, match=r"unknown initialiser 'golrot'; choose from zeros, .*orthogonal"):
        LSTM(H, kernel_init="golrot").init(KEY, I)


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
@pytest.mark.parametrize("make", [BasicRNN, LSTM, GRU])
def test_parameters_are_made_in_the_type_asked_for(make, dtype):
    cell = Project(make(H, param_dtype=dtype), P, param_dtype=dtype)
    params = jax.eval_shape(lambda: cell.init(KEY, I))
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype(dtype)}


def test_the_key_alone_decides_the_parameters():
    first, again, other = (LSTM(H, peephole=True).init(jax.random.key(seed), I) for seed in (1, 1, 2))
    jax.tree.map(np.testing.assert_array_equal, first, again)
    assert (first.w_x != other.w_x).all()
    assert (first.w_h != other.w_h).any()
    assert (first.peephole != other.peephole).all()


def test_layers_of_a_stack_are_initialised_apart_and_for_the_size_below():
    params = Stack((Project(GRU(H), P), GRU(H), GRU(H))).init(KEY, I)
    assert [params[0].cell.w_x.shape[0], params[1].w_x.shape[0], params[2].w_x.shape[0]] == [I, P, H]
    assert (params[0].w.shape, params[0].b.shape) == ((H, P), (P,))
    assert (params[1].w_h != params[2].w_h).any()


@pytest.mark.parametrize(
    ("cell", "sizes"),
    [
        (BasicRNN(H), [H]),
        (GRU(H), [H]),
        (LSTM(H), [H, H]),
        (LSTM(H, projection_size=P), [P, H]),
        (Stack((LSTM(H, projection_size=P), GRU(5))), [P, H, 5]),
        (Project(Residual(BasicRNN(H)), P), [H]),
        (LearnedState(GRU(H)), [H]),
    ],
)
@pytest.mark.parametrize("batch", [4, (), (2, 3)])
def test_the_initial_state_is_zeros_with_the_axes_of_the_batch(cell, sizes, batch):
    axes = (batch,) if isinstance(batch, int) else batch
    leaves = jax.tree.leaves(cell.initial_state(batch))
    assert [leaf.shape for leaf in leaves] == [(*axes, size) for size in sizes]
    assert not any(leaf.any() for leaf in leaves)


def test_output_sizes_are_those_of_the_last_part():
    assert LSTM(H).output_size == H
    assert LSTM(H, projection_size=P).output_size == P
    assert Project(LSTM(H), P).output_size == P
    assert Stack((LSTM(H), LSTM(5))).output_size == 5
    assert LearnedState(Residual(LSTM(H))).output_size == H


def test_only_cells_whose_gates_do_not_mix_units_are_pointwise():
    mixing = [GRU(H, reset="before"), LSTM(H, projection_size=P), LSTM(H, layer_norm=True)]
    apart = [BasicRNN(H), GRU(H), LSTM(H, peephole=True, coupled_gates=True, cell_clip=1.0)]
    assert not any(cell.pointwise for cell in mixing)
    assert all(cell.pointwise for cell in apart)


def test_a_learned_state_starts_as_the_state_of_the_cell_within():
    params = LearnedState(LSTM(H, projection_size=P)).init(KEY, I)
    assert [leaf.shape for leaf in params.state] == [(P,), (H,)]
    assert not any(leaf.any() for leaf in params.state)
