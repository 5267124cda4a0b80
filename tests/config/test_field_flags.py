"""Without `ml_collections` flags mean what they mean with it."""

import pytest
from config_reading import MNIST, read
from fixtures.thorough import once_more
from test_config import REFUSED

from rnnjax import config_flags
from rnnjax.config_flags import read_config
from rnnjax.errors import ConfigError

UNDERSTOOD = [
    [],
    ["--config.seed=7", "--config.cell.kind=LSTM", "--config.cell.cell_clip=3", "--config.cell.peephole=true"],
    ["--config.cell.kind=LSTM", "--config.cell.peephole", "--config.optimizer.learning_rate=1e-2"],
    ["--config.cell.kind=LSTM", "--config.cell.peephole=1", "--noconfig.cell.peephole", "--config.epochs", "3"],
    ["--config.cell.wrappers=residual,dropout", "--config.cell.dropout.output_rate=0.2"],
    ["--config.optimizer.clip_norm=5", "--config.optimizer.clip_norm=none", "--config.parallel.tune=False"],
    ["--config.data.path=/a=b,c", "-config.dtype=bfloat16", "--config.seed=1", "--config.seed=2"],
]


@pytest.fixture
def plain(monkeypatch):
    monkeypatch.setattr(config_flags, "config_flags", None)


@pytest.mark.parametrize("flags", UNDERSTOOD, ids=map(str, range(len(UNDERSTOOD))))
def test_flags_set_the_same_fields(flags, monkeypatch):
    with_package = read(*flags)
    monkeypatch.setattr(config_flags, "config_flags", None)
    assert read(*flags) == with_package


# Behind the flags everything is the same: of every four one.
AGAIN = [case if number % 4 == 0 else once_more(*case) for number, case in enumerate(REFUSED)]


@pytest.mark.parametrize(("arguments", "message"), AGAIN, ids=[" ".join(case[0]) for case in REFUSED])
def test_what_cannot_be_meant_is_refused(arguments, message, plain):
    with pytest.raises(ConfigError, match=message) as error:
        read(*arguments)
    assert "\n" not in str(error.value)


def test_the_work_directory_is_read(plain, tmp_path):
    assert read_config(["--config", MNIST, "--workdir", str(tmp_path)])[2] == tmp_path
    assert read_config([f"--config={MNIST}", f"--workdir={tmp_path}"])[2] == tmp_path
    with pytest.raises(ConfigError, match="--workdir has no value"):
        read_config(["--config", MNIST, "--workdir"])
