import importlib
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import rnnjax

PUBLIC = [name for name in rnnjax.__all__ if callable(getattr(rnnjax, name, None))]
HEAVY = ("flax", "tensorflow", "tensorflow_datasets", "matplotlib", "orbax", "optax", "mlxtend")


PROGRAM = f"""
import rnnjax, sys
print(*(name for name in {HEAVY} if name in sys.modules))
import jax
jax.config.update("jax_num_cpu_devices", 3)
print(jax.device_count())
print(rnnjax.nn.RNN.__name__, rnnjax.interop.from_flax.__name__, rnnjax.models.greedy.__name__)
print("flax.nnx" in sys.modules, rnnjax.nn.nnx.RNN.__module__)
"""


@pytest.fixture(scope="module")
def said():
    """What a process says that imports the library, one line after the other."""
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-c", PROGRAM]
    return subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout.splitlines()


def test_importing_the_library_imports_no_data_or_training_library(said):
    assert said[0] == ""


def test_importing_the_library_starts_no_device(said):
    assert said[1] == "3"


@pytest.mark.parametrize("package", ["rnnjax", "rnnjax.cells", "rnnjax.unrolling"])
def test_every_public_name_is_there_once(package):
    module = importlib.import_module(package)
    assert len(set(module.__all__)) == len(module.__all__)
    assert [name for name in module.__all__ if not hasattr(module, name)] == []


def test_the_names_of_cells_and_unrolling_are_names_of_the_library():
    assert [*rnnjax.cells.__all__, *rnnjax.unrolling.__all__, *rnnjax.streams.__all__] == rnnjax.__all__


@pytest.mark.parametrize("name", PUBLIC)
def test_public_functions_and_classes_say_what_they_are(name):
    doc = getattr(rnnjax, name).__doc__
    assert doc
    assert not doc.startswith(f"{name}(")  # what a dataclass or NamedTuple says for want of better
    assert len(doc) > 20


def test_what_needs_flax_is_imported_when_it_is_asked_for(said):
    assert said[2:] == ["RNN from_flax greedy", "False rnnjax.nn.nnx"]
    with pytest.raises(AttributeError, match="module 'rnnjax' has no attribute 'none'"):
        rnnjax.none  # noqa: B018
    with pytest.raises(AttributeError, match=r"module 'rnnjax\.nn' has no attribute 'none'"):
        rnnjax.nn.none  # noqa: B018


def test_the_citation_names_the_version():
    version = re.search(r"^version: (\S+)$", (Path(__file__).parents[1] / "CITATION.cff").read_text(), re.MULTILINE)
    assert version is not None
    assert version[1] == rnnjax.__version__
