"""Values and gradients that TensorFlow 1 and PyTorch computed, equal to ours with their parameters brought over.

The gradients are those with respect to the other framework's own variables, through `from_tf1` and `from_torch`.
"""

import functools
import pathlib

import jax
import numpy as np
import pytest
from fixtures.thorough import main_of, once_more

from rnnjax import GRU, LSTM, BasicRNN, Scan, Stack, Static, bidirectional, unroll
from rnnjax.interop import bidirectional_from_torch, from_tf1, from_torch

GOLDENS = pathlib.Path(__file__).parent / "goldens"
METHODS = {"static": Static(), "scan": Scan()}

# Within 1e-5 of every number, or, where terms cancelled, within 2e-6 (17 units in the last place) of the largest.
RELATIVE, CANCELLED = 1e-5, 2e-6

TF1 = {
    "basic_rnn_static": BasicRNN(4),
    "basic_rnn_dynamic_lengths": BasicRNN(4),
    "basic_lstm_dynamic": LSTM(4),
    "lstm_peephole_dynamic_lengths": LSTM(4, peephole=True),
    "gru_dynamic_lengths0": GRU(4, reset="before"),
    "multi_rnn_3_dynamic": Stack([BasicRNN(4)] * 3),
}
STATIC = ("basic_rnn_static", "lstm_peephole_dynamic_lengths", "gru_dynamic_lengths0")
TORCH = {
    "rnn_tanh": BasicRNN(4),
    "rnn_relu": BasicRNN(4, activation="relu"),
    "lstm": LSTM(4),
    "lstm_projection": LSTM(4, projection_size=2),
    "gru": GRU(4),
}
TORCH_FILES = [f"{kind}_{rest}" for kind in TORCH for rest in ("1_layer", "2_layers")]
TORCH_FILES += [f"{name}_bidirectional" for name in TORCH_FILES]
# Two layers in both directions have the parameters of one, and a projected LSTM those of one that is not; that fewer
# are read as fewer, a cell of one kind shows.
MAIN = [f"{kind}_2_layers_bidirectional" for kind in ("rnn_tanh", "lstm_projection", "gru")]
MAIN += ["rnn_relu_2_layers", "lstm_1_layer"]
TORCH_CASES = main_of(TORCH_FILES, MAIN)


def load(name):
    with np.load(GOLDENS / f"{name}.npz") as golden:
        return dict(golden)


def below(golden, prefix):
    """Returns the arrays whose names start with a prefix, by what follows it."""
    return {name.removeprefix(prefix): value for name, value in golden.items() if name.startswith(prefix)}


def excess(ours, theirs):
    """Returns by how much the largest difference exceeds what is allowed; at most 1 is right."""
    allowed = np.maximum(RELATIVE * np.abs(theirs), CANCELLED * np.abs(theirs).max())
    difference = np.abs(np.asarray(ours) - theirs)
    return np.max(difference / np.where(difference == 0, 1, allowed))


def differing(ours, theirs):
    """Returns the names of arrays that differ, with their `excess`."""
    assert ours.keys() == theirs.keys()
    assert {name: ours[name].shape for name in ours} == {name: theirs[name].shape for name in theirs}
    return {name: by for name in ours if not (by := excess(ours[name], theirs[name])) <= 1}


def unseen_changes(results, golden, prefix, expected):
    """Returns the variables of a golden that can be changed by a ten thousandth without any result differing."""
    names = [name for name in golden if name.startswith(prefix)]
    changes = {name: golden[name] * np.float32(1 + 1e-4) for name in names}
    return [name for name in names if not differing(results(golden | {name: changes[name]}), expected)]


@functools.partial(jax.jit, static_argnums=(0, 1))
def tf1_results(name, method, golden):
    """Returns what a golden of TensorFlow 1 holds, under its names, computed by the library."""
    cell, weight = TF1[name], golden["loss_weight"]

    def loss(variables, x):
        params = from_tf1(cell, variables)
        ys, state = unroll(cell, params, x, lengths=golden.get("lengths"), method=METHODS[method])
        return (ys**2 * weight).sum(), (ys, state)

    (grads, grad_x), (ys, state) = jax.grad(loss, (0, 1), has_aux=True)(below(golden, "var/"), golden["x"])
    # TensorFlow's LSTMStateTuple is (c, h).
    leaves = (state.c, state.h) if isinstance(cell, LSTM) else jax.tree.leaves(state)
    states = {f"state/{i}": leaf for i, leaf in enumerate(leaves)}
    return {"y": ys, "grad_x": grad_x, **states, **{f"grad/{name}": grad for name, grad in grads.items()}}


def tf1_expected(golden):
    return {name: golden[name] for name in golden if name.startswith(("y", "grad", "state"))}


