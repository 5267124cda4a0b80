"""Several processes, on one machine or on many, that train as one."""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import importlib.util
import logging
import os
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple, NoReturn

import jax
import numpy as np

from rnnjax.config import TrainConfig
from rnnjax.errors import FAILED, CheckpointError, ClusterError, ConfigError, DataError, TrainingError, require
from rnnjax.machine import versions
from rnnjax.parallel.agreement import OfAll, run_of
from rnnjax.parallel.meeting import Place, meet
from rnnjax.whole_numbers import whole_number

_A_DAY = 24 * 3600


class Cluster(NamedTuple):
    """The processes of a run, and this one's place among them.

    Attributes:
      coordinator: ``HOST:PORT`` at which process 0 listens; None leaves it and the next two to JAX, which asks Slurm,
        Open MPI or Kubernetes.
      process_id: from 0.
      processes: how many there are.
      start_timeout: seconds in which all must have come.
      heartbeat_timeout: seconds without a sign of life after which a process counts as gone.
    """

    coordinator: str | None
    process_id: int | None
    processes: int | None
    start_timeout: int
    heartbeat_timeout: int


def read_cluster(
    arguments: Sequence[str], environment: Mapping[str, str] = os.environ
) -> tuple[Cluster | None, list[str]]:
    """Returns the processes of a run, None where there is one alone, and the arguments that are not about them.

    Flags go before what a cluster's environment says, and ``--processes 1`` before both: a process alone.

    Raises:
      ConfigError: if flags are wrong or some are missing, or the environment names no coordinator or wrong numbers.
    """
    options, rest = _parser().parse_known_args(list(arguments))
    given = {name: value for name, value in vars(options).items() if name in _PLACE and value is not None}
    cluster = Cluster(**vars(options))
    for name in ("start_timeout", "heartbeat_timeout"):
        require(getattr(cluster, name) >= 1, f"--{name} must be at least 1 second, got {getattr(cluster, name)}")
    if given == {"processes": 1}:
        return None, rest
    if given:
        _check(cluster, given)
        return cluster, rest
    if not _in_a_cluster(environment):
        return None, rest
    _check_numbers(environment)
    return cluster, rest


_PLACE = ("coordinator", "process_id", "processes")


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ConfigError(message.removeprefix("argument "))


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(add_help=False, allow_abbrev=False)
    parser.add_argument("--coordinator")
    parser.add_argument("--process_id", type=int)
    parser.add_argument("--processes", type=int)
    parser.add_argument("--start_timeout", type=int, default=300)
    parser.add_argument("--heartbeat_timeout", type=int, default=30)
    return parser


def _check(cluster: Cluster, given: Mapping[str, Any]) -> None:
    """Raises `ConfigError` unless the flags name a process and the others."""
    missing = [f"--{name}" for name in _PLACE if name not in given]
    require(not missing, f"--coordinator, --process_id and --processes belong together; add {', '.join(missing)}")
    host, _, port = str(cluster.coordinator).rpartition(":")
    fits = bool(host) and 0 < (whole_number(port) or 0) < 2**16
    require(fits, f"--coordinator must be HOST:PORT, got {cluster.coordinator!r}")
    count, process_id = given["processes"], given["process_id"]
    require(count >= 1, f"--processes must be at least 1, got {count}")
    require(0 <= process_id < count, f"--process_id must be from 0 to {count - 1}, got {process_id}")


_SLURM = ("SLURM_JOB_ID", "SLURM_STEP_NODELIST", "SLURM_NTASKS", "SLURM_PROCID", "SLURM_LOCALID")
_NUMBERS = (
    *("SLURM_JOB_ID", "SLURM_NTASKS", "SLURM_PROCID", "SLURM_LOCALID"),
    *("OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_LOCAL_RANK"),
    "JOB_COMPLETION_INDEX",
)
_BY_HAND = "give --coordinator HOST:PORT, --process_id and --processes, or --processes 1 to run alone"


def _in_a_cluster(environment: Mapping[str, str]) -> bool:
    """Says whether the environment is that of one of several processes whose others JAX can find.

    Raises:
      ConfigError: if it is one of several, but JAX cannot find the others.
    """
    if all(name in environment for name in _SLURM):
        return environment["SLURM_NTASKS"] != "1"
    if environment.get("OMPI_COMM_WORLD_SIZE", "1") != "1":
        known = "OMPI_MCA_orte_hnp_uri" in environment
        require(known, f"this version of Open MPI does not say where its first process is; {_BY_HAND}")
        return True
    if "KUBERNETES_SERVICE_HOST" in environment and "JOB_COMPLETION_INDEX" in environment:
        installed = importlib.util.find_spec("kubernetes") is not None
        require(installed, f'in an indexed Kubernetes job, install with: pip install "jax[k8s]"; or {_BY_HAND}')
        return True
    return False


def _check_numbers(environment: Mapping[str, str]) -> None:
    """Raises `ConfigError` if a variable that JAX reads a number from holds none."""
    for name in _NUMBERS:
        value = environment.get(name)
        fits = value is None or whole_number(value) is not None
        require(fits, f"the environment's {name} must be a whole number, got {value!r}; {_BY_HAND}")


