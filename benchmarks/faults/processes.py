"""Two processes of one run on the loopback address, of which one is lost."""

from __future__ import annotations

import contextlib
import signal
import socket
from pathlib import Path

from benchmarks.faults.case import Case, Started, require_answer, require_clean, require_same

_TIMEOUTS = ("--start_timeout", "40", "--heartbeat_timeout", "10")
_BOUND = 100  # seconds in which the process that is left must end
_ALONE = {"JAX_NUM_CPU_DEVICES": "1"}


def lose_one(case: Case) -> None:
    """Kills, or stops by SIGTERM, one of two processes at any moment; both end, go on, and equal the reference."""
    whole = case.undisturbed("reference-of-two", lambda folder: train_both(case, folder / "run"))
    struck, number = case.draw.randint(0, 1), case.draw.choice([signal.SIGKILL, signal.SIGKILL, signal.SIGTERM])
    moment = case.draw.uniform(0, 2 * case.bench.seconds)
    with contextlib.ExitStack() as stack:
        pair = start_pair(case, case.run, stack)
        pair[struck].go_on(moment)
        pair[struck].send(number)
        ended = [process.end(_BOUND) for process in pair]
    case.did(f"{number.name} to process {struck} after {moment:.2f} s, codes {[each.code for each in ended]}")
    # The other one ended by itself: with a sentence, stopped as well, or complete.
    require_answer(ended[1 - struck], number, 0, 1, 75)
    if number == signal.SIGTERM:
        require_answer(ended[struck], number, 0, 75, -signal.SIGTERM)
    train_both(case, case.run)
    require_same(case.run, whole / "run")


def train_both(case: Case, directory: Path) -> None:
    """Trains by two processes to the end, which must be a clean one of both."""
    with contextlib.ExitStack() as stack:
        ended = [process.end() for process in start_pair(case, directory, stack)]
    for each in ended:
        require_clean(each, 0)


def start_pair(case: Case, directory: Path, stack: contextlib.ExitStack) -> list[Started]:
    """Starts both processes, which end with the stack."""
    train = [*case.bench.train, "--config.parallel.batch=all", "--workdir", directory, *_TIMEOUTS]
    train += ["--coordinator", f"127.0.0.1:{free_port()}", "--processes", 2, "--process_id"]
    return [stack.enter_context(case.start([*train, number], **_ALONE)) for number in range(2)]


def free_port() -> int:
    """Returns a port at which nobody listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]
