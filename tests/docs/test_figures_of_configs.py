"""The figures in the docstrings of configs are those of docs/results.json."""

import json
import re
import statistics
from pathlib import Path

import pytest

from rnnjax.config_file import read_config_file, shipped_configs
from rnnjax.experiments import EXPERIMENTS
from rnnjax.reproduce import table

REPOSITORY = Path(__file__).resolve().parents[2]
RESULTS = json.loads((REPOSITORY / "docs" / "results.json").read_text())
NAMES = {experiment.config: name for name, experiment in EXPERIMENTS.items()}

NUMBER = re.compile(r"(?<![\w@.,])\d[\d,]*(?:\.\d+)?")  # not that of recall@20
TIME = re.compile(r"(\d[\d,]*) (s|min)\b")
SEEDS = {"one seed": 1, "three seeds": 3, "five seeds": 5}


def tables(text):
    """The rows of all tables of a page, as dicts by the names of their columns."""
    for found in re.findall(r"(?:^\|.*\n)+", text, re.M):
        head, _, *rows = ([cell.strip() for cell in line.strip("| \n").split(" | ")] for line in found.splitlines())
        yield from (dict(zip(head, row)) for row in rows)


def rows_with_figures(name):
    """The rows of a config's docstring that tell what was measured, each with the variants that it is of."""
    module = read_config_file(name).module
    for row in tables(module.__doc__):
        if "ours" in row:
            words = re.split(r", | \(", row["variant"])
            variants = [word for word in words if word in module.VARIANTS]
            assert variants, f"configs/{name}.py has a row of no variant: {row['variant']}"
            yield row, variants


def written(value, number):
    """A value as it is written with as many decimals as a number has."""
    return f"{value:,.{len(number.partition('.')[2])}f}"


def said_of(values, number):
    """What may be said of the values of several seeds: mean, deviation, the smallest and the largest."""
    spread = [statistics.stdev(values)] if len(values) > 1 else []
    return {written(value, number) for value in (statistics.mean(values), *spread, min(values), max(values))}


def differences(name, results):
    """What the tables of a config's docstring tell that does not follow from results."""
    for row, variants in rows_with_figures(name):
        found = [results[key] for variant in variants if (key := NAMES.get(f"configs/{name}.py:{variant}")) in results]
        figures = [values for result in found for values in result["figures"].values()]
        ours, where = row["ours"], f"configs/{name}.py, {row['variant']}"
        for number in NUMBER.findall(ours):
            if not any(number in said_of(values, number) for values in figures):
                yield f"{where}: {number} is not in docs/results.json, where {figures or 'nothing'} is"
        for words, seeds in SEEDS.items():
            if words in ours and any(len(values) != seeds for values in figures):
                yield f"{where}: not {words}"
        for number, unit in TIME.findall(" ".join(cell for column, cell in row.items() if column.startswith("time"))):
            seconds = [statistics.median(result["seconds"]) / {"s": 1, "min": 60}[unit] for result in found]
            if number not in [written(value, number) for value in seconds]:
                yield f"{where}: {number} {unit}, where docs/results.json has {seconds or 'nothing'}"
        if found and "not measured" in ours:
            yield f"{where} is measured: {figures}"


@pytest.mark.parametrize("name", shipped_configs())
def test_the_figures_in_a_config_are_those_of_the_results(name):
    assert list(differences(name, RESULTS)) == []


def test_a_figure_that_changes_is_found_in_the_config():
    changed = json.loads(json.dumps(RESULTS))
    changed["hihello_gru"]["figures"]["all six right from step"][0] += 15
    changed["hihello_lstm"]["seconds"] = [70]
    del changed["hihello_basic"]
    assert [line.split(":")[0] for line in differences("hihello", changed)] == [
        *["configs/hihello.py, basic"] * 4,
        "configs/hihello.py, lstm",
        *["configs/hihello.py, gru"] * 2,
    ]


def test_the_page_of_results_is_that_of_its_file():
    assert (REPOSITORY / "docs" / "results.md").read_text() == table(RESULTS)
