"""A cell, a wrapper and a method are one new file each and one export, and then work with all that is there.

An optimiser is a function, and needs no export.

The files are those of docs/extending.md.
"""

import functools
import importlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import flax.linen as linen
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from fixtures.parameters import array

import rnnjax
from rnnjax import LSTM, CuDNN, Dropout, Fused, Pallas, Residual, Scan, Stack, Static, nn, unroll
from rnnjax.unrolling.auto import choosing, methods_of

ROOT = Path(__file__).parents[1]
FILES = dict(
    re.findall(r'^```python title="(\S+)"\n(.*?)^```$', (ROOT / "docs/extending.md").read_text(), re.M | re.DOTALL)
)
B, T, I, H = 3, 4, 5, 5
NUMBERS = np.arange(B * T).reshape(B, T)
NO_OPTION = {"lengths": np.full(B, T), "mask": np.ones((B, T), bool), "resets": np.zeros((B, T), bool)}
OPTIONS = {
    "lengths": NO_OPTION | {"lengths": np.array([4, 0, 3])},
    "resets": NO_OPTION | {"resets": NUMBERS % 4 == 2},
    "mask": NO_OPTION | {"mask": NUMBERS % 3 != 1},
    "all at once": {"lengths": np.array([4, 2, 3]), "mask": NUMBERS % 5 != 1, "resets": NUMBERS % 4 == 2},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with a package of the page's files."""
    folder = tmp_path_factory.mktemp("own")
    (folder / "extras").mkdir()
    for name, text in FILES.items():
        (folder / name).write_text(text)
    return folder


@pytest.fixture(scope="module")
def extras(folder):
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        yield importlib.import_module("extras")
    for name in [name for name in sys.modules if name.split(".")[0] == "extras"]:
        del sys.modules[name]


@pytest.fixture(scope="module")
def cells(extras):
    own = extras.UpdateGate(H)
    return {
        "cell": own,
        "wrapper": extras.Gain(LSTM(H), first=0.7),
        "both": Residual(extras.Gain(own)),
        "kernels": extras.Gain(own, first=0.7),
        "stack": Stack([extras.Gain(own), LSTM(H), Dropout(own, state_rate=0.3)]),
    }


def drawn(cell):
    """Parameters with every entry drawn, inputs, and a state."""
    rng = np.random.default_rng(0)
    like = jax.eval_shape(lambda: (cell.init(jax.random.key(0), I), jnp.zeros((B, T, I)), cell.initial_state(B)))
    return jax.tree.map(lambda leaf: array(0.7 * rng.standard_normal(leaf.shape)), like)


@functools.partial(jax.jit, static_argnames=("cell", "methods", "reverse"))
def values_and_gradients(cell, methods, arguments, reverse=False, **options):
    """Returns for each method the gradients of a loss, outputs and final state."""

    def loss(method, params, xs, state):
        ys, last = unroll(cell, params, xs, state, method=method, reverse=reverse, **options)
        weighed = jnp.cos(jnp.arange(ys.size, dtype=ys.dtype)).reshape(ys.shape) * ys
        return weighed.sum() + sum(jnp.sin(leaf).sum() for leaf in jax.tree.leaves(last)), (ys, last)

    gradient = jax.grad(loss, argnums=(1, 2, 3), has_aux=True)
    return [gradient(method, *arguments) for method in methods]


def close(got, expected):
    assert jax.tree.structure(got) == jax.tree.structure(expected)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), got, expected)


def agree(cell, *methods, **options):
    expected, *found = values_and_gradients(cell, (Scan(), *methods), drawn(cell), **options)
    for each in found:
        close(each, expected)
    assert all(np.any(np.asarray(leaf) != 0) for leaf in jax.tree.leaves(expected))


def test_every_method_for_a_cell_gives_the_values_and_gradients_of_scan(cells, extras):
    every = (Static(), Scan(remat_every=3), Fused(), extras.Pairs())
    agree(cells["both"], *every, reverse=True, **OPTIONS["all at once"])


def test_methods_run_a_cell_beside_others(cells, extras):
    agree(cells["stack"], Fused(), extras.Pairs(), reverse=True, **OPTIONS["all at once"])


