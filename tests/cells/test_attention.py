import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from fixtures.parameters import array, drawn_parameters

import rnnjax
from rnnjax.cells.attention import (
    SCORES,
    Bahdanau,
    Luong,
    attend,
    attending,
    init_score,
    masked_softmax,
    remember,
    with_attention_weights,
)

B, T, S, I, H, M = 2, 4, 5, 3, 4, 6
LENGTHS = jax.device_put(np.array([5, 2]))
CELLS = {
    "bahdanau": Bahdanau(rnnjax.GRU(H), M),
    "luong": Luong(rnnjax.GRU(H), M),
    "luong_lstm": Luong(rnnjax.LSTM(H, projection_size=3), M, score="concat", size=7),
    "luong_not_fed": Luong(rnnjax.GRU(H), M, input_feeding=False),
    "stack": rnnjax.Stack((rnnjax.GRU(3), rnnjax.Dropout(Bahdanau(rnnjax.LSTM(H), M), output_rate=0.5))),
}

KINDS = {name: CELLS[name] for name in ("bahdanau", "luong", "luong_not_fed")}


def drawn(seed, *shape):
    return array(np.random.default_rng(seed).standard_normal(shape))


@functools.cache
def parameters(cell):
    like = jax.eval_shape(lambda: cell.init(jax.random.key(0), I))
    leaves, structure = jax.tree.flatten(like)
    return jax.tree.unflatten(structure, [0.7 * drawn(seed, *leaf.shape) for seed, leaf in enumerate(leaves)])


XS, MEMORY = drawn(100, B, T, I), drawn(101, B, S, M)


def run(cell, xs=XS, memory=MEMORY, lengths=LENGTHS, **options):
    return rnnjax.unroll(cell, attending(parameters(cell), memory, lengths), xs, **options)


def whole_softmax(scores):
    likelihood = np.exp(scores - scores.max(-1, keepdims=True))
    return likelihood / likelihood.sum(-1, keepdims=True)


