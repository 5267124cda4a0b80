"""Two processes of one run on the loopback address, of which one is lost."""

from __future__ import annotations

import contextlib
import signal
import socket
from pathlib import Path

from benchmarks.faults.case import Case, Ended, Started, require, require_clean, require_code, require_same

_TIMEOUTS = ("--start_timeout", "40", "--heartbeat_timeout", "10")
_BOUND = 100  # seconds in which the process that is left must end
_ALONE = {"JAX_NUM_CPU_DEVICES": "1"}


def lose_one(case: Case) -> None:
    """Kills, or stops by SIGTERM, one of two processes at any moment; both end, go on, and equal the reference."""
    reference = reference_of_two(case)
    struck, number = case.draw.randint(0, 1), case.draw.choice([signal.SIGKILL, signal.SIGKILL, signal.SIGTERM])
    moment = case.draw.uniform(0, 2 * case.bench.seconds)
    with contextlib.ExitStack() as stack:
        pair = start_pair(case, case.run, stack)
        pair[struck].await_or_end(lambda: False, moment)
        pair[struck].send(number)
        ended = [process.end(_BOUND) for process in pair]
    case.did(f"{number.name} to process {struck} after {moment:.2f} s, codes {[each.code for each in ended]}")
    check_left(ended[1 - struck])
    check_struck(ended[struck], number)
    codes = train_both(case, case.run)
    require(codes == [0, 0], f"started again both ended with {codes}")
    require_same(case.run, reference)


def check_left(left: Ended) -> None:
    """Raises `Fault` unless the other process ended by itself: with a sentence, stopped as well, or complete."""
    require_clean(left)
    require_code(left, 0, 1, 75)


def check_struck(struck: Ended, number: signal.Signals) -> None:
    """Raises `Fault` unless a process that was told to stop did so, or was complete."""
    if number == signal.SIGTERM:
        require_clean(struck)
        require_code(struck, 0, 75, -signal.SIGTERM)


def reference_of_two(case: Case) -> Path:
    """Returns the directory of a run of two processes that was not disturbed; the first case makes it for all."""
    path = case.bench.folder / "reference-of-two"
    if not (path / "summary.json").exists():
        codes = train_both(case, path)
        require(codes == [0, 0], f"two processes that nothing disturbed ended with {codes}")
    return path


def train_both(case: Case, directory: Path) -> list[int]:
    """Returns the exit codes of two processes that train to the end."""
    with contextlib.ExitStack() as stack:
        ended = [process.end() for process in start_pair(case, directory, stack)]
    for each in ended:
        require_clean(each)
    return [each.code for each in ended]


def start_pair(case: Case, directory: Path, stack: contextlib.ExitStack) -> list[Started]:
    """Starts both processes, which end with the stack."""
    train, port = (
        [*case.bench.train, "--config.parallel.batch=all", "--workdir", str(directory), *_TIMEOUTS],
        free_port(),
    )
    places = [["--coordinator", f"127.0.0.1:{port}", "--processes", "2", "--process_id", str(i)] for i in range(2)]
    return [stack.enter_context(case.start([*train, *place], **_ALONE)) for place in places]


def free_port() -> int:
    """Returns a port at which nobody listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]
