"""Every benchmark is a command of one shape, and no question imports another's files."""

import ast
import importlib
import re
from pathlib import Path

import pytest

from benchmarks.accelerator.steps import plan

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "benchmarks"
# Processes that a benchmark starts, and what runs where this project is not installed.
OTHERS = {"source_graph", "revisions.programs", "whole_job.torch_job"}
# The engine is called in one file; the other reads what a run leaves.
OF_TRAINING = {"engine", "faults.compare"}


def name_of(path):
    return ".".join(path.relative_to(FOLDER).with_suffix("").parts)


SOURCES = {name_of(path): path.read_text() for path in sorted(FOLDER.rglob("*.py"))}
RUN = {name for name, text in SOURCES.items() if '__name__ == "__main__"' in text}
COMMANDS = sorted(name.removesuffix(".__main__") for name in RUN - OTHERS)


def module_of(command):
    return importlib.import_module(f"benchmarks.{command}" + (".__main__" if (FOLDER / command).is_dir() else ""))


@pytest.mark.parametrize("command", COMMANDS)
def test_a_benchmark_has_the_words_that_all_have(command, capsys):
    with pytest.raises(SystemExit) as ended:
        module_of(command).parse(["--help"])
    assert ended.value.code == 0
    said = capsys.readouterr().out
    assert said.startswith(f"usage: python -m benchmarks.{command} ")
    if command != "accelerator":  # whose results are a folder
        assert {"--json PATH", "--smoke"} <= set(re.findall(r"--json PATH|--smoke", said))


REFUSED = {
    ("unroll", "--batch", "0"): "--batch: expected a whole number of at least 1, got '0'",
    ("unroll", "--hidden", "1.5"): "--hidden: expected a whole number of at least 1, got '1.5'",
    ("unroll", "--seconds", "0"): "--seconds: expected a number above 0, got '0'",
    ("unroll", "--compile-limit", "nan"): "--compile-limit: expected a number of at least 0, got 'nan'",
    ("unroll", "--cells", "Elman"): "--cells: invalid choice: 'Elman'",
    ("unroll", "--json", "no/such/folder/rows.json"): "--json: cannot write",
    ("unroll", "--plot", "plot.txt"): "--plot: cannot draw plot.txt",
    ("peers", "--shapes", "1,2,3"): "expected T,B,I,H, got '1,2,3'",
    ("layers", "--shapes", "Elman,4,256,32,300"): "--shapes: expected CELL,LAYERS,H,B,T",
    ("layers", "--shapes", "LSTM,0,256,32,300"): "--shapes: expected a whole number",
}


@pytest.mark.parametrize("words", [*REFUSED, *((command, "--haste", "yes") for command in COMMANDS)], ids=" ".join)
def test_what_cannot_be_used_is_refused_in_one_sentence(words, capsys):
    with pytest.raises(SystemExit) as refused:
        module_of(words[0]).parse(words[1:])
    said = capsys.readouterr().err
    assert (refused.value.code, said.count("\n")) == (2, 1)
    assert REFUSED.get(words, words[0]) in said


def test_every_command_ends_in_one_way():
    for name in RUN - OTHERS:
        assert re.search(r"^def main\(arguments: Sequence\[str\]\) -> None:", SOURCES[name], re.MULTILINE), name
        assert "command.run(main" in SOURCES[name].splitlines()[-1], name


def imports_of(text):
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def questions(name):
    """The question that a file is of, none where all share it."""
    first = name.split(".")[0]
    return {first} if first in RUN or (FOLDER / first).is_dir() else set()


def test_no_question_imports_another_s_files():
    for name, text in SOURCES.items():
        for imported in imports_of(text):
            if imported.startswith("benchmarks."):
                assert questions(imported.removeprefix("benchmarks.")) <= questions(name), f"{name}: {imported}"


def test_one_file_calls_the_training_engine():
    found = {name for name, text in SOURCES.items() if any("rnnjax.training." in each for each in imports_of(text))}
    assert found == OF_TRAINING


def test_commands_that_documents_name_are_there():
    pages = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    named = {name for page in pages for name in re.findall(r"python -m benchmarks\.([\w.]*\w)", page.read_text())}
    assert "kernels" in named
    assert named <= set(COMMANDS)


@pytest.mark.parametrize("rehearse", [True, False])
def test_benchmarks_take_the_options_of_the_accelerator_s_plan(rehearse, tmp_path):
    for step in plan(rehearse=rehearse):
        first, module, *options = step.command(tmp_path / "results.json", tmp_path, tmp_path)
        if module.startswith("benchmarks."):
            assert first == "-m"
            assert module_of(module.removeprefix("benchmarks.")).parse(options).smoke == rehearse