@pytest.mark.parametrize("option", OPTIONS)
def test_a_method_of_ones_own_takes_every_option(option, cells, extras):
    agree(cells["both"], extras.Pairs(), **OPTIONS[option])


def test_kernels_run_a_cell_and_a_wrapper_too(cells):
    agree(cells["kernels"], Pallas(interpret=True))


def test_masks_of_dropout_within_a_stack_are_the_same_by_every_method(cells, extras):
    cell, (params, xs, state), key = cells["stack"], drawn(cells["stack"]), jax.random.key(3)
    methods = Scan(), Static(), extras.Pairs()
    by_each = jax.jit(lambda *given: [unroll(cell, *given, method=method, key=key) for method in methods])
    expected, *found = by_each(params, xs, state)
    for each in found:
        close(each, expected)


def test_a_method_that_cannot_serve_says_why(cells, extras):
    params, xs, _ = drawn(cells["cell"])
    with pytest.raises(ValueError, match=r"Pairs\(\) takes an even number of steps, got T = 3; pad the inputs, or use"):
        unroll(cells["cell"], params, xs[:, :3], method=extras.Pairs())
    with pytest.raises(ValueError, match="needs a method that returns all states, such as Scan"):
        rnnjax.unroll_states(cells["cell"], params, xs, method=extras.Pairs())
    with pytest.raises(ValueError, match="UpdateGate"):
        unroll(cells["cell"], params, xs, method=CuDNN())


def test_the_choice_of_a_method_knows_them(cells, extras):
    assert rnnjax.choose_method(cells["cell"], (T, B, I), "cpu") == Fused()
    assert rnnjax.choose_method(cells["both"], (T, B, I), "cpu") == Fused()
    assert methods_of(cells["stack"], (T, B, I), "gpu") == [Scan()] * 3
    params, xs, _ = drawn(cells["both"])
    with choosing(lambda cell: extras.Pairs()):
        close(unroll(cells["both"], params, xs), unroll(cells["both"], params, xs, method=Scan()))
        with pytest.raises(ValueError, match="Pairs"):
            unroll(cells["both"], params, xs[:, 1:])


@pytest.mark.parametrize("name", ["cell", "both", "stack"])
def test_flax_modules_take_them(name, cells, extras):
    params, xs, _ = drawn(cells[name])
    module, lengths = nn.RNN(cells[name], method=extras.Pairs()), np.array([4, 0, 3])
    got = module.apply({"params": {"rnn": params}}, xs, lengths=lengths, deterministic=True)
    close(got, unroll(cells[name], params, xs, lengths=lengths))
    variables = jax.eval_shape(module.init, jax.random.key(0), xs)
    assert jax.tree.structure(variables["params"]["rnn"]) == jax.tree.structure(params)


def test_both_directions_take_them(cells, extras):
    own = cells["both"]
    params, xs, _ = drawn(own)
    ys, _ = rnnjax.bidirectional(own, own, (params, params), xs, method=extras.Pairs())
    close(ys[..., H:], unroll(own, params, xs, reverse=True)[0])


def test_models_take_them(cells):
    class Model(linen.Module):
        @linen.compact
        def __call__(self, ids):
            return nn.OneHotRNN(cells["stack"], I)(ids, deterministic=True)[0]

    ids = jnp.arange(B * T).reshape(B, T) % I
    params, _, _ = drawn(cells["stack"])
    got = Model().apply({"params": {"OneHotRNN_0": {"rnn": params}}}, ids)
    close(got, unroll(cells["stack"], params, jax.nn.one_hot(ids, I))[0])


