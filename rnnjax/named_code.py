"""Modules that a config names, such as that of a cell or a task of one's own."""

from __future__ import annotations

import importlib
import traceback
from types import ModuleType

from rnnjax.errors import ConfigError


def named_module(path: str, meaning: str) -> ModuleType:
    """Returns the module of a dotted path.

    Args:
      path: the path, from the top: a relative one is refused.
      meaning: what names it, for the sentence, such as ``unknown task 'mine.task'``.

    Raises:
      ConfigError: if there is no such module, or it raises anything when it is imported.
    """
    if not all(part.isidentifier() for part in path.split(".")):
        raise ConfigError(f"{meaning}: {path!r} is not the path of a module, such as my_package.my_module")
    try:
        return importlib.import_module(path)
    except ModuleNotFoundError as error:
        if error.name is not None and (path + ".").startswith(error.name + "."):
            raise ConfigError(f"{meaning}: there is no module {path}") from error
        raise ConfigError(f"{meaning}: {path} cannot be imported ({_where(error)})") from error
    except (Exception, SystemExit) as error:  # it is a program, and can raise anything
        raise ConfigError(f"{meaning}: {path} cannot be imported ({_where(error)})") from error


def _where(error: BaseException) -> str:
    """Returns the kind of an error, its first line, and the place in the code that raised it."""
    place = traceback.extract_tb(error.__traceback__)[-1]
    said = next(iter(str(error).strip().splitlines()), "")
    return f"{type(error).__name__}{': ' if said else ''}{said} at line {place.lineno} of {place.filename}"
