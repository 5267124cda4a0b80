"""`--profile DIR` writes a trace of a few training steps, and changes no result."""

from pathlib import Path

import pytest
from toytasks.runs import assert_same_run, run_training, sign_config

from rnnjax.errors import ConfigError
from rnnjax.tasks import build_task
from rnnjax.training import loop
from rnnjax.training.profile import Profile, read_profile

pytestmark = pytest.mark.usefixtures("programs_of_alike_runs")


def test_a_trace_is_written_once_and_the_run_is_as_without(tmp_path, monkeypatch, caplog):
    config = sign_config(epochs=1, steps_per_call=2)
    plain = run_training(tmp_path / "plain", config)
    train = loop.train
    with monkeypatch.context() as patch, caplog.at_level("INFO"):
        patch.setattr("toytasks.runs.train", lambda *given: train(*given, profile=tmp_path / "trace"))
        profiled = run_training(tmp_path / "profiled", config, build_task(config))
    assert_same_run(profiled, plain)
    assert len(list((tmp_path / "trace").rglob("*.xplane.pb"))) == 1
    assert sum(message.startswith("profile: ") for message in caplog.messages) == 1


def test_the_second_call_is_traced_and_a_run_of_one_says_that_it_was_not(tmp_path, caplog):
    profile = Profile(tmp_path / "trace")
    assert profile(lambda state, other: state + other, 1, 2) == 3
    assert not (tmp_path / "trace").exists()
    profile.end()
    assert caplog.messages == ["no profile was written: the run had 1 of the 2 calls it takes"]
    assert [profile(lambda state: state, each) for each in (4, 5)] == [4, 5]
    assert len(list((tmp_path / "trace").rglob("*.xplane.pb"))) == 1
    profile.end()
    assert len(caplog.messages) == 1


def test_the_flag_names_a_directory(tmp_path):
    assert read_profile(["--a", "--profile=there", "b"]) == (Path("there"), ["--a", "b"])
    assert read_profile(["--a"]) == (None, ["--a"])
    (tmp_path / "file").touch()
    for wrong in ("", str(tmp_path / "file")):
        with pytest.raises(ConfigError, match=r"^--profile must name a directory for the trace, got "):
            read_profile(["--profile", wrong])
