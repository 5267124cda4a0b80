"""The benchmark of static unrolling against scan, on sizes that take no time."""

import itertools
import json

import pytest

from benchmarks.unroll import __main__ as unroll
from benchmarks.unroll import rows as unroll_rows
from benchmarks.unroll.rows import Row

pytestmark = [pytest.mark.usefixtures("compiled_quickly"), pytest.mark.thorough]

SIZES = ["--lengths", "5", "2", "--batch", "2", "--input", "3", "--hidden", "4"]
SMALL = [*SIZES, "--cells", "BasicRNN", "--repeats", "1"]
TIMES = ("trace_seconds", "lower_seconds", "compile_seconds")
TIMES += ("run_seconds", "run_seconds_low", "run_seconds_high", "run_seconds_per_step")
FIGURES = (*TIMES, "runs", "ratio_to_scan", "argument_bytes", "output_bytes", "temp_bytes", "peak_bytes")


def test_a_run_prints_a_table_and_writes_rows_and_a_plot(capsys, tmp_path):
    # One test for all of it: a run takes seconds to compile, and tests may be spread over processes.
    unroll.main([*SMALL, "--json", f"{tmp_path}/rows.json", "--plot", f"{tmp_path}/plot.png"])
    written = json.loads((tmp_path / "rows.json").read_text())
    every_length_direction_and_method_has_a_row(written["rows"])
    for row in written["rows"]:
        every_figure_is_there_and_positive(row)
    the_file_says_what_it_was_taken_on_and_with(written)
    the_table_has_a_header_a_line_a_row_and_a_summary(capsys.readouterr().out.splitlines())
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")


def every_length_direction_and_method_has_a_row(rows):
    found = [(row["cell"], row["T"], row["direction"], row["method"]) for row in rows]
    assert found == list(itertools.product(["BasicRNN"], [2, 5], unroll_rows.DIRECTIONS, unroll_rows.METHODS))


def every_figure_is_there_and_positive(row):
    assert set(row) == set(Row._fields)
    assert all(row[figure] > 0 for figure in FIGURES), row
    assert row["reason"] is None
    assert row["runs"] == 1
    assert row["peak_bytes"] == row["argument_bytes"] + row["output_bytes"] + row["temp_bytes"]
    assert row["run_seconds_per_step"] == pytest.approx(row["run_seconds"] / row["T"])
    assert (row["predicted_seconds"] is None) == (row["method"] != "static")
    assert row["method"] != "scan" or row["ratio_to_scan"] == 1


def the_file_says_what_it_was_taken_on_and_with(written):
    assert {"device", "cores", "versions"} <= set(written["machine"])
    assert written["settings"]["lengths"] == [2, 5]
    assert written["settings"]["hidden"] == 4
    assert [summary["direction"] for summary in written["summary"]] == list(unroll_rows.DIRECTIONS)


def the_table_has_a_header_a_line_a_row_and_a_summary(table):
    assert " cores" in table[0]
    assert "jax" in table[1]
    assert "batch 2, input 3, hidden 4" in table[2]
    assert "temporaries" in table[3]
    assert table[5].split()[:4] == ["cell", "T", "direction", "method"]
    end = 6 + 4 * len(unroll_rows.METHODS)
    assert [line.split()[3] for line in table[6:end]] == list(unroll_rows.METHODS) * 4
    assert len({len(line) for line in table[5:end]}) == 1, "columns are aligned"
    assert table[-1].startswith("BasicRNN: forward ")


def test_static_is_skipped_where_it_would_take_too_long_to_compile(capsys, tmp_path):
    path = tmp_path / "rows.json"
    arguments = [*SMALL, "--lengths", "2", "--compile-limit", "0", "--json", str(path), "--plot", f"{tmp_path}/p.svg"]
    unroll.main(arguments)
    table = capsys.readouterr().out
    assert table.count("skipped: compile would take ~") == 2
    assert "forward not measured" in table
    static = [row for row in json.loads(path.read_text())["rows"] if row["method"] == "static"]
    assert all(row["reason"] and row["predicted_seconds"] > 0 and row["run_seconds"] is None for row in static)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--batch", "0"], "--batch: expected a whole number of at least 1, got '0'"),
        (["--lengths", "2", "-3"], "--lengths"),
        (["--hidden", "1.5"], "--hidden: expected a whole number of at least 1, got '1.5'"),
        (["--seconds", "0"], "--seconds: expected a number above 0, got '0'"),
        (["--compile-limit", "nan"], "--compile-limit: expected a number of at least 0, got 'nan'"),
        (["--cells", "Elman"], "--cells: invalid choice: 'Elman'"),
        (["--json", "no/such/folder/rows.json"], "--json: cannot write"),
        (["--plot", "plot.txt"], "--plot: cannot draw plot.txt"),
    ],
)
def test_arguments_that_cannot_be_used_are_refused_in_one_sentence(arguments, sentence, capsys):
    with pytest.raises(SystemExit) as refused:
        unroll.main(arguments)
    said = capsys.readouterr().err
    assert refused.value.code == 2
    assert said.count("\n") == 1
    assert sentence in said


def test_compile_time_is_extrapolated_as_a_power_of_the_length():
    assert unroll.extrapolate({2: 1.0}, 10) == pytest.approx(5)
    assert unroll.extrapolate({10: 1.0, 100: 100.0}, 200) == pytest.approx(400)
    assert unroll.extrapolate({10: 9.0, 100: 10.0}, 200) == pytest.approx(20), "never slower than in proportion"
    assert unroll.extrapolate({1: 1.0, 2: 8.0}, 4) == pytest.approx(16), "too close together to tell a power"


def rows(**costs):
    """Rows of lengths by name, ``T2=(static, scan, scan(4))``, in seconds a run; static takes 1 s to build."""
    for length, by_method in costs.items():
        for method, cost in zip(("static", "scan", "scan(4)"), by_method):
            row = Row("LSTM", int(length[1:]), method, "forward", run_seconds=cost)
            if cost is None:
                row = Row("LSTM", int(length[1:]), method, "forward", reason="skipped")
            elif method == "static":
                row = Row("LSTM", int(length[1:]), method, "forward", run_seconds=cost, compile_seconds=1.0)
            yield row


def test_the_crossover_is_where_static_stops_being_faster():
    found = unroll_rows.crossover([*rows(T2=(1, 2, 2), T28=(1.9995, 3, 2), T100=(4, 3, 5), T300=(None, 3, 3))])
    assert (found.measured, found.run, found.amortised) == ((2, 28, 100), (2, 28), (2,))
    assert unroll_rows.crossover_text(found) == "forward up to T = 28 (up to T = 2)"


def test_a_scan_without_a_loop_is_not_counted_as_a_scan():
    assert unroll_rows.crossover([*rows(T2=(1, 2, 0.5))]).run == (2,)
    assert unroll_rows.crossover([*rows(T5=(1, 2, 0.5))]).run == ()


@pytest.mark.parametrize(
    ("faster", "words"),
    [
        ((), "never"),
        ((2,), "up to T = 2"),
        ((28,), "at T = 28 only"),
        ((2, 28, 100), "up to T = 100, the longest compiled"),
    ],
)
def test_the_summary_says_where_static_is_faster(faster, words):
    assert unroll_rows.lengths_text(faster, (2, 28, 100)) == words
