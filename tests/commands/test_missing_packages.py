"""What is not installed costs a run what it is for, and no more."""

import json
import subprocess
import sys

import numpy as np
from fixtures.commands import REPOSITORY

from rnnjax.data.mnist import load_mnist

WITHOUT = ("tensorflow_datasets", "array_record", "ml_collections", "tensorboardX", "matplotlib", "tqdm", "requests")
TRAIN = f"""
import runpy, sys
sys.modules.update(dict.fromkeys({WITHOUT!r}))
runpy.run_module("rnnjax.train", run_name="__main__")
"""


def test_training_goes_on_without_events_and_plots_and_says_so_in_a_line_each(tmp_path):
    flags = ["--config=configs/hihello.py:basic", "--config.epochs=2", "--config.cell.activation=relu"]
    command = [sys.executable, "-c", TRAIN, *flags, "--workdir", str(tmp_path)]
    ended = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=120, check=False)
    assert ended.returncode == 0, ended.stderr
    said = ended.stderr.splitlines()
    assert said.count("tensorboardX is not installed: no TensorBoard events are written") == 1
    assert said.count("matplotlib is not installed: no plots are drawn") == 1
    assert "epoch 2  step 2/2" in ended.stderr
    assert {path.name for path in tmp_path.iterdir()}.isdisjoint({"tensorboard", "plots"})
    assert json.loads((tmp_path / "config.json").read_text())["cell"]["activation"] == "relu"
    assert json.loads((tmp_path / "summary.json").read_text())["final"]["test"]["step"] == 2


def test_mnist_in_a_local_folder_is_read_without_tfds(synthetic, monkeypatch):
    for name in (*WITHOUT, "rnnjax.data.mnist_builder"):
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setenv("RNNJAX_DATA", str(synthetic.root))
    found = load_mnist()
    np.testing.assert_array_equal(found.splits["test"]["label"], synthetic.content["test"]["label"])
