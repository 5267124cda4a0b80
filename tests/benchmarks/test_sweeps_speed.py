"""The benchmark of sweeps: what a row says."""

from benchmarks import sweeps


def test_of_a_sweep_with_fewer_single_runs_these_stand_for_all():
    summary = {"steps_per_second": 10.0, "final": {"validation": {"accuracy": 0.5}}}
    point = {"final": {"validation": {"accuracy": {"mean": 0.6}}}}
    results = {"metric": "accuracy", "points": [point], "groups": []}
    row = sweeps.row(64, [(3.0, summary)], 24.0, results)
    assert (row.runs_seconds, row.ratio, row.run_step_seconds, row.runs_mean) == (192.0, 0.125, 0.1, 0.5)
