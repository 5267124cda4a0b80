"""Errors whose messages say what is wrong and what to do, and the exit codes of commands."""

import difflib
from collections.abc import Iterable

# Exit codes besides 0; STOPPED means by a signal, after a checkpoint.
FAILED, USAGE, STOPPED = 1, 2, 75


class ConfigError(ValueError):
    """A config, flag or work directory that cannot be used as asked (exit code 2)."""


class DataError(RuntimeError):
    """Data that is missing, incomplete or invalid (exit code 1)."""


class CheckpointError(RuntimeError):
    """Checkpoints that cannot be written or read (exit code 1)."""


class DirectoryInUse(RuntimeError):
    """A directory in which another process writes (exit code 1)."""


class ClusterError(RuntimeError):
    """Other processes of the run that cannot be reached or are lost (exit code 1)."""


class TrainingError(RuntimeError):
    """Training that cannot continue, for example because the loss is not finite (exit code 1)."""


def first_line(error: BaseException) -> str:
    """Returns the first line of an error's message, at most 200 characters of it."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]


def require(condition: bool, message: str) -> None:
    """Raises `ConfigError` with `message` unless the condition holds."""
    if not condition:
        raise ConfigError(message)


def did_you_mean(name: str, names: Iterable[str]) -> str:
    """Returns the end of a message about an unknown name: the most similar known name, or an empty string."""
    known = {known_name.lower(): known_name for known_name in names}
    nearest = difflib.get_close_matches(name[:100].lower(), known, n=1)
    return f"; did you mean {known[nearest[0]]!r}?" if nearest else ""