# Both ways to unroll for a cell of each kind, one of them for what is only otherwise read or stacked.
TF1_CASES = [(name, "scan") if name != STATIC[0] else (name, "static") for name in TF1]
TF1_CASES += [once_more(name, "static") for name in STATIC[1:]] + [once_more(STATIC[0], "scan")]


@pytest.mark.parametrize(("name", "method"), TF1_CASES)
def test_cells_compute_what_tensorflow_1_computed(name, method):
    golden = load(f"tf1/{name}")
    assert not differing(tf1_results(name, method, golden), tf1_expected(golden))


@pytest.mark.parametrize("name", TF1)
def test_a_change_of_any_tf1_variable_by_a_ten_thousandth_would_be_seen(name):
    golden = load(f"tf1/{name}")
    unseen = unseen_changes(functools.partial(tf1_results, name, "scan"), golden, "var/", tf1_expected(golden))
    assert not unseen


def torch_layers(name, state_dict):
    """Returns the cell, or a list of cells, of a file, and the parameters; those of two directions are pairs."""
    kind = next(kind for kind in sorted(TORCH, key=len, reverse=True) if name.startswith(kind))
    cell, count = TORCH[kind], 2 if "2_layers" in name else 1
    if "bidirectional" not in name:
        cell = cell if count == 1 else Stack([cell] * count)
        return cell, from_torch(cell, state_dict)
    cells = cell if count == 1 else [cell] * count
    return cells, bidirectional_from_torch(cells, cells, state_dict)


def torch_state(cell, rows):
    """Returns a state for each of PyTorch's rows (layers, and directions in each), as a list."""
    kind = type(jax.eval_shape(lambda: cell.initial_state(1)))
    return [kind(*row) for row in zip(*rows)]


def torch_unroll(name, state_dict, x, initial, **options):
    """Returns the outputs and the final states in the order of PyTorch's rows."""
    cell, params = torch_layers(name, state_dict)
    if "bidirectional" not in name:
        several = isinstance(cell, Stack)
        states = torch_state(cell.cells[0] if several else cell, initial)
        ys, final = unroll(cell, params, x, tuple(states) if several else states[0], **options)
        return ys, list(final) if several else [final]
    if not isinstance(cell, list):
        ys, final = bidirectional(cell, cell, params, x, tuple(torch_state(cell, initial)), **options)
        return ys, list(final)
    rows = torch_state(cell[0], initial)
    ys, final = bidirectional(cell, cell, params, x, list(zip(rows[::2], rows[1::2])), **options)
    return ys, [state for pair in final for state in pair]


@functools.partial(jax.jit, static_argnums=(0, 1))
def torch_results(name, method, golden):
    """Returns what a golden of PyTorch holds, under its names, computed by the library."""
    weight, options = golden["loss_weight"], {"lengths": golden.get("lengths"), "method": METHODS[method]}

    def loss(state_dict, x, initial):
        ys, states = torch_unroll(name, state_dict, x, initial.values(), **options)
        final = [jax.numpy.stack(leaves) for leaves in zip(*states)]
        return (ys**2 * weight).sum() + sum((leaf**2).sum() for leaf in final), (ys, final)

    inputs = below(golden, "param/"), golden["x"], below(golden, "initial/")
    (grads, grad_x, grad_initial), (ys, final) = jax.grad(loss, (0, 1, 2), has_aux=True)(*inputs)
    results = {"y": ys, "grad_x": grad_x} | {f"final/{i}": leaf for i, leaf in enumerate(final)}
    results |= {f"grad_initial/{i}": grad for i, grad in grad_initial.items()}
    return results | {f"grad/{name}": grad for name, grad in grads.items()}


def torch_expected(golden):
    return {name: golden[name] for name in golden if name.startswith(("y", "grad", "final"))}


@pytest.mark.parametrize("method", ["scan"])
@pytest.mark.parametrize("name", TORCH_CASES)
def test_cells_compute_what_pytorch_computed(name, method):
    golden = load(f"torch/{name}")
    assert not differing(torch_results(name, method, golden), torch_expected(golden))


@pytest.mark.parametrize("name", TORCH_CASES)
def test_a_change_of_any_pytorch_parameter_by_a_ten_thousandth_would_be_seen(name):
    golden = load(f"torch/{name}")
    unseen = unseen_changes(functools.partial(torch_results, name, "scan"), golden, "param/", torch_expected(golden))
    assert not unseen


def test_every_golden_is_compared():
    files = {str(path.relative_to(GOLDENS).with_suffix("")) for path in GOLDENS.rglob("*.npz")}
    files.remove("tf1_checkpoint/outputs")  # for the test of reading that checkpoint
    assert files == {f"tf1/{name}" for name in TF1} | {f"torch/{name}" for name in TORCH_FILES}
