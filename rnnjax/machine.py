"""What a run is computed with: the device and the versions of packages."""

from __future__ import annotations

import importlib.metadata
import platform
import subprocess
from pathlib import Path
from typing import Any

import jax

from rnnjax.version import __version__

_PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "tensorflow-datasets", "numpy")


def versions() -> dict[str, str]:
    """Returns the versions of Python, of this library, and of the packages that it computes with."""
    installed = {"python": platform.python_version(), "rnnjax": __version__}
    for package in _PACKAGES:
        try:
            installed[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return installed


def device_name() -> str:
    """Returns the kind of the first device, for a CPU its model name."""
    kind = jax.devices()[0].device_kind
    if kind != "cpu":
        return kind
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def git_commit() -> str | None:
    """Returns the commit of the checkout that the library is in, marked if files outside `docs` were changed."""
    git = ["git", "-C", str(Path(__file__).parent)]
    options: Any = {"capture_output": True, "text": True, "timeout": 10}
    try:
        commit = subprocess.run([*git, "rev-parse", "--short=12", "HEAD"], check=True, **options).stdout.strip()
        changed = subprocess.run([*git, "diff", "--quiet", "HEAD", "--", ":/", ":(top,exclude)docs"], **options)
    except (OSError, subprocess.SubprocessError):
        return None
    return f"{commit}-dirty" if changed.returncode else commit
