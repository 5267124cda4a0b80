"""Translation end to end: trained, evaluated and used by the commands."""

import io
import json

import pytest

import rnnjax
from rnnjax import evaluate, generate, train

pytestmark = pytest.mark.usefixtures("programs_of_alike_runs")


def test_dates_are_trained_evaluated_and_translated(call, tmp_path, monkeypatch):
    pairs = tmp_path / "pairs.tsv"
    days = [(day, month) for day in range(1, 29) for month in range(1, 13)]
    pairs.write_text("".join(f"{day}/{month}\t{month:02}-{day:02}\n" for day, month in days))
    data = ["--config.data.name=tsv", f"--config.data.path={pairs}", "--config.batch_size=32"]
    size = ["--config.epochs=1", "--config.cell.hidden_size=8", "--config.max_buckets=2", "--config.beam_size=2"]
    size += ["--config.optimizer.warmup_steps=0"]
    run = tmp_path / "run"
    code, out, sentences, _ = call(train.main, "--config", "configs/translate.py", *data, *size, "--workdir", run)
    assert (code, sentences) == (0, [])
    summary = json.loads((run / "summary.json").read_text())
    assert {"loss", "perplexity", "bleu", "chrf", "exact_match"} <= summary["final"]["test"].keys()
    assert len(list((run / "plots").glob("attention_*.png"))) == 4
    code, out, _, _ = call(evaluate.main, run, "--split", "validation")
    assert code == 0
    assert 0 <= json.loads(out.splitlines()[-1])["exact_match"] <= 1
    pairs.unlink()
    monkeypatch.setattr("sys.stdin", io.StringIO("3/4\n\nQ 7/7\n"))
    code, out, _, _ = call(generate.main, run, "--beam-size=3", "--n-best=2")
    assert code == 0
    lines = out.split("\n")
    assert len(lines) == 2 + 1 + 2 + 1
    assert lines[2] == ""
    assert (run / "plots" / "translation_2.png").exists()
    best = [lines[0].split("\t")[1], "", lines[3].split("\t")[1]]
    assert rnnjax.load_run(run).translate(["3/4", "", "Q 7/7"], beam_size=3) == best
