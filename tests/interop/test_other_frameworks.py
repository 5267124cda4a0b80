"""Parameters of other frameworks' own modules compute what those modules do, where the frameworks are installed."""

import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from foreign_variables import H, I, P

from rnnjax import GRU, LSTM, BasicRNN, Project, Stack, bidirectional, unroll
from rnnjax.interop import bidirectional_from_keras, from_equinox, from_haiku, from_keras, to_keras, write_keras

# Keras's variables do not know NumPy 2's arguments yet, in its own methods too.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy keyword")

RNG = np.random.default_rng(0)
XS = RNG.normal(size=(2, 5, I)).astype(np.float32)


def package(name):
    os.environ.setdefault("KERAS_BACKEND", "jax")
    return pytest.importorskip(name)


def drawn(leaf):
    return RNG.normal(size=leaf.shape, scale=0.5).astype(np.float32)


def agrees(cell, params, expected):
    np.testing.assert_allclose(unroll(cell, params, XS)[0], expected, rtol=1e-5, atol=2e-6)


KERAS = {
    "SimpleRNN": (BasicRNN(H), {}),
    "LSTM": (LSTM(H), {}),
    "GRU": (GRU(H), {}),
    "GRU before": (GRU(H, reset="before"), {"reset_after": False}),
    "GRU without biases": (GRU(H, use_bias=False), {"use_bias": False}),
}


@pytest.mark.parametrize("kind", KERAS)
def test_a_model_of_keras_its_file_and_the_way_back(kind, tmp_path):
    keras, h5py = package("keras"), package("h5py")
    cell, options = KERAS[kind]
    layer = getattr(keras.layers, kind.partition(" ")[0])
    layers = [layer(H, return_sequences=True, **options) for _ in range(2)]
    model = keras.Sequential([keras.Input((None, I)), *layers, keras.layers.Dense(P)])
    model.set_weights([drawn(weight) for weight in model.get_weights()])
    cell = Project(Stack([cell, cell]), P)
    params = from_keras(cell, {weight.path: weight for weight in model.variables})
    agrees(cell, params, model(XS))
    model.save_weights(tmp_path / "a.weights.h5")
    with h5py.File(tmp_path / "a.weights.h5") as file:
        agrees(cell, from_keras(cell, file), model(XS))
    expected = np.asarray(model(XS))
    for load in (model.set_weights, lambda _: model.load_weights(tmp_path / "b.weights.h5")):
        write_keras(tmp_path / "b.weights.h5", to_keras(cell, params))
        model.set_weights([np.zeros(weight.shape, np.float32) for weight in model.get_weights()])
        load(list(to_keras(cell, params).values()))
        np.testing.assert_allclose(model(XS), expected, rtol=1e-5)


def test_bidirectional_layers_of_keras():
    keras = package("keras")
    layers = [keras.layers.Bidirectional(keras.layers.LSTM(H, return_sequences=True)) for _ in range(2)]
    model = keras.Sequential([keras.Input((None, I)), *layers])
    model.set_weights([drawn(weight) for weight in model.get_weights()])
    cells = [LSTM(H), LSTM(H)]
    params = bidirectional_from_keras(cells, cells, {weight.path: weight for weight in model.variables})
    np.testing.assert_allclose(bidirectional(cells, cells, params, XS)[0], model(XS), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("kind", "cell"), [("VanillaRNN", BasicRNN(H, "relu")), ("LSTM", LSTM(H)), ("GRU", GRU(H, reset="before"))]
)
def test_cores_of_haiku(kind, cell):
    hk = package("haiku")

    def run(xs):
        core = hk.DeepRNN([getattr(hk, kind)(H) for _ in range(2)])
        ys, _ = hk.dynamic_unroll(core, xs, core.initial_state(len(XS)), time_major=False)
        return hk.Linear(P)(ys)

    transformed = hk.without_apply_rng(hk.transform(run))
    variables = jax.tree.map(drawn, jax.eval_shape(transformed.init, jax.random.key(0), XS))
    cell = Project(Stack([cell, cell]), P)
    agrees(cell, from_haiku(cell, variables), transformed.apply(variables, XS))


@pytest.mark.parametrize(("kind", "cell"), [("LSTMCell", LSTM(H)), ("GRUCell", GRU(H))])
def test_cells_of_equinox(kind, cell):
    eqx = package("equinox")
    keys = jax.random.split(jax.random.key(0), 3)
    cells = [getattr(eqx.nn, kind)(size, H, key=key) for size, key in zip((I, H), keys)]
    module = {"cells": cells, "out": eqx.nn.Linear(H, P, key=keys[2])}

    def run(ys):
        for each in module["cells"]:
            state, outputs = (jnp.zeros(H),) * 2 if kind == "LSTMCell" else jnp.zeros(H), []
            for y in ys:
                state = each(y, state)
                outputs.append(state[0] if kind == "LSTMCell" else state)
            ys = jnp.stack(outputs)
        return jax.vmap(module["out"])(ys)

    cell = Project(Stack([cell, cell]), P)
    agrees(cell, from_equinox(cell, module), jax.vmap(run)(XS))
