"""Scripts that complete ``rnnjax COMMAND ...`` in a shell: commands, their options, configs and variants."""

from __future__ import annotations

import contextlib
import io
import re
from collections.abc import Callable, Iterable, Mapping, Sequence

from rnnjax.config_file import read_config_file, shipped_configs

Main = Callable[[Sequence[str]], None]

SHELLS = ("bash", "zsh")

_ZSH = """\
(( $+functions[compdef] )) || { autoload -U compinit && compinit }
autoload -U +X bashcompinit && bashcompinit
"""
_SCRIPT = """\
# Completion of rnnjax; written by: rnnjax completion {shell}
_rnnjax() {{
  local line="${{COMP_LINE:0:$COMP_POINT}}" words="" before="" held=""
  local current="${{line##*[ =]}}" word="${{line##* }}"
  case "${{line%"$current"}}" in
    *"--config "|*"--config=") words="{configs}" ;;
{cases}
    *) words="{commands}" ;;
  esac
  # bash has parted the word at "=" and ":", and holds what stands before; elsewhere the whole word is replaced.
  if [[ "${{COMP_WORDBREAKS-}}" != *=* ]]; then before="${{word%"$current"}}"; fi
  if [[ "$current" == *:* && "${{COMP_WORDBREAKS-}}" == *:* ]]; then held="${{current%:*}}:"; fi
  COMPREPLY=($(printf "%s" "$words" | tr " " "\\n" | awk -v typed="$current" -v before="$before" -v held="$held" '
    index($0, typed) == 1 {{ print before substr($0, length(held) + 1) }}'))
}}
complete -o default -F _rnnjax rnnjax
"""


def script(shell: str, commands: Mapping[str, Main]) -> str:
    """Returns the completion script of a shell, for the options and configs that there are now.

    Args:
      shell: one of `SHELLS`.
      commands: by name, what runs each and answers ``--help``.
    """
    options = {name: words_of_help(main) for name, main in commands.items()}
    text = _SCRIPT.format(
        shell=shell, configs=" ".join(configs()), cases=_cases(options), commands=" ".join([*options, "completion"])
    )
    return (_ZSH if shell == "zsh" else "") + text


def configs() -> list[str]:
    """Returns the names of the library's configs, alone and with each of their variants."""
    names = []
    for name in shipped_configs():
        names += [name, *(f"{name}:{variant}" for variant in read_config_file(name).variants())]
    return names


def words_of_help(main: Main) -> list[str]:
    """Returns the options that a command names in its ``--help``."""
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.suppress(SystemExit):
        main(["--help"])
    return sorted(set(re.findall(r"(?<![\w-])--[a-z][\w-]*(?![\w.-])", said.getvalue())))


def _cases(options: Mapping[str, Iterable[str]]) -> str:
    return "\n".join(f'    "rnnjax {command} "*) words="{" ".join(words)}" ;;' for command, words in options.items())
