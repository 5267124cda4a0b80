"""What the commands share: exit codes, and errors as one sentence."""

from __future__ import annotations

import inspect
import logging
import os
import sys
from collections.abc import Callable, Sequence

from rnnjax.errors import CheckpointError, ClusterError, ConfigError, DataError, TrainingError, first_line

FAILED, USAGE, STOPPED = 1, 2, 75


def exit_code(main: Callable[[Sequence[str]], None], arguments: Sequence[str]) -> int:
    """Runs a command; returns its exit code, having printed what went wrong in one sentence."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    _keep_libraries_quiet()
    try:
        main(arguments)
    except ConfigError as error:
        return _say(error, USAGE)
    except (DataError, CheckpointError, ClusterError, TrainingError) as error:
        return _say(error, FAILED)
    except MemoryError as error:
        return _say(_MEMORY.format(first_line(error)), FAILED)
    except OSError as error:
        if error.errno is None:
            raise
        where = error.filename or "writing to the work directory"
        return _say(f"{where}: {os.strerror(error.errno)}; mend that, then run again to go on", FAILED)
    except RuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):  # what XLA says where a device's memory is full
            raise
        return _say(_MEMORY.format(first_line(error)), FAILED)
    except KeyboardInterrupt:
        return _say("stopped at once, without a checkpoint of the last steps; run again to go on", 130)
    return 0


_MEMORY = "the memory is exhausted ({}); choose a smaller batch_size, a smaller model or shorter sequences"


def _keep_libraries_quiet() -> None:
    """Has libraries leave to us what goes wrong: what they raise is told in one sentence, what they log is the same."""
    for name in ("absl", "asyncio", "orbax"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    logging.getLogger("jax").setLevel(logging.ERROR)
    sys.unraisablehook = _leave_out_reads_given_up


def _leave_out_reads_given_up(unraisable: sys.UnraisableHookArgs) -> None:
    # Where a checkpoint is damaged, orbax leaves other reads of it unfinished: they report to a loop that is closed.
    if str(unraisable.exc_value) != "Event loop is closed" and not inspect.iscoroutine(unraisable.object):
        sys.__unraisablehook__(unraisable)


def _say(message: object, code: int) -> int:
    print(f"rnnjax: {message}", file=sys.stderr, flush=True)
    distributed = sys.modules.get("rnnjax.parallel.distributed")
    if distributed is not None:
        distributed.leave_at_once(code)
    return code


def require_packages() -> None:
    """Raises `ConfigError` where the packages that training needs are not installed."""
    try:
        import absl  # noqa: F401
        import ml_collections  # noqa: F401
        import orbax.checkpoint  # noqa: F401
        import tensorboardX  # noqa: F401
        import tqdm  # noqa: F401
    except ImportError as error:
        raise ConfigError(f'the package {error.name} is missing; install with: pip install "rnnjax[train]"') from error