@pytest.mark.parametrize("score", SCORES)
def test_scores_are_those_of_the_papers(score):
    size = H if score == "dot" else M
    params = drawn_parameters(lambda key: init_score(score, key, H, size, jnp.float32), scale=1)
    query, values = drawn(0, B, H), drawn(1, B, S, size)
    context, weights = jax.jit(lambda *given: attend(params, remember(params, given[0]), given[1]))(values, query)
    q, m = np.asarray(query), np.asarray(values)
    if score == "dot":
        expected = np.einsum("bh,bsh->bs", q, m)
    elif score == "general":
        expected = np.einsum("bh,mh,bsm->bs", q, params.w_memory, m)
    else:
        both = np.concatenate([np.repeat(q[:, None], S, 1), m], -1)
        expected = np.tanh(both @ np.concatenate([params.w_query, params.w_memory])) @ np.asarray(params.v)
    np.testing.assert_allclose(weights, whole_softmax(expected), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(context, np.einsum("bs,bsm->bm", weights, m), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("score", SCORES)
def test_weights_over_padding_are_exactly_zero_and_the_rest_sums_to_one(score):
    params = drawn_parameters(lambda key: init_score(score, key, H, H, jnp.float32), scale=1)
    run = jax.jit(lambda *given: attend(params, remember(params, *given), drawn(0, 3, H)))
    _, weights = run(100 * drawn(1, 3, S, H), jnp.array([5, 2, 0]))
    assert not np.asarray(weights)[1, 2:].any()
    assert not np.asarray(weights)[2].any()
    np.testing.assert_allclose(weights.sum(-1), [1, 1, 0], rtol=1e-6)


def test_a_masked_softmax_of_nothing_has_no_value_and_no_gradient():
    scores, mask = jnp.array([[1.0, 1e30], [-1e30, 2.0]]), jnp.array([[False, False], [True, False]])
    values, gradient = jax.jit(jax.value_and_grad(lambda x: (masked_softmax(x, mask) ** 2).sum()))(scores)
    assert values == 1
    np.testing.assert_array_equal(gradient, 0)


def test_bahdanau_is_the_cell_given_the_context_beside_its_input():
    cell = CELLS["bahdanau"]

    @jax.jit
    def by_hand(params):
        memory, state = remember(params.score, MEMORY, LENGTHS), cell.initial_state(B)
        inner = params.cell._replace(w_x=jnp.concatenate([params.cell.w_x, params.w_in]))
        expected = []
        for x in XS.swapaxes(0, 1):
            context, _ = attend(params.score, memory, state.h)
            state, h = cell.cell(inner, state, jnp.concatenate([x, context], -1))
            expected.append(jnp.tanh(jnp.concatenate([h, context], -1) @ params.w_out))
        return jnp.stack(expected, 1), state

    ys, last = run(cell)
    expected, state = by_hand(parameters(cell))
    np.testing.assert_allclose(ys, expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(last.h, state.h, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["luong", "luong_not_fed"])
def test_luong_attends_after_the_step_and_feeds_its_output_to_the_next(name):
    cell = CELLS[name]

    @jax.jit
    def by_hand(params):
        memory, state, y = remember(params.score, MEMORY, LENGTHS), cell.cell.initial_state(B), jnp.zeros((B, H))
        inner, expected = params.cell, []
        if cell.input_feeding:
            inner = inner._replace(w_x=jnp.concatenate([inner.w_x, params.w_in]))
        for x in XS.swapaxes(0, 1):
            state, h = cell.cell(inner, state, jnp.concatenate([x, y], -1) if cell.input_feeding else x)
            y = jnp.tanh(jnp.concatenate([h, attend(params.score, memory, h)[0]], -1) @ params.w_out)
            expected.append(y)
        return jnp.stack(expected, 1)

    np.testing.assert_allclose(run(cell)[0], by_hand(parameters(cell)), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("cell", CELLS.values(), ids=CELLS)
def test_a_sequence_is_its_steps_one_by_one(cell):
    ys, last = run(cell)
    assert ys.shape == (B, T, cell.output_size)
    params, state = attending(parameters(cell), MEMORY, LENGTHS), cell.initial_state(B)
    step = jax.jit(cell)
    for t in range(T):
        state, y = step(params, state, XS[:, t])
        np.testing.assert_allclose(ys[:, t], y, rtol=1e-4, atol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), last, state)


@pytest.mark.parametrize("cell", KINDS.values(), ids=KINDS)
def test_nothing_in_the_memorys_padding_changes_a_value_or_a_gradient(cell):
    padding = (jnp.arange(S) >= LENGTHS[:, None])[..., None]

    @jax.jit
    @functools.partial(jax.value_and_grad, argnums=(0, 1))
    def loss(params, memory):
        return (rnnjax.unroll(cell, attending(params, memory, LENGTHS), XS)[0] ** 2).sum()

    plain, filled = (loss(parameters(cell), jnp.where(padding, filler, MEMORY)) for filler in (0.0, jnp.nan))
    jax.tree.map(np.testing.assert_array_equal, plain, filled)
    assert not np.asarray(plain[1][1])[np.broadcast_to(padding, MEMORY.shape)].any()
    assert all(np.asarray(leaf).any() for leaf in jax.tree.leaves(plain[1]))


@pytest.mark.parametrize("cell", KINDS.values(), ids=KINDS)
def test_no_output_depends_on_a_later_input(cell):
    jacobian = np.asarray(jax.jit(jax.jacobian(lambda xs: run(cell, xs)[0].sum((0, 2))))(XS))
    for t in range(T):
        assert not jacobian[t, :, t + 1 :].any()
        assert jacobian[t, :, : t + 1].any()


@pytest.mark.parametrize("name", ["bahdanau", "luong"])
def test_a_beam_looks_at_one_memory(name):
    cell, beams = CELLS[name], 3
    params, x = parameters(cell), drawn(3, B, beams, I)
    state = jax.tree.map(lambda leaf: drawn(4, *leaf.shape), cell.initial_state((B, beams)))
    step = jax.jit(lambda params, memory, *given: cell(attending(params, memory, LENGTHS[:, None]), *given)[1])
    ys = step(params, MEMORY[:, None], state, x)
    each = jax.tree.map(lambda leaf: jnp.moveaxis(leaf, 1, 0), (state, x))
    alone = jax.jit(jax.vmap(lambda *given: cell(attending(params, MEMORY, LENGTHS), *given)[1]))(*each)
    np.testing.assert_allclose(ys, alone.swapaxes(0, 1), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["bahdanau", "luong", "luong_not_fed", "stack"])
def test_the_alignment_of_a_step_is_the_weights_it_used(name):
    cell = CELLS[name]
    weights, last = run(with_attention_weights(cell))
    assert weights.shape == (B, T, S)
    np.testing.assert_allclose(weights.sum(-1), 1, rtol=1e-5)
    assert not np.asarray(weights)[1, :, 2:].any()
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), last, run(cell)[1])
    if name == "bahdanau":  # the first query is the first state
        params = parameters(cell)
        first = attend(params.score, remember(params.score, MEMORY, LENGTHS), jnp.zeros((B, H)))[1]
        np.testing.assert_allclose(weights[:, 0], first, rtol=1e-5)


def test_methods_agree_on_attention():
    a, b = (run(CELLS["luong"], method=method)[0] for method in (rnnjax.Scan(), rnnjax.Static()))
    np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.promotes_types
def test_in_bfloat16_outputs_are_bfloat16_and_close():
    cell = CELLS["luong"]
    found, _ = run(cell, XS.astype(jnp.bfloat16), MEMORY.astype(jnp.bfloat16))
    assert found.dtype == jnp.bfloat16
    np.testing.assert_allclose(found.astype(jnp.float32), run(cell)[0], atol=0.1)


def test_misuse_is_named():
    with pytest.raises(ValueError, match="has no memory to attend to"):
        rnnjax.unroll(CELLS["bahdanau"], parameters(CELLS["bahdanau"]), XS)
    with pytest.raises(ValueError, match="has no memory to attend to"):
        rnnjax.unroll(CELLS["luong_not_fed"], parameters(CELLS["luong_not_fed"]), XS)
    with pytest.raises(TypeError, match="needs a gated cell"):
        Bahdanau(rnnjax.Stack((rnnjax.GRU(3),)), M)
    with pytest.raises(ValueError, match=r"score must be one of .* got 'cosine'"):
        Luong(rnnjax.GRU(H), M, score="cosine")
    with pytest.raises(ValueError, match=r'"dot" needs a memory of the query.s size 4, got 6'):
        Luong(rnnjax.GRU(H), M, score="dot")
    with pytest.raises(ValueError, match="has no attention"):
        with_attention_weights(rnnjax.GRU(3))


@pytest.mark.parametrize(
    ("cell", "of", "message"),
    [
        (CELLS["stack"], rnnjax.Stack((rnnjax.GRU(2), *CELLS["stack"].cells[1:])), "has for 3 features"),
        (CELLS["bahdanau"], Bahdanau(rnnjax.GRU(H), M, size=3), r"got AttentionParams\(.*w_out=\[10, 3\]"),
        (CELLS["bahdanau"], CELLS["stack"], r"params must be those of Bahdanau\(.*, got \("),
        (
            CELLS["luong"],
            Luong(rnnjax.LSTM(H), M),
            r"params must be those of Luong\(.*, got AttentionParams\(cell=LSTM",
        ),
    ],
    ids=["below", "output", "another cell", "another inside"],
)
def test_parameters_of_another_cell_are_refused_with_a_memory_among_them(cell, of, message):
    params = attending(parameters(of), MEMORY, LENGTHS)
    with pytest.raises((TypeError, ValueError), match=message):
        rnnjax.unroll(cell, params, XS)
    with pytest.raises((TypeError, ValueError), match=message):
        cell(params, cell.initial_state(B), XS[:, 0])


def test_dropout_around_attention_sees_the_same_parameters():
    cell = CELLS["bahdanau"]
    dropped = rnnjax.Dropout(cell, input_rate=0.5, state_rate=0.5, output_rate=0.5)
    params = attending(parameters(cell), MEMORY, LENGTHS)
    np.testing.assert_allclose(rnnjax.unroll(dropped, params, XS)[0], run(cell)[0], rtol=1e-5, atol=1e-6)
    other, _ = rnnjax.unroll(dropped, params, XS, key=jax.random.key(0))
    assert np.mean(np.asarray(other) == 0) > 0.2


@pytest.mark.parametrize(("batch", "steps"), [(0, S), (B, 0), (0, 0)])
@pytest.mark.parametrize("cell", CELLS.values(), ids=CELLS)
def test_no_sequences_or_a_memory_of_no_steps_give_outputs_of_their_shapes_and_finite_gradients(cell, batch, steps):
    def loss(params, xs, memory):
        ys, _ = rnnjax.unroll(cell, attending(params, memory), xs)
        return (ys**2).sum(), ys

    arguments = parameters(cell), XS[:batch], MEMORY[:batch, :steps]
    gradients, ys = jax.jit(jax.grad(loss, (0, 1, 2), has_aux=True))(*arguments)
    assert ys.shape == (batch, T, cell.output_size)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradients))
