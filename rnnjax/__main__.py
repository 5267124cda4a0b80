"""All commands by one word: ``python -m rnnjax COMMAND ...``, or ``rnnjax COMMAND ...`` where it is installed."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from rnnjax.commands import HELP, end, exit_code
from rnnjax.completion import SHELLS, Main, script
from rnnjax.errors import ConfigError, did_you_mean
from rnnjax.version import __version__

# Each is the module rnnjax.COMMAND, in the order in which a user meets them.
COMMANDS = {
    "train": "trains a model by a config, or goes on where a run was stopped",
    "evaluate": "evaluates a trained run",
    "generate": "continues text or a series, translates lines, or labels sequences, with a trained run",
    "export": "writes a trained run for other programs: StableHLO, safetensors, PyTorch, Keras, ONNX",
    "sweep": "trains many small runs at once: seeds and lists of values",
    "reproduce": "runs the configs that have published figures, and writes them beside ours",
    "tune": "measures which way to unroll a cell is the fastest on this machine",
}
_COMPLETION = "completion"


def main(arguments: Sequence[str]) -> None:
    """Runs the command that the first argument names, with the others; without arguments, lists the commands.

    Raises:
      ConfigError: for an unknown command; otherwise as the command.
    """
    if not arguments or arguments[0] in HELP:
        print(listing())
        return
    if arguments[0] == "--version":
        print(f"rnnjax {__version__}")
        return
    name, *rest = arguments
    if name == _COMPLETION:
        print(_script(rest))
        return
    if name not in COMMANDS:
        known = f"choose from {', '.join([*COMMANDS, _COMPLETION])}{did_you_mean(name, COMMANDS)}"
        raise ConfigError(f"unknown command {name!r}; {known}")
    main_of(name)(rest)


def main_of(command: str) -> Main:
    """Returns the function that runs a command."""
    return importlib.import_module(f"rnnjax.{command}").main


def listing() -> str:
    """Returns a line for each command."""
    about = {**COMMANDS, _COMPLETION: f"prints a script for completion in a shell: {' or '.join(SHELLS)}"}
    lines = [f"  {name:<11} {what}" for name, what in about.items()]
    more = "rnnjax COMMAND --help says more of one; --version says which rnnjax this is."
    return "\n".join(["usage: rnnjax COMMAND ...", "", *lines, "", more])


def _script(arguments: Sequence[str]) -> str:
    usage = f"usage: rnnjax {_COMPLETION} {'|'.join(SHELLS)}"
    if HELP & set(arguments):
        return f"{usage} > FILE; then source FILE in the shell's profile"
    if len(arguments) != 1 or arguments[0] not in SHELLS:
        raise ConfigError(usage)
    return script(arguments[0], {name: main_of(name) for name in COMMANDS})


def run() -> NoReturn:
    """Runs the command of this process, and ends it with the command's exit code."""
    if not sys.flags.safe_path:
        sys.path.append(os.getcwd())  # for modules of one's own; a script does not have it, unlike python -m
    end(exit_code(main, sys.argv[1:]))


if __name__ == "__main__":
    run()
