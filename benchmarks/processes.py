"""Commands as processes: how long one takes from start to end, and the machine as one sees it."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.command import FiguresParser, at_least_one
from rnnjax.errors import ConfigError, TrainingError

ROOT = Path(__file__).parents[1]
_PROBE = "import json; from benchmarks import report; print(json.dumps(report.machine()))"
_PROBE_SECONDS = 120


def add_config_options(parser: FiguresParser) -> None:
    """Adds what a training command's config takes from a benchmark's options."""
    parser.add_argument("--epochs", type=at_least_one, help="the config's own where it is not given")
    parser.add_argument("--data", metavar="PATH", help="folder of the data; else RNNJAX_DATA")


def config_arguments(options: argparse.Namespace) -> list[str]:
    """Returns those options as a training command's arguments."""
    given = {"epochs": options.epochs, "data.path": options.data}
    return [f"--config.{name}={value}" for name, value in given.items() if value is not None]


def timed(command: Sequence[str], environment: Mapping[str, str] | None = None) -> tuple[float, str]:
    """Returns the seconds from start to end of a module's process, and what it printed.

    Raises:
      TrainingError: if it does not end well.
    """
    started = time.perf_counter()
    ended = subprocess.run(
        [sys.executable, "-m", *command],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "", **(environment or {})},  # else Python may compile jax again
    )
    seconds = time.perf_counter() - started
    if ended.returncode:
        raise TrainingError(f"{command[0]} ended with {ended.returncode}: {ended.stderr.strip()[-500:]}")
    return seconds, ended.stdout


def start_group(command: Sequence[str], environment: Mapping[str, str], out: Any, err: Any) -> subprocess.Popen[bytes]:
    """Starts a command in the repository as the first of a group of processes.

    Args:
      command: the command.
      environment: its environment.
      out, err: where it prints, as `subprocess` takes it.
    """
    nothing = subprocess.DEVNULL
    return subprocess.Popen(
        command, cwd=ROOT, env=environment, stdin=nothing, stdout=out, stderr=err, start_new_session=True
    )


def end_group(process: subprocess.Popen[bytes]) -> None:
    """Ends a process and the group that `start_group` made it the first of."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def machine() -> dict[str, Any]:
    """Returns `report.machine()` of a process that has ended: so the device, and its memory, are left to others.

    Raises:
      ConfigError: if JAX does not start.
    """
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    options: Any = {"capture_output": True, "text": True, "timeout": _PROBE_SECONDS, "check": True}
    try:
        ended = subprocess.run([sys.executable, "-c", _PROBE], cwd=ROOT, env=environment, **options)
        return json.loads(ended.stdout.splitlines()[-1])
    except (subprocess.SubprocessError, ValueError, IndexError) as error:
        said = str(getattr(error, "stderr", None) or error).strip().splitlines()[-1]
        raise ConfigError(f"JAX does not start here ({said}); repair that first") from error
