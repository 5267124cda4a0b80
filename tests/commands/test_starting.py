"""How commands start, of which the imports take seconds, and how they end."""

import os
import signal
import subprocess
import sys

import pytest
from fixtures.thorough import once_more

from rnnjax.starting import is_command

# In place of JAX, which rnnjax imports first: Ctrl-C in the middle of it.
INTERRUPTED = """
import os, signal
os.kill(os.getpid(), signal.SIGINT)
import time
time.sleep(1)
"""


@pytest.fixture
def start(tmp_path):
    """Returns how Python ends, and what it says, where Ctrl-C comes while JAX is imported."""
    (tmp_path / "jax").mkdir()
    (tmp_path / "jax" / "__init__.py").write_text(INTERRUPTED)
    path = os.pathsep.join([str(tmp_path), os.getcwd()])

    def run(*arguments):
        environment = {**os.environ, "PYTHONPATH": path}
        return subprocess.run([sys.executable, *arguments], env=environment, capture_output=True, text=True, timeout=60)

    return run


@pytest.mark.parametrize("command", ["train", "evaluate", "generate", "sweep", "tune"])
def test_ctrl_c_among_the_imports_ends_a_command_without_a_traceback(command, start):
    ended = start("-m", f"rnnjax.{command}", "runs/none")
    assert (ended.returncode, ended.stderr) == (-signal.SIGINT, "")


def test_in_a_program_of_the_users_own_ctrl_c_stays_an_exception(start):
    told = "try:\n import rnnjax\nexcept KeyboardInterrupt:\n print('taken')"
    assert start("-c", told).stdout == "taken\n"


@pytest.mark.parametrize(
    ("argv", "original", "expected"),
    [
        (["-m", "DIR"], ["python", "-m", "rnnjax.train", "DIR"], True),
        (["-m"], ["python", "-W", "error", "-m", "rnnjax.sweep"], True),
        (["-m"], ["python", "-m", "mine.train"], False),
        (["script.py", "-m", "rnnjax.train"], ["python", "script.py", "-m", "rnnjax.train"], False),
        ([""], ["python"], False),
        (["-m"], ["program", "-m"], False),
    ],
)
def test_only_commands_of_rnnjax_are_taken_for_them(argv, original, expected):
    assert is_command(argv, original) == expected


@pytest.mark.parametrize("code", [1, once_more(2)])
def test_a_command_that_failed_waits_for_no_thread_of_a_library(code):
    program = f"""
import sys, threading
from rnnjax.commands import end
threading.Thread(target=threading.Event().wait).start()
print("said")
print("what is wrong", file=sys.stderr)
end({code})
"""
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert (ended.returncode, ended.stdout, ended.stderr) == (code, "said\n", "what is wrong\n")


def test_a_command_that_ends_lets_threads_and_libraries_finish_and_frees_nothing(tmp_path):
    program = """
import atexit, threading, time
from rnnjax.commands import end

class Kept:
    def __del__(self):
        print("freed")

atexit.register(print, "finished")
threading.Thread(target=lambda: (time.sleep(0.1), print("thread"))).start()
kept = Kept()
end(0)
"""
    script = tmp_path / "rnnjax"  # as the command is named where it is installed
    script.write_text(program)
    ended = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=60, check=False)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "thread\nfinished\n", "")