@contextlib.contextmanager
def joined(cluster: Cluster | None, config: TrainConfig) -> Iterator[None]:
    """Within it this process is one of its run's; with None it is alone, and nothing is changed.

    It is left together: the first to come to the end waits for the others. Before JAX is first used.

    Raises:
      ConfigError: in all of them, if they do not have one config and the same versions.
      ClusterError: if the others cannot be reached, or one of them is gone.
    """
    if cluster is None:
        yield
        return
    _connect(cluster, config)
    try:
        yield
        _disconnect()
    except OfAll as together:
        _disconnect()
        raise together.error from None
    except SystemExit:  # all of them stop
        _disconnect()
        raise
    except Exception as error:
        if not lost(error):
            raise
        raise ClusterError(_GONE.format(_first_line(error))) from error


_SAID_ABOVE = "what JAX says is above"
_TO_MEET = "see that each is started and can reach process 0"
_GONE = "another process of this run is gone ({}); start all of them again to resume from the last checkpoint"


def _connect(cluster: Cluster, config: TrainConfig) -> None:
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    where = f" at {cluster.coordinator}" if cluster.coordinator else ""
    apart = f"the processes of this run did not all meet{where} within {cluster.start_timeout} s ({{}}); {_TO_MEET}"
    try:
        coordinator, processes, process_id, devices = _found(cluster)
        place = Place(coordinator, process_id, processes, cluster.start_timeout)
        meet(place, run_of(config, versions(), processes))
        _on_abort(apart.format(_SAID_ABOVE))
        jax.distributed.initialize(
            coordinator,
            processes,
            process_id,
            devices,
            initialization_timeout=cluster.start_timeout,
            heartbeat_timeout_seconds=cluster.heartbeat_timeout,
            shutdown_timeout_seconds=cluster.heartbeat_timeout,
        )
        count = jax.process_count()
    except ConfigError:
        raise
    except (RuntimeError, ValueError, OSError) as error:
        if isinstance(error, ClusterError):
            raise
        raise ClusterError(apart.format(_first_line(error))) from error
    _on_abort(_GONE.format(_SAID_ABOVE))
    # JAX takes SIGTERM for itself; the training loop stops all processes at the same step in its own way.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    if not is_writer():
        logging.getLogger().setLevel(logging.WARNING)
    logging.getLogger(__name__).info("%d processes with %d devices", count, jax.device_count())


def _found(cluster: Cluster) -> tuple[str, int, int, Any]:
    """Returns where process 0 listens, how many processes there are, which this is, and its devices where that is said.

    What the flags leave open is what JAX finds in the environment, by a function for which it has no public name.
    """
    from jax._src.clusters import ClusterEnv

    coordinator = cluster.coordinator or os.environ.get("JAX_COORDINATOR_ADDRESS")
    place = (coordinator, cluster.processes, cluster.process_id)
    found = ClusterEnv.auto_detect_unset_distributed_params(*place, None, None, cluster.start_timeout)
    require(None not in found[:3], f"the environment does not say where the other processes are; {_BY_HAND}")
    return found  # pyright: ignore[reportReturnType]


def _on_abort(sentence: str | None) -> None:
    """Has an abort end this process with a sentence and exit code 1; with None as it would otherwise.

    Where JAX's coordination service finds a process gone before a collective does, it aborts the others from a thread
    of its own: a handler of Python's would wait for the main thread, which waits for the process that is gone.
    """

    def end(number: int) -> None:
        os.write(2, f"rnnjax: {sentence}\n".encode())
        os._exit(FAILED)

    handler = None if sentence is None else ctypes.CFUNCTYPE(None, ctypes.c_int)(end)
    _handlers.append(handler)
    ctypes.CDLL(None).signal(signal.SIGABRT, handler)


_handlers: list[Any] = []  # they must stay where they are as long as they may be called


def _disconnect() -> None:
    wait_for_all("end")
    jax.distributed.shutdown()
    _on_abort(None)


def lost(error: BaseException | None) -> bool:
    """Says whether an error is that of a collective or a barrier for which another process of the run is missing."""
    ours = isinstance(error, (ClusterError, ConfigError, CheckpointError, DataError, TrainingError))
    return not ours and jax.process_count() > 1 and any(word in str(error).lower() for word in _SIGNS_OF_LOSS)


_SIGNS_OF_LOSS = ("gloo", "nccl", "peer", "coordination", "heartbeat", "barrier", "deadline", "unavailable")


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]


def is_writer() -> bool:
    """Says whether this process writes logs and files: the first of a run's does."""
    return jax.process_index() == 0


def wait_for_all(name: str) -> None:
    """Returns when all processes of the run are here; `name` must be new each time."""
    if jax.process_count() > 1:
        from orbax.checkpoint import multihost

        multihost.get_barrier_sync_fn()(key=f"rnnjax {name}", timeout_ms=1000 * _A_DAY)


def agreed(number: int | None) -> int | None:
    """Returns the highest number that any process of the run has, None if none has one; all must call it."""
    if jax.process_count() == 1:
        return number
    from jax.experimental import multihost_utils

    return int(np.max(multihost_utils.process_allgather(np.int32(number or 0)))) or None


def leave_at_once(code: int) -> None:
    """Ends this process, if it is one of several, without waiting for the others, which are told by its end."""
    if jax.distributed.is_initialized():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
