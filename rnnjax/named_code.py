"""Imports what a config names: modules, such as that of your own task, and what is in them, such as your own cell."""

from __future__ import annotations

import importlib
import traceback
from types import ModuleType
from typing import Any

from rnnjax.errors import ConfigError, did_you_mean, require


def named_object(name: str, meaning: str) -> Any:
    """Returns what a name of the form ``package.module:Name`` is of.

    Args:
      name: the name.
      meaning: the beginning of the message of an error, as of `named_module`.

    Raises:
      ConfigError: as `named_module`, or if the module has nothing of that name.
    """
    path, _, name = name.rpartition(":")
    module = named_module(path, meaning)
    require(hasattr(module, name), f"{meaning}: {path} has no {name!r}{did_you_mean(name, vars(module))}")
    return getattr(module, name)


def named_module(path: str, meaning: str) -> ModuleType:
    """Returns the module of a dotted path.

    Args:
      path: the absolute path; relative ones are refused.
      meaning: the beginning of the message of an error, such as ``unknown task 'mine.task'``.

    Raises:
      ConfigError: if there is no such module, or its import raises an error.
    """
    if not all(part.isidentifier() for part in path.split(".")):
        raise ConfigError(f"{meaning}: {path!r} is not the path of a module, such as my_package.my_module")
    try:
        return importlib.import_module(path)
    except ModuleNotFoundError as error:
        if error.name is not None and (path + ".").startswith(error.name + "."):
            raise ConfigError(f"{meaning}: {no_module(path)}") from error
        raise ConfigError(f"{meaning}: {path} cannot be imported ({_where(error)})") from error
    except (Exception, SystemExit) as error:  # the module can raise anything
        raise ConfigError(f"{meaning}: {path} cannot be imported ({_where(error)})") from error


def no_module(path: str) -> str:
    """Returns what is wrong where there is no module of a path, and what to do."""
    return f"there is no module {path} here or where Python looks for modules: run this in its folder, or correct it"


def _where(error: BaseException) -> str:
    """Returns the type of an error, the first line of its message, and where in the code it was raised."""
    place = traceback.extract_tb(error.__traceback__)[-1]
    message = next(iter(str(error).strip().splitlines()), "")
    return f"{type(error).__name__}{': ' if message else ''}{message} at line {place.lineno} of {place.filename}"
