"""What a wheel installs is enough: configs by name, the command by one word, and nothing of the checkout."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
BUILD = "import sys; from hatchling.build import build_wheel; print(build_wheel(sys.argv[1]))"

needs_hatchling = pytest.mark.skipif(importlib.util.find_spec("hatchling") is None, reason="hatchling builds the wheel")


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """Runs Python, in a folder that is not the checkout, with the package that a wheel has installed."""
    base = tmp_path_factory.mktemp("wheel")
    wheel = subprocess.run([sys.executable, "-c", BUILD, str(base)], cwd=ROOT, capture_output=True, text=True)
    assert wheel.returncode == 0, wheel.stderr
    (path,) = base.glob("*.whl")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", str(base / "lib")]
    subprocess.run([*pip, str(path)], check=True, capture_output=True)
    (base / "elsewhere").mkdir()

    def run(*arguments):
        environment = {**os.environ, "PYTHONPATH": str(base / "lib"), "JAX_PLATFORMS": "cpu"}
        command = [sys.executable, *arguments]
        return subprocess.run(
            command, cwd=base / "elsewhere", env=environment, capture_output=True, text=True, timeout=300
        )

    return run


@pytest.mark.thorough
@needs_hatchling
def test_an_installed_package_trains_a_config_by_its_name_from_any_folder(installed):
    where = installed("-c", "import rnnjax; print(rnnjax.__file__)").stdout
    assert str(ROOT) not in where
    sizes = ["--config.epochs=1", "--config.cell.hidden_size=8"]
    ended = installed("-m", "rnnjax.train", "--config", "mnist:embedded", *sizes, "--workdir", "run")
    assert ended.returncode == 0, ended.stderr
    assert "test " in ended.stdout
    assert installed("-m", "rnnjax", "evaluate", "run").stdout.startswith("{")
    scripts = Path(where.strip()).parents[1] / "bin" / "rnnjax"
    assert "train" in installed(str(scripts)).stdout


def test_configs_by_name_are_those_of_the_checkout(tmp_path, monkeypatch):
    from rnnjax.config_file import place_of, shipped_configs

    assert {path.name for path in shipped_configs().values()} == {path.name for path in (ROOT / "configs").glob("*.py")}
    assert place_of("mnist") == str(ROOT / "configs" / "mnist.py")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mnist").mkdir()  # of its data
    assert place_of("mnist") == str(ROOT / "configs" / "mnist.py")
