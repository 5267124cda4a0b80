"""What cannot fit into memory is refused before any of it is taken."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from toytasks.runs import line_config, made_task, run_training

from rnnjax import memory, sweep, train
from rnnjax.commands import exit_code
from rnnjax.config import DataConfig
from rnnjax.data.dataset import DataSet
from rnnjax.errors import ConfigError
from rnnjax.training import loop, state
from rnnjax.training.state import require_room

GIB = 2**30


@pytest.fixture(autouse=True)
def _small_machine(monkeypatch, request):
    monkeypatch.setattr(memory, "machine_memory", lambda: GIB)
    monkeypatch.chdir(request.config.rootpath)


def test_the_machines_memory_is_that_of_its_container_where_that_is_less(monkeypatch, tmp_path):
    monkeypatch.undo()
    whole = memory.machine_memory()
    assert whole > GIB // 4
    (tmp_path / "limit").write_text("12345\n")
    (tmp_path / "none").write_text("max\n")
    monkeypatch.setattr(memory, "_CGROUPS", (str(tmp_path / "none"), str(tmp_path / "nowhere")))
    assert memory.machine_memory() >= whole
    monkeypatch.setattr(memory, "_CGROUPS", (str(tmp_path / "limit"),))
    assert memory.machine_memory() == 12345


def test_shapes_are_counted_and_nothing_is_made():
    def make():
        return {"w": jnp.zeros((2**14, 2**14)), "key": jax.random.key(0)}

    with pytest.raises(ConfigError, match=r"^they take at least 3.0 GiB of memory, but there are 1.0 GiB; lower"):
        memory.require_room_for(make, "they", times=3)
    memory.require_room_for(lambda: jnp.zeros(2**20), "they")


def test_sizes_beyond_32_bits_are_refused():
    with pytest.raises(ConfigError, match="do not fit 32 bits"):
        memory.require_room_for(lambda: jnp.zeros(3) + jax.random.randint(jax.random.key(0), (3,), 0, 2**40), "they")


TOO_LARGE = {
    "hihello": "cell.hidden_size=20000",
    "char_lm:embedded": "cell.hidden_size=20000",
    "time_series": "windows=100000000",
    "mnist:embedded": "cell.hidden_size=4000000000",
    "word2vec:embedded": "size=10000000",
}


@pytest.mark.parametrize(("config", "field"), TOO_LARGE.items())
@pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")
@pytest.mark.parametrize("main", [train.main, sweep.main])
def test_a_model_or_data_that_cannot_fit_ends_with_2_and_one_sentence(config, field, main, tmp_path, capsys):
    name, _, variant = config.partition(":")
    arguments = ["--config", f"configs/{name}.py{':' if variant else ''}{variant}", f"--config.{field}"]
    assert exit_code(main, [*arguments, "--config.parallel.batch=1", "--workdir", str(tmp_path / "run")]) == 2
    (said,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("rnnjax: ")]
    assert "GiB of memory, but there are 1.0 GiB; lower" in said or "do not fit 32 bits" in said
    if main is train.main:
        assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("main", [train.main, sweep.main])
@pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")
def test_a_program_that_cannot_fit_ends_with_2_before_it_is_run(main, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(memory, "program_size", lambda compiled, devices: 3 * GIB)
    arguments = ["--config", "configs/hihello.py", "--config.parallel.batch=1", "--workdir", str(tmp_path / "run")]
    assert exit_code(main, arguments) == 2
    assert "training steps take at least 3.0 GiB of memory" in capsys.readouterr().err


def large_task(buckets=None):
    """A task of data that would take 1.2 GiB, and whose examples of 1.2 KiB none of them takes."""
    split = {"x": np.broadcast_to(np.float32(0), (2**20, 300))}
    data = DataSet("made", dict.fromkeys(("train", "validation", "test"), split), "made in the test", "")
    return made_task(data, lambda key: {"w": jnp.zeros(300)}, None, buckets=buckets)


@pytest.mark.parametrize(
    ("batch_size", "feed", "sentence"),
    [
        (
            8,
            "device",
            r"data, which stays on the devices, take at least 1.2 GiB .*, or take data.feed",
        ),
        (
            2**20,
            "host",
            "a batch and the states take at least 1.2 GiB of memory, but there are 1.0 GiB; lower batch_size",
        ),
        (2**19, "device", "take at least 1.8 GiB"),
    ],
)
def test_data_and_batches_that_cannot_fit_are_refused_before_anything_is_compiled(
    batch_size, feed, sentence, tmp_path, monkeypatch
):
    monkeypatch.setattr(loop, "Engine", lambda *given: pytest.fail("compiled"))
    config = line_config(batch_size=batch_size, data=DataConfig(feed=feed))
    with pytest.raises(ConfigError, match=sentence):
        run_training(tmp_path, config, large_task())


def test_nothing_is_refused_that_may_fit(monkeypatch):
    task, sgd = large_task(), optax.sgd(0.1)
    require_room(task, line_config(batch_size=8, data=DataConfig(feed="host")), sgd)
    require_room(large_task(buckets="some"), line_config(batch_size=2**20, data=DataConfig(feed="host")), sgd)
    monkeypatch.setattr(state, "devices_apart", lambda: 4)
    require_room(task, line_config(batch_size=2**20, data=DataConfig(feed="host")), sgd)


def test_a_compiled_program_tells_its_size():
    compiled = jax.jit(lambda x: (x @ x).sum()).lower(jnp.zeros((256, 256))).compile()
    assert memory.program_size(compiled, 1) >= 4 * 256 * 256
    assert memory.program_size(compiled, 2) == 2 * memory.program_size(compiled, 1)
    assert memory.program_size(lambda: None, 1) == 0
