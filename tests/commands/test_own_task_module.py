"""The task of the guide's page, as a module beside its config, is found by its name."""

import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest

import rnnjax
from rnnjax import evaluate, train

# ml_collections reads config files by a method that Python has deprecated.
pytestmark = pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")

PAGE = Path(__file__).parents[2] / "docs" / "guide" / "17-your-own-task.md"


@pytest.fixture
def written(tmp_path, monkeypatch):
    module, config = (re.search(f"```{kind}\n(.*?)```", PAGE.read_text(), re.DOTALL)[1] for kind in ("python", "py"))
    (tmp_path / "running_sums.py").write_text(module)
    (tmp_path / "sums.py").write_text(config)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield tmp_path
    sys.modules.pop("running_sums", None)


def test_a_module_beside_the_config_is_found_by_its_name_and_trusted_by_a_flag(call, written):
    run = written / "run"
    small = ["--config.steps=3", "--config.cell.hidden_size=4", "--config.epochs=1"]
    code, _, _, err = call(train.main, "--config", written / "sums.py", *small, "--workdir", run)
    assert code == 0, err
    assert json.loads((run / "config.json").read_text())["task"] == "running_sums"
    code, _, sentences, _ = call(evaluate.main, run)
    assert code == 2
    assert "names code outside rnnjax, which would be run here: task = 'running_sums'; add --trust" in sentences[0]
    code, out, _, err = call(evaluate.main, run, "--trust")
    assert code == 0, err
    assert json.loads(out)["loss"] > 0
    assert rnnjax.load_run(run, trust=True).predict(np.zeros((2, 4, 1))).shape == (2, 4, 1)
