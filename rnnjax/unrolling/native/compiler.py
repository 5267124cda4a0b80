"""Compiles a kernel by the machine's C++ compiler and keeps it in the user's cache."""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from pathlib import Path

import jax.ffi

from rnnjax.cache import cache_directory
from rnnjax.errors import first_line

_COMPILERS = ("g++", "clang++", "c++")
_FLAGS = (
    "-std=c++17",
    "-O3",
    "-march=native",
    "-ffp-contract=fast",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-fPIC",
    "-fvisibility=hidden",  # otherwise the dynamic linker takes one kernel's constants for those of all
    "-shared",
    "-w",
)
_MOST_SECONDS = 120


class CompileError(RuntimeError):
    """A kernel that could not be compiled or loaded."""


@functools.cache
def compiler() -> str | None:
    """Returns the path of the machine's C++ compiler; None if there is none."""
    return next((path for name in _COMPILERS if (path := shutil.which(name))), None)


def built(source: str) -> Path:
    """Returns the path of a source's compiled kernel, which is compiled if it is not in the user's cache.

    Raises:
      CompileError: if it could not be.
    """
    path = cache_directory() / "native" / f"{_digest(source)}.so"
    if not path.exists():
        _compile(source, path)
    return path


def registered(path: Path) -> tuple[str, str]:
    """Loads a compiled kernel; returns the names under which XLA knows its calls forward and backward.

    Raises:
      CompileError: if it cannot be loaded.
    """
    return _registered(str(path))


@functools.cache
def _registered(path: str) -> tuple[str, str]:
    try:
        library = ctypes.CDLL(path)
        functions = library.Forward, library.Backward
    except (OSError, AttributeError) as error:
        raise CompileError(first_line(error)) from error
    stem = f"rnnjax_native_{Path(path).stem}"
    names = f"{stem}_forward", f"{stem}_backward"
    for name, function in zip(names, functions):
        jax.ffi.register_ffi_target(name, jax.ffi.pycapsule(function), platform="cpu")
    return names


def _digest(source: str) -> str:
    """Returns a digest of all that a compiled kernel depends on: sources, flags, compiler, processor, XLA's headers."""
    here = Path(__file__).parent
    parts = [source, *(path.read_text() for path in sorted(here.glob("*.h"))), *_FLAGS, _machine(), str(_version())]
    headers = Path(jax.ffi.include_dir(), "xla", "ffi", "api")
    parts += [headers.joinpath(name).read_text() for name in ("api.h", "c_api.h", "ffi.h")]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:24]


@functools.cache
def _machine() -> str:
    """Returns what the processor can do, as `-march=native` reads it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return f"{platform.machine()} {platform.processor()}"
    return "\n".join(sorted({line for line in lines if line.startswith(("model name", "flags", "Features"))}))


@functools.cache
def _version() -> str | None:
    path = compiler()
    if path is None:
        return None
    return subprocess.run([path, "--version"], capture_output=True, text=True, timeout=_MOST_SECONDS).stdout


def _compile(source: str, path: Path) -> None:
    """Compiles a source to a path, where it appears when it is complete."""
    found = compiler()
    if found is None:
        raise CompileError("there is no C++ compiler")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            cell, result = Path(folder, "cell.cc"), Path(folder, "cell.so")
            cell.write_text(source)
            folders = (f"-I{Path(__file__).parent}", f"-I{jax.ffi.include_dir()}")
            command = [found, *_FLAGS, *folders, str(cell), "-o", str(result)]
            run = subprocess.run(command, capture_output=True, text=True, timeout=_MOST_SECONDS)
            if run.returncode:
                raise CompileError(_first_error(run.stderr))
            os.replace(result, path)
    except subprocess.TimeoutExpired as error:
        raise CompileError(f"{found} took longer than {_MOST_SECONDS} s") from error
    except OSError as error:
        raise CompileError(first_line(error)) from error


def _first_error(text: str) -> str:
    lines = text.splitlines()
    return next((line for line in lines if "error" in line), lines[0] if lines else "no message")[:200]
