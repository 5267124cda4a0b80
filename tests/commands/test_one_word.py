"""``python -m rnnjax``, ``rnnjax``, and what a shell completes."""

import ast
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import rnnjax
from rnnjax import __main__ as one_word
from rnnjax.completion import script

PACKAGE = Path(rnnjax.__file__).parent


def test_every_command_is_listed_with_a_line(call):
    code, out, _, _ = call(one_word.main)
    assert code == 0
    modules = [path for path in PACKAGE.glob("*.py") if '\nif __name__ == "__main__":' in path.read_text()]
    assert {path.stem for path in modules} - {"__main__"} == set(one_word.COMMANDS)
    assert all(f"\n  {name:<11} {what}\n" in out for name, what in one_word.COMMANDS.items())


def test_a_command_by_its_word_is_that_command(call):
    code, out, _, _ = call(one_word.main, "reproduce", "--list")
    assert code == 0
    assert "hihello_basic" in out
    code, _, (sentence,), _ = call(one_word.main, "trian")
    assert code == 2
    assert "unknown command 'trian'; choose from train, evaluate, " in sentence
    assert "did you mean 'train'" in sentence


def test_version_and_the_help_of_completion_are_answers(call):
    assert call(one_word.main, "--version")[:2] == (0, f"rnnjax {rnnjax.__version__}\n")
    code, out, *_ = call(one_word.main, "completion", "--help")
    assert (code, out.partition(" > ")[0]) == (0, "usage: rnnjax completion bash|zsh")


OWN = """
import dataclasses, jax, jax.numpy as jnp, rnnjax
SCALE = jnp.ones(1)  # starts JAX's devices

@dataclasses.dataclass(frozen=True)
class Mine(rnnjax.BasicRNN):
    pass
"""


def test_a_module_of_ones_own_may_use_jax_when_it_is_imported(tmp_path):
    (tmp_path / "own_module.py").write_text(OWN)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    # Refused for its directory, after the config has been read and the devices have been set.
    flags = ["--config", "hihello:basic", "--config.cell.kind=own_module:Mine", "--workdir", "full"]
    path = os.pathsep.join([str(PACKAGE.parent), str(tmp_path)])
    environment = {**os.environ, "PYTHONPATH": path}
    ended = subprocess.run(
        [sys.executable, "-m", "rnnjax", "train", *flags], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert ended.stderr == "rnnjax: full is not empty and holds no run; choose another --workdir\n"
    assert ended.returncode == 2


def test_reproducing_nothing_lists_what_there_is_and_asks_for_names(call):
    code, out, (sentence,), _ = call(one_word.main, "reproduce")
    assert code == 2
    assert "hihello_basic" in out
    assert "name the experiments to run" in sentence


def test_the_console_script_is_the_same_function():
    scripts = tomllib.loads((PACKAGE.parent / "pyproject.toml").read_text())["project"]["scripts"]
    assert scripts == {"rnnjax": "rnnjax.__main__:run"}
    names = {node.name for node in ast.parse(Path(one_word.__file__).read_text()).body if hasattr(node, "name")}
    assert "run" in names


@pytest.fixture(scope="module", params=["bash", pytest.param("zsh", marks=pytest.mark.thorough)])
def completed(request, tmp_path_factory):
    """What a shell makes of a line, with the cursor at its end."""
    shell = request.param
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    path = tmp_path_factory.mktemp("completion") / f"rnnjax.{shell}"
    path.write_text(script(shell, {name: one_word.main_of(name) for name in ("train", "evaluate")}))

    def words(line):
        """The words, whole ones where the shell does not part them at "=" and ":"."""
        asked = (
            f'source {path}; COMP_LINE="{line}"; COMP_POINT={len(line)}; _rnnjax; printf "%s\\n" "${{COMPREPLY[@]}}"'
        )
        told = subprocess.run([shell, "-c", asked], capture_output=True, text=True, check=True)
        assert told.stderr == ""
        start = line.rpartition(" ")[2] if shell == "zsh" else ""
        return [word.removeprefix(re.match(r"(.*[=:])?", start)[0]) for word in told.stdout.split()]

    return words


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("rnnjax tr", ["train"]),
        ("rnnjax evaluate --s", ["--split"]),
        ("rnnjax train --config hih", ["hihello", "hihello:basic", "hihello:lstm", "hihello:gru"]),
        ("rnnjax train --config=hihello:b", ["basic"]),  # bash has "hihello", ":" and "b" as three words
        ("rnnjax train --config hihello --w", ["--workdir"]),
    ],
)
def test_a_shell_completes_commands_options_and_configs(completed, line, expected):
    assert completed(line) == expected
