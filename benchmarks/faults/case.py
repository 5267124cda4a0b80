"""One case of a fault: commands in process groups of their own, watched and struck, and what is asked of their ends."""

from __future__ import annotations

import contextlib
import random
import re
import shlex
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from benchmarks.faults.compare import differences
from benchmarks.processes import end_group, start_group

_LONGEST = 300  # seconds of a command
_MOST_LINES = 20  # on stderr
# Apart from those of progress, and the calls that JAX's coordination service lists where it is the first to notice that
# a process is gone.
_UNCOUNTED = r"epoch \d+ | +@ +0x"


class Fault(Exception):
    """Something was lost, or falsified, or said in a way that is none."""


class Ended(NamedTuple):
    """How a command has ended: its exit code, minus the signal that ended it, and what it printed."""

    code: int
    out: str
    err: str


class Bench(NamedTuple):
    """What all cases of a campaign share.

    Attributes:
      folder: a temporary one.
      train: the training command, but for ``--workdir DIR``.
      evaluate: the evaluating command, but for its arguments.
      environment: of all commands.
      seconds: that training takes, undisturbed, with programs compiled before.
    """

    folder: Path
    train: tuple[str, ...]
    evaluate: tuple[str, ...]
    environment: dict[str, str]
    seconds: float

    @property
    def reference(self) -> Path:
        """The directory of a run that was not disturbed."""
        return self.folder / "reference"


class Started:
    """A command under way, in a process group of its own, which ends with the context."""

    def __init__(self, command: Sequence[str], environment: dict[str, str], said: Path):
        self._files = [said.with_name(f"{said.name}.{name}") for name in ("out", "err")]
        with self._files[0].open("wb") as out, self._files[1].open("wb") as err:
            self._process = start_group(command, environment, out, err)

    def __enter__(self) -> Started:
        return self

    def __exit__(self, *_: object) -> None:
        end_group(self._process)

    def send(self, number: int) -> None:
        """Sends a signal, if it has not ended."""
        self._process.send_signal(number)

    def go_on(self, seconds: float, until: Callable[[], bool] = lambda: False) -> None:
        """Returns when the seconds are over, the command has ended, or something holds."""
        end = time.monotonic() + seconds
        while self._process.poll() is None and time.monotonic() < end and not until():
            time.sleep(0.002)

    def end(self, seconds: float = _LONGEST) -> Ended:
        """Returns what came of it.

        Raises:
          Fault: if it does not end.
        """
        try:
            code = self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise Fault(f"it did not end within {seconds:.0f} s; stderr: {self._said(1)[-300:]!r}") from None
        return Ended(code, self._said(0), self._said(1))

    def _said(self, which: int) -> str:
        return self._files[which].read_text(errors="backslashreplace")


class Case:
    """One case: a folder, a source of random choices, and the commands that it has run.

    Args:
      bench: what it shares with others.
      kind, seed, number: what its choices come from.
    """

    def __init__(self, bench: Bench, kind: str, seed: int, number: int):
        self.bench = bench
        self.draw = random.Random(f"{seed} {kind} {number}")
        self.folder = bench.folder / f"{kind}-{number}"
        self.folder.mkdir(parents=True)
        self.run = self.folder / "run"
        self.log: list[str] = []
        self.answers: list[float] = []

    def start(self, command: Sequence[object], **environment: str) -> Started:
        """Starts a command, to be left with the context."""
        words = [str(word) for word in command]
        self.log.append(shlex.join([*(f"{name}={value}" for name, value in environment.items()), *words]))
        return Started(words, {**self.bench.environment, **environment}, self.folder / f"said-{len(self.log)}")

    def ended(self, command: Sequence[object], *codes: int) -> Ended:
        """Runs a command to its end, which must be a clean one, with one of some codes."""
        with self.start(command) as started:
            ended = started.end()
        require_clean(ended, *codes)
        return ended

    def undisturbed(self, name: str, make: Callable[[Path], object]) -> Path:
        """Returns the folder that cases of a kind compare with; the first of them makes what is in it."""
        path = self.bench.folder / name
        if not path.exists():
            path.mkdir()
            try:
                make(path)
            except Fault:
                shutil.rmtree(path)
                raise
        return path

    def struck(self, started: Started, number: signal.Signals, seconds: float = _LONGEST) -> Ended:
        """Sends a signal to a command, and returns how it ended, which must be within some seconds."""
        sent = time.monotonic()
        started.send(number)
        ended = started.end(seconds)
        if number != signal.SIGKILL:
            self.answers.append(time.monotonic() - sent)
        self.did(f"{number.name}, code {ended.code}")
        return ended

    def training(self) -> list[object]:
        """Returns the training command in this case's directory."""
        return [*self.bench.train, "--workdir", self.run]

    def did(self, what: str) -> None:
        """Notes what was done between commands."""
        self.log.append(f"# {what}")

    @contextlib.contextmanager
    def removed(self, keep: Path | None = None) -> Iterator[None]:
        """After it the folder is gone; where an error ended it, a copy is in `keep`, if that is given."""
        try:
            yield
        except Exception:
            if keep is not None:
                shutil.copytree(self.folder, keep / self.folder.name, dirs_exist_ok=True)
            raise
        finally:
            shutil.rmtree(self.folder, ignore_errors=True)

    def finish(self) -> None:
        """Trains to the end; raises `Fault` unless the result is that of the reference."""
        self.ended(self.training(), 0)
        require_same(self.run, self.bench.reference)


def require_same(run: Path, reference: Path, *, some_rows: bool = False) -> None:
    """Raises `Fault` unless a run's result is that of another."""
    require_none(differences(run, reference, some_rows=some_rows))


def require_none(wrong: Sequence[str]) -> None:
    """Raises `Fault` with all that is wrong."""
    require(not wrong, "; ".join(wrong))


def require(condition: bool, seen: str) -> None:
    """Raises `Fault` with what was seen unless the condition holds."""
    if not condition:
        raise Fault(seen)


def require_clean(ended: Ended, *codes: int) -> None:
    """Raises `Fault` if a command showed a traceback or many lines, or failed without one sentence of its own.

    So it does if the command ended with another code than `codes`, where there are any.
    """
    said, lines = ended.err.strip()[-400:], ended.err.splitlines()
    require("Traceback (most recent call last)" not in ended.err, f"a traceback (code {ended.code}): {said!r}")
    more = [line for line in lines if not re.match(_UNCOUNTED, line)]
    require(len(more) <= _MOST_LINES, f"{len(more)} lines on stderr, the last of them: {said!r}")
    if ended.code in (1, 2):
        sentences = sum(line.startswith("rnnjax: ") for line in lines)
        require(sentences == 1, f"code {ended.code} with {sentences} sentences for one; stderr: {said!r}")
    expected = " or ".join(map(str, codes))
    require(not codes or ended.code in codes, f"it ended with {ended.code} for {expected}; stderr: {said!r}")


def require_answer(ended: Ended, number: signal.Signals, *codes: int) -> None:
    """Raises `Fault` unless a command answered a signal cleanly, with one of some codes.

    Ctrl-C may meet Python itself while it starts, and has not come to a line of ours.
    """
    ours = re.search(r"rnnjax/\w+\.py", ended.err)
    if number == signal.SIGINT and not ours and "KeyboardInterrupt" in ended.err:
        return
    require_clean(ended, *codes)
