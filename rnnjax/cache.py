"""What is kept between runs, so that the next one starts sooner."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any


def cache_directory() -> Path:
    """Returns the directory of what is kept: RNNJAX_CACHE, or `rnnjax` in the user's caches."""
    caches = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(os.path.expanduser(os.environ.get("RNNJAX_CACHE") or Path(caches, "rnnjax")))


def keep_compilations() -> None:
    """Has JAX keep compiled programs on disk, unless the user said where, or that it should not.

    A program is found again by its own content, that of the compiler and of the machine, so that a run that resumes
    or a second seed starts without compiling.
    """
    import jax

    settings: Any = jax.config
    if settings.jax_compilation_cache_dir is not None:
        return
    directory = cache_directory() / "compiled"
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError:
        return  # compiled again every time
    jax.config.update("jax_compilation_cache_dir", str(directory))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)  # the many small ones make up seconds
