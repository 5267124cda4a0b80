"""Several processes, on one machine or on many, that train one model together."""

from __future__ import annotations

import contextlib
import ctypes
import importlib.util
import logging
import os
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from rnnjax.config import TrainConfig
from rnnjax.errors import (
    FAILED,
    CheckpointError,
    ClusterError,
    ConfigError,
    DataError,
    TrainingError,
    first_line,
    require,
)
from rnnjax.flag_parser import FlagParser
from rnnjax.machine import versions
from rnnjax.parallel.agreement import CollectiveError, describe_run
from rnnjax.parallel.meeting import Place, give_up, meet
from rnnjax.whole_numbers import whole_number

_DAY = 24 * 3600  # seconds


class Cluster(NamedTuple):
    """The processes of a run, and which of them this one is.

    Attributes:
      coordinator: ``HOST:PORT`` at which process 0 listens. If it is None, JAX finds it and the next two out from
        Slurm, Open MPI or Kubernetes.
      process_id: number of this process, from 0.
      processes: number of processes.
      start_timeout: seconds within which all processes must have connected.
      heartbeat_timeout: seconds without a heartbeat after which a process counts as lost.
    """

    coordinator: str | None
    process_id: int | None
    processes: int | None
    start_timeout: int
    heartbeat_timeout: int


def read_cluster(
    arguments: Sequence[str], environment: Mapping[str, str] = os.environ
) -> tuple[Cluster | None, list[str]]:
    """Reads which processes a run has, from flags or else from the environment that a cluster sets.

    ``--processes 1`` makes a single process, whatever the environment says.

    Args:
      arguments: of the command.
      environment: the environment variables.

    Returns:
      the processes of the run, None if there is only this one; and the arguments that are not flags of this group.

    Raises:
      ConfigError: if flags are wrong or some are missing, or the environment names no coordinator or wrong numbers.
    """
    options, rest = _parser().parse_known_args(list(arguments))
    flags = {name: value for name, value in vars(options).items() if name in _PLACE_FLAGS and value is not None}
    # The flags are named like the fields.
    cluster = Cluster(**vars(options))
    for name in ("start_timeout", "heartbeat_timeout"):
        require(getattr(cluster, name) >= 1, f"--{name} must be at least 1 second, got {getattr(cluster, name)}")
    if flags == {"processes": 1}:
        return None, rest
    if flags:
        _check_flags(cluster, flags)
        return cluster, rest
    if not _in_a_cluster(environment):
        return None, rest
    _check_numbers(environment)
    return cluster, rest


_PLACE_FLAGS = ("coordinator", "process_id", "processes")


def _parser() -> FlagParser:
    parser = FlagParser()
    parser.add_argument("--coordinator")
    parser.add_argument("--process_id", type=int)
    parser.add_argument("--processes", type=int)
    parser.add_argument("--start_timeout", type=int, default=60)
    parser.add_argument("--heartbeat_timeout", type=int, default=30)
    return parser


def _check_flags(cluster: Cluster, flags: Mapping[str, Any]) -> None:
    """Raises `ConfigError` unless the flags say where process 0 is, how many there are, and which this one is."""
    missing = [f"--{name}" for name in _PLACE_FLAGS if name not in flags]
    require(not missing, f"--coordinator, --process_id and --processes belong together; add {', '.join(missing)}")
    host, _, port = str(cluster.coordinator).rpartition(":")
    fits = bool(host) and 0 < (whole_number(port) or 0) < 2**16
    require(fits, f"--coordinator must be HOST:PORT, got {cluster.coordinator!r}")
    count, process_id = flags["processes"], flags["process_id"]
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
    """Says whether the environment describes several processes that JAX can connect.

    Raises:
      ConfigError: if it describes several, but JAX cannot connect them.
    """
    if all(name in environment for name in _SLURM):
        return environment["SLURM_NTASKS"] != "1"
    if environment.get("OMPI_COMM_WORLD_SIZE", "1") != "1":
        address_known = "OMPI_MCA_orte_hnp_uri" in environment
        require(address_known, f"this version of Open MPI does not say where its first process is; {_BY_HAND}")
        return True
    if "KUBERNETES_SERVICE_HOST" in environment and "JOB_COMPLETION_INDEX" in environment:
        installed = importlib.util.find_spec("kubernetes") is not None
        require(installed, f'in an indexed Kubernetes job, install with: pip install "jax[k8s]"; or {_BY_HAND}')
        return True
    return False


def _check_numbers(environment: Mapping[str, str]) -> None:
    """Raises `ConfigError` if a variable from which JAX reads a number does not hold one."""
    for name in _NUMBERS:
        value = environment.get(name)
        fits = value is None or whole_number(value) is not None
        require(fits, f"the environment's {name} must be a whole number, got {value!r}; {_BY_HAND}")


@contextlib.contextmanager
def missed_by_others(cluster: Cluster | None) -> Iterator[None]:
    """Within it an error of this process, before it has joined the others, ends them too: they would wait for it.

    If `cluster` is None, it does nothing.
    """
    try:
        yield
    except Exception as error:
        if cluster is not None:
            with contextlib.suppress(Exception):  # nothing is worth more than the error that is raised
                coordinator, processes, process_id, _ = _detected(cluster)
                give_up(Place(coordinator, process_id, processes, cluster.start_timeout), first_line(error))
        raise


