"""Reports the results of a sweep: means over seeds, a table and plots."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rnnjax.metric_names import numbers
from rnnjax.plots import axis_label, drawing, new_figure, save_figure, spans_decades

Spread = dict[str, dict[str, float]]  # for each metric, its mean and its standard deviation over the seeds


def points(runs: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Returns the metrics at every point of the grid, as mean and standard deviation over the seeds.

    Runs that diverged are counted, and excluded from the means.
    """
    return [
        _point(values, [run for run in runs if run["values"] == values])
        for values in _distinct(run["values"] for run in runs)
    ]


def _point(values: dict[str, Any], runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    whole = [run for run in runs if run["diverged"] is None]
    splits = dict.fromkeys(split for run in whole for split in run["final"])
    return {
        "values": values,
        "seeds": [run["seed"] for run in runs],
        "diverged": len(runs) - len(whole),
        "final": {split: spread([run["final"][split] for run in whole]) for split in splits},
        "best": spread([run["best"] for run in whole if run["best"]]),
    }


def _distinct(all_values: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    return [json.loads(text) for text in dict.fromkeys(map(json.dumps, all_values))]


def spread(rows: Sequence[Mapping[str, Any]]) -> Spread:
    """Returns the mean and the sample standard deviation, 0 for a single row, of every metric."""
    columns = {name: [row[name] for row in rows] for name in (numbers(rows[0]) if rows else {})}
    return {
        name: {"mean": statistics.fmean(values), "std": statistics.stdev(values) if len(values) > 1 else 0.0}
        for name, values in columns.items()
    }


def table(results: dict[str, Any]) -> str:
    """Returns a table with a line for every point of the grid, and below it the best point."""
    all_points, metric = results["points"], results["metric"]
    splits = [(split, name) for split in ("validation", "test") for name in _metrics(all_points, split)]
    titles = [
        *all_points[0]["values"],
        "runs",
        *(f"{split} {name}" for split, name in splits),
        f"best validation {metric}",
    ]
    lines = [titles]
    for point in all_points:
        cells = [point["final"].get(split, {}).get(name) for split, name in splits]
        lines.append(
            [
                *(str(value) for value in point["values"].values()),
                _count(point),
                *(_plus_minus(cell, converged(point)) for cell in [*cells, point["best"].get(metric)]),
            ]
        )
    widths = [max(map(len, column)) for column in zip(*lines)]
    text = ["  ".join(cell.rjust(width) for cell, width in zip(line, widths)) for line in lines]
    return "\n".join([*text, *_best_line(results), *_kept_line(results), _time_line(results)])


def _metrics(all_points: Sequence[dict[str, Any]], split: str) -> list[str]:
    return list(dict.fromkeys(name for point in all_points for name in point["final"].get(split, {})))


def _count(point: dict[str, Any]) -> str:
    runs, diverged = len(point["seeds"]), point["diverged"]
    return f"{runs} ({diverged} diverged)" if diverged else str(runs)


def converged(point: Mapping[str, Any]) -> int:
    """Returns the number of runs at a point that have not diverged."""
    return len(point["seeds"]) - point["diverged"]


def _plus_minus(value: dict[str, float] | None, runs: int) -> str:
    """Returns a mean with the deviation over the runs, which a single run has not."""
    if value is None:
        return ""
    return f"{value['mean']:.4f} ± {value['std']:.4f}" if runs > 1 else f"{value['mean']:.4f}"


def best_point(results: dict[str, Any]) -> dict[str, Any] | None:
    """Returns the point whose mean of the metric is best at the end of training.

    Points at which all runs diverged are ignored; if there are no others, it returns None.
    """
    sign, metric = 1 if results["higher_is_better"] else -1, results["metric"]
    candidates = [point for point in results["points"] if metric in point["final"].get("validation", {})]
    return max(candidates, key=lambda point: sign * point["final"]["validation"][metric]["mean"], default=None)


def _best_line(results: dict[str, Any]) -> list[str]:
    best = best_point(results)
    if best is None or len(results["points"]) == 1:
        return []
    value = _plus_minus(best["final"]["validation"][results["metric"]], converged(best))
    return [f"best: {point_name(best['values'])} (validation {results['metric']} {value})"]


def _kept_line(results: dict[str, Any]) -> list[str]:
    """Returns a line about the best run whose parameters were kept."""
    run = next((run for run in results["runs"] if run["run"] == results["best"]), None)
    if run is None:
        return []
    name = ", ".join(filter(None, [point_name(run["values"]), f"seed={run['seed']}"]))
    metric, count = results["metric"], len(results["kept"])
    return [f"runs kept: {count}, the best is run {run['run']} ({name}, {metric} {run['best'][metric]:.4f})"]


def _time_line(results: dict[str, Any]) -> str:
    groups, device = results["groups"], results["device"]
    compiling = sum(group["compile_seconds"] for group in groups)
    return (
        f"{results['seconds']:.1f} s, runs: {len(results['runs'])}, programs: {len(groups)}, "
        f"{compiling:.1f} s compiling, on {device['count']} x {device['kind']}"
    )


def point_name(values: Mapping[str, Any]) -> str:
    """Returns a short name of a point, in which fields are named by the last parts of their names."""
    return ", ".join(f"{name.split('.')[-1]}={value}" for name, value in values.items())


@drawing
def plot_sweep(results: dict[str, Any], rows: Sequence[dict[str, Any]], directory: Path) -> None:
    """Plots each validation metric against the epoch: mean and standard deviation over the seeds of every point.

    Args:
      results: of the sweep, as `rnnjax.training.sweeps.sweep.gather` returns them.
      rows: lines of `metrics.jsonl`.
      directory: where the plots are written.
    """
    whole = [run for run in results["runs"] if run["diverged"] is None]
    validation = [row for row in rows if row["split"] == "validation"]
    curves = {run["run"]: [row for row in validation if row["run"] == run["run"]] for run in whole}
    for name in _metrics(results["points"], "validation"):
        if not any(len(curve) > 1 for curve in curves.values()):
            continue  # a single dot for each point, which the table says in numbers
        title = f"Validation {axis_label(name)}: means and standard deviations over seeds"
        figure, axes = new_figure(6, 4, title=title)
        for point in results["points"]:
            point_curves = [curves[run["run"]] for run in whole if run["values"] == point["values"]]
            if point_curves:
                _plot_point(axes, point, point_curves, name)
        values = [row[name] for curve in curves.values() for row in curve if name in row]
        axes.set(xlabel="epoch", ylabel=axis_label(name), yscale="log" if spans_decades(name, values) else "linear")
        axes.legend(fontsize=8)
        axes.grid(alpha=0.3)
        save_figure(figure, directory / f"{name}.png")


def _plot_point(axes: Any, point: dict[str, Any], curves: Sequence[Sequence[dict[str, Any]]], name: str) -> None:
    epochs = [row["epoch"] for row in curves[0]]
    values = np.array([[row[name] for row in curve] for curve in curves])
    mean, std = values.mean(0), values.std(0, ddof=min(1, len(values) - 1))
    label = point_name(point["values"]) or (f"{len(values)} seeds" if len(values) > 1 else "one seed")
    (line,) = axes.plot(epochs, mean, label=label, marker="." if len(epochs) < 50 else None)
    axes.fill_between(epochs, mean - std, mean + std, color=line.get_color(), alpha=0.2, linewidth=0)
