import contextlib
import ctypes
import dataclasses
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
SMALL = ["--config", "configs/mnist.py:embedded", "--config.epochs=1", "--config.cell.hidden_size=8"]


@dataclasses.dataclass
class Ended:
    """A command that has ended."""

    code: int
    out: str
    err: str


@pytest.fixture(scope="session")
def run_command():
    """Runs ``python -m MODULE ARGUMENTS`` in the repository, as a person does."""

    def run(module: str, *arguments: object, **environment: str) -> Ended:
        command = [sys.executable, "-m", module, *map(str, arguments)]
        settings = {**os.environ, "JAX_DISABLE_MOST_OPTIMIZATIONS": "1", **environment}
        process = subprocess.run(
            command, cwd=REPOSITORY, env=settings, capture_output=True, text=True, timeout=120, check=False
        )
        return Ended(process.returncode, process.stdout, process.stderr)

    return run


@pytest.fixture(scope="session")
def trained(run_command, tmp_path_factory):
    """A small run on the embedded digits, made by the command, and what the command said.

    The first process of a test run that asks for it makes it for all.
    """
    base = tmp_path_factory.getbasetemp()
    shared = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "trained"
    said = shared / "said.json"
    try:
        shared.mkdir()
    except FileExistsError:
        end = time.monotonic() + 120
        while not said.exists() and time.monotonic() < end:
            time.sleep(0.1)
    else:
        ended = run_command("rnnjax.train", *SMALL, "--workdir", shared / "run")
        (shared / "part").write_text(json.dumps(vars(ended)))
        (shared / "part").rename(said)
    return shared / "run", Ended(**json.loads(said.read_text()))


@pytest.fixture
def call(monkeypatch, capfd):
    """Runs a command in this process; returns its exit code, what it printed and its sentence on stderr."""
    from rnnjax.commands import exit_code

    def run(main, *arguments: object):
        monkeypatch.chdir(REPOSITORY)
        monkeypatch.setattr(sys, "unraisablehook", sys.unraisablehook)  # the command sets its own
        capfd.readouterr()
        code = exit_code(main, [str(argument) for argument in arguments])
        out, err = capfd.readouterr()
        sentences = [line for line in err.splitlines() if line.startswith("rnnjax: ")]
        return code, out, sentences, err

    return run


@pytest.fixture
def read_only():
    """Returns a context within which nothing can be written below a directory, not even by root."""

    @contextlib.contextmanager
    def below(path):
        directories = [path, *(each for each in path.rglob("*") if each.is_dir())]
        for each in directories:
            each.chmod(0o555)
        try:
            with _bound_by_permissions():
                with pytest.raises(PermissionError):
                    (path / "new").touch()
                yield
        finally:
            for each in directories:
                each.chmod(0o755)

    return below


@contextlib.contextmanager
def _bound_by_permissions():
    """Takes from this thread, for a while, root's right to write where permissions forbid it (CAP_DAC_OVERRIDE)."""
    libc, header = ctypes.CDLL(None, use_errno=True), (ctypes.c_uint32 * 2)(0x20080522, 0)
    before, bound = (ctypes.c_uint32 * 6)(), (ctypes.c_uint32 * 6)()
    for sets in (before, bound):
        assert libc.capget(header, sets) == 0
    bound[0] &= ~0b10
    assert libc.capset(header, bound) == 0
    try:
        yield
    finally:
        assert libc.capset(header, before) == 0