@pytest.mark.promotes_types
def test_training_takes_a_cell_and_a_wrapper_by_name_over_devices(folder, extras, tmp_path, call):
    from rnnjax import evaluate, train

    own = ["--config.cell.kind=extras:UpdateGate", "--config.cell.openness=1", "--config.cell.wrappers=extras:Gain"]
    more = ["--config.cell.gain.first=0.5", "--config.cell.layers=2", "--config.parallel.layers=2"]
    few = ["--config.epochs=40", "--config.evaluate_every=40"]
    code, _, sentences, _ = call(
        train.main, "--config", "configs/hihello.py", *own, *more, *few, "--workdir", tmp_path / "run"
    )
    assert (code, sentences) == (0, [])
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    losses = [row["loss"] for row in rows if row["split"] == "train"]
    assert losses[-1] < 0.5 * losses[0]
    assert call(evaluate.main, tmp_path / "run")[0] == 2  # its code is not rnnjax's
    assert call(evaluate.main, tmp_path / "run", "--trust")[0] == 0


@pytest.mark.promotes_types
def test_training_takes_an_optimiser_by_name(folder, extras, tmp_path, call):
    from rnnjax import evaluate, train

    own = ["--config.optimizer.name=extras.signum:signum", "--config.optimizer.momentum=0.8"]
    few = ["--config.optimizer.learning_rate=0.01", "--config.epochs=40", "--config.evaluate_every=40"]
    code, _, sentences, _ = call(
        train.main, "--config", "configs/hihello.py", *own, *few, "--workdir", tmp_path / "run"
    )
    assert (code, sentences) == (0, [])
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    losses = [row["loss"] for row in rows if row["split"] == "train"]
    assert losses[-1] < 0.5 * losses[0]
    assert call(evaluate.main, tmp_path / "run")[0] == 2
    assert call(evaluate.main, tmp_path / "run", "--trust")[0] == 0


def test_help_lists_their_fields_with_their_sentences(folder, extras, call):
    from rnnjax import train

    own = ["--config.cell.kind=extras:UpdateGate", "--config.cell.wrappers=extras:Gain"]
    _, out, _, _ = call(train.main, "--config", "configs/hihello.py", *own, "--help")
    assert re.search(r"--config.cell.openness=0.0  \(float\)\n +what is added to the gate's sum\.", out)
    assert re.search(r"--config.cell.gain.first=1.0  \(float\)\n +what the factors start from\.", out)


def test_in_the_library_itself_one_export_makes_a_name(tmp_path):
    """A copy of the library with the three files in it, and a line and a name more in two of its `__init__`s."""
    package = shutil.copytree(ROOT / "rnnjax", tmp_path / "rnnjax", ignore=shutil.ignore_patterns("__pycache__"))
    for name, class_name, room in (
        ("update_gate", "UpdateGate", "cells"),
        ("gain", "Gain", "cells"),
        ("pairs", "Pairs", "unrolling"),
    ):
        text = FILES[f"extras/{name}.py"].replace("rnnjax.", "").replace("import rnnjax\n", IN_THE_LIBRARY[room])
        (package / room / f"{name}.py").write_text(text)
        exports = package / room / "__init__.py"
        line = f"from rnnjax.{room}.{name} import {class_name}\n\n__all__ = ["
        exports.write_text(exports.read_text().replace("\n__all__ = [", f'{line}"{class_name}", '))
    program = (
        "import jax, rnnjax\n"
        "from rnnjax.config import CellConfig, build_cell\n"
        "config = CellConfig(kind='UpdateGate', hidden_size=4, gain={'first': 0.5})\n"
        "cell = build_cell(config)\n"
        "assert cell == rnnjax.Gain(rnnjax.UpdateGate(4), 0.5), cell\n"
        "xs = jax.numpy.ones((2, 6, 3))\n"
        "ys, _ = rnnjax.unroll(cell, cell.init(jax.random.key(0), 3), xs, method=rnnjax.Pairs())\n"
        "print(rnnjax.__file__, ys.shape)\n"
    )
    settings = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False, env=settings, cwd=tmp_path
    )
    assert done.stdout.split(" ", 1) == [f"{package}/__init__.py", "(2, 6, 4)\n"], done.stderr


IN_THE_LIBRARY = {
    "cells": "from rnnjax.cells.gated_cell import GatedCell\n"
    "from rnnjax.cells.hidden_cell import HiddenState\n"
    "from rnnjax.cells.wrapper import Wrapper\n",
    "unrolling": "from rnnjax.unrolling.recurrence import Method\n",
}