@contextlib.contextmanager
def joined(cluster: Cluster | None, config: TrainConfig) -> Iterator[None]:
    """Connects the processes of a run, and disconnects them at the end, where each waits for all others.

    It must be entered before JAX is first used. If `cluster` is None, it does nothing.

    Raises:
      ConfigError: in all processes, if their configs or versions differ.
      ClusterError: if the other processes cannot be reached, or one of them is lost.
    """
    if cluster is None:
        yield
        return
    _connect(cluster, config)
    try:
        yield
        _disconnect()
    except CollectiveError as collective:
        _disconnect()
        raise collective.error from None
    except SystemExit:  # a signal stops all processes after the same step
        _disconnect()
        raise
    except Exception as error:
        if not is_loss_of_process(error):
            raise
        raise ClusterError(_PROCESS_LOST.format(first_line(error))) from error


_USED_TOO_EARLY = (
    "a module that the config names makes arrays with JAX when it is imported, before the processes of this run have "
    "met; move that into a function"
)
_SEE_ABOVE = "see JAX's message above"
_TO_CONNECT = "see that each is started, has not ended with a message of its own, and can reach process 0"
_PROCESS_LOST = "another process of this run is gone ({}); start all of them again to resume from the last checkpoint"


def _connect(cluster: Cluster, config: TrainConfig) -> None:
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    where = f" at {cluster.coordinator}" if cluster.coordinator else ""
    timed_out = (
        f"the processes of this run did not all meet{where} within {cluster.start_timeout} s ({{}}); {_TO_CONNECT}"
    )
    try:
        coordinator, processes, process_id, devices = _detected(cluster)
        place = Place(coordinator, process_id, processes, cluster.start_timeout)
        meet(place, describe_run(config, versions(), processes))
        # Before JAX starts its service, which aborts this process if a foreign one registers.
        _end_on_abort(timed_out.format(_SEE_ABOVE))
        # After the processes have met, since JAX compares neither configs nor versions.
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
        if "must be called before" in str(error):  # JAX's message where a backend has started
            raise ConfigError(_USED_TOO_EARLY) from error
        raise ClusterError(timed_out.format(first_line(error))) from error
    _end_on_abort(_PROCESS_LOST.format(_SEE_ABOVE))
    # JAX installs a handler for SIGTERM; the training loop has its own, which stops all processes after one step.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    if not is_writer():
        logging.getLogger().setLevel(logging.WARNING)
    logging.getLogger(__name__).info("%d processes with %d devices", count, jax.device_count())


def _detected(cluster: Cluster) -> tuple[str, int, int, Any]:
    """Returns the coordinator, the number of processes, this one's number and, if that is set, its devices.

    JAX detects in the environment what no flag says; it has no public name for the function that does so.

    Raises:
      ConfigError: if something is neither said by a flag nor detected.
    """
    from jax._src.clusters import ClusterEnv

    coordinator = cluster.coordinator or os.environ.get("JAX_COORDINATOR_ADDRESS")
    place = (coordinator, cluster.processes, cluster.process_id)
    detected = ClusterEnv.auto_detect_unset_distributed_params(*place, None, None, cluster.start_timeout)
    require(None not in detected[:3], f"the environment does not say where the other processes are; {_BY_HAND}")
    return detected  # pyright: ignore[reportReturnType]


def _end_on_abort(sentence: str | None) -> None:
    """Makes SIGABRT end this process with a message and exit code 1; None restores the default.

    If JAX's coordination service notices that a process is lost before a collective fails, it aborts the other
    processes from a thread of its own. A Python signal handler would not run then: it needs the main thread, which
    waits for the lost process. So the handler is a C function.
    """

    def end(signal_number: int) -> None:
        os.write(2, f"rnnjax: {sentence}\n".encode())
        os._exit(FAILED)

    handler = None if sentence is None else ctypes.CFUNCTYPE(None, ctypes.c_int)(end)
    _abort_handlers.append(handler)
    ctypes.CDLL(None).signal(signal.SIGABRT, handler)


_abort_handlers: list[Any] = []  # keeps them alive: C code holds nothing but their addresses


def _disconnect() -> None:
    wait_for_all("end")
    jax.distributed.shutdown()
    _end_on_abort(None)


def is_loss_of_process(error: BaseException | None) -> bool:
    """Says whether a collective or a barrier has failed because another process of the run is lost."""
    own_errors = (ClusterError, ConfigError, CheckpointError, DataError, TrainingError)
    if isinstance(error, own_errors) or jax.process_count() == 1:
        return False
    message = str(error).lower()
    return any(word in message for word in _WORDS_OF_LOSS)


# In messages of XLA, Gloo, NCCL and orbax, which raise errors of general types.
_WORDS_OF_LOSS = ("gloo", "nccl", "peer", "coordination", "heartbeat", "barrier", "deadline", "unavailable")


def is_writer() -> bool:
    """Says whether this process writes logs and files: process 0 does."""
    return jax.process_index() == 0


def wait_for_all(name: str) -> None:
    """Waits until all processes of the run have called this; `name` must differ from call to call."""
    if jax.process_count() > 1:
        from orbax.checkpoint import multihost

        multihost.get_barrier_sync_fn()(key=f"rnnjax {name}", timeout_ms=1000 * _DAY)


def maximum_over_processes(number: int | None) -> int | None:
    """Returns the largest number of any process of the run, None if none has one above 0; all must call this."""
    if jax.process_count() == 1:
        return number
    from jax.experimental import multihost_utils

    return int(np.max(multihost_utils.process_allgather(np.int32(number or 0)))) or None


def leave_at_once(code: int) -> None:
    """Ends this process at once if it is one of several; the others notice that it is lost."""
    if jax.distributed.is_initialized():
        # `os._exit` writes nothing that is still buffered.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
