import functools
import json
import resource
import shutil
import subprocess

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
from toytasks.runs import assert_identical

from rnnjax.errors import CheckpointError, DataError
from rnnjax.training import checkpoint
from rnnjax.training.checkpoint import Origin

RUN = Origin("this run", "its data")


Checkpoints = functools.partial(checkpoint.Checkpoints, origin=RUN)


def state_of(step: int):
    """A state unlike that of any other step."""
    return {"params": {"w": jnp.arange(64.0) + step}, "state": {"key": jax.random.key(step), "count": jnp.int32(step)}}


def save(directory, metrics: dict[int, dict], state=state_of, **options) -> None:
    with Checkpoints(directory, **options) as checkpoints:
        for step, values in metrics.items():
            checkpoints.save(step, state(step), values)


def restore(directory, which: str = "last", **options):
    with Checkpoints(directory, **options) as checkpoints:
        restored = checkpoints.restore_last if which == "last" else checkpoints.restore_best
        return restored(state_of(0))


def steps(directory, **options) -> list[int]:
    with Checkpoints(directory, **options) as checkpoints:
        return checkpoints.steps()


LOSSES = {10: {"loss": 3.0}, 20: {"loss": 1.0}, 30: {"loss": 2.0}, 40: {"loss": 2.5}}


@pytest.fixture(scope="module")
def four(tmp_path_factory):
    directory = tmp_path_factory.mktemp("four") / "checkpoints"
    save(directory, LOSSES)
    return directory


@pytest.fixture
def copy(four, tmp_path):
    return shutil.copytree(four, tmp_path / "checkpoints")


def test_the_last_two_and_the_best_are_kept(four):
    assert steps(four) == [40, 30, 20]


def test_a_state_comes_back_bit_by_bit(four):
    step, state = restore(four)
    assert step == 40
    assert_identical(state, state_of(40))


def test_parameters_are_read_without_the_rest_even_where_that_is_damaged(copy):
    for path in (copy / "40" / "state").rglob("*"):
        if path.is_file():
            path.write_bytes(b"")
    with Checkpoints(copy, read_only=True) as checkpoints:
        step, items = checkpoints.restore_last({"params": state_of(0)["params"]})
    assert step == 40
    assert_identical(items, {"params": state_of(40)["params"]})


def test_the_best_is_that_of_the_lowest_loss(four):
    step, state = restore(four, "best")
    assert step == 20
    assert_identical(state, state_of(20))


def test_the_best_may_be_that_of_the_highest_value(tmp_path):
    accuracies = {1: {"accuracy": 0.5}, 2: {"accuracy": 0.9}, 3: {"accuracy": 0.7}, 4: {"accuracy": 0.6}}
    options = {"metric": "accuracy", "higher_is_better": True}
    save(tmp_path, accuracies, **options)
    assert steps(tmp_path, **options) == [4, 3, 2]
    assert restore(tmp_path, "best", **options)[0] == 2


def test_a_value_that_is_not_a_number_is_never_the_best(tmp_path):
    save(tmp_path, {1: {"loss": 2.0}, 2: {"loss": float("nan")}, 3: {"loss": 3.0}, 4: {}})
    assert restore(tmp_path, "best")[0] == 1


def test_the_first_of_equals_is_the_best_as_in_the_summary(tmp_path):
    save(tmp_path, {1: {"loss": 2.0}, 2: {"loss": 1.0}, 3: {"loss": 1.0}, 4: {"loss": 1.0}})
    assert restore(tmp_path, "best")[0] == 2


def test_a_checkpoint_without_metrics_is_kept_as_the_last(tmp_path):
    save(tmp_path, {1: {"loss": 2.0}, 2: {}})
    assert restore(tmp_path)[0] == 2
    assert restore(tmp_path, "best")[0] == 1


def test_an_empty_directory_holds_no_checkpoint(tmp_path):
    assert restore(tmp_path / "none") is None
    assert restore(tmp_path / "none", "best") is None


def test_a_state_is_restored_onto_the_devices_that_are_asked_for(four):
    mesh = jax.make_mesh((2,), ("batch",), axis_types=(jax.sharding.AxisType.Auto,))
    split = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("batch"))
    like = state_of(0)
    like["params"]["w"] = jax.device_put(like["params"]["w"], split)
    with Checkpoints(four) as checkpoints:
        _, state = checkpoints.restore_last(like)
    assert state["params"]["w"].sharding.is_equivalent_to(split, 1)
    assert_identical(state, state_of(40))


def data_files(step_directory):
    files = [path for item in ("params", "state") for path in (step_directory / item).rglob("*") if path.is_file()]
    return [path for path in files if path.stat().st_size]


def truncate_all(step_directory):
    for path in data_files(step_directory):
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip_a_byte_of_the_largest(step_directory):
    path = max(data_files(step_directory), key=lambda path: path.stat().st_size)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)


def flip_all(step_directory):
    for path in data_files(step_directory):
        path.write_bytes(bytes(byte ^ 0xFF for byte in path.read_bytes()))


def empty_all(step_directory):
    for path in step_directory.rglob("*"):
        if path.is_file():
            path.write_bytes(b"")


def delete_files(step_directory):
    for path in data_files(step_directory):
        path.unlink()


def change_the_digest(step_directory):
    path = step_directory / "about" / "metadata"
    about = json.loads(path.read_text())
    assert {name: len(digest) for name, digest in about["sha256"].items()} == {"params": 64, "state": 64}
    path.write_text(json.dumps({**about, "sha256": {**about["sha256"], "params": 64 * "0"}}))


DAMAGES = [
    truncate_all,
    flip_a_byte_of_the_largest,
    flip_all,
    empty_all,
    delete_files,
    change_the_digest,
    lambda step_directory: shutil.rmtree(step_directory / "state"),
    lambda step_directory: shutil.rmtree(step_directory / "params"),
    lambda step_directory: shutil.rmtree(step_directory / "about"),
    lambda step_directory: (step_directory / "about" / "metadata").write_text("{"),
]
NAMES = [
    "truncated",
    "one byte",
    "all bytes",
    "emptied",
    "deleted",
    "digest",
    "no state",
    "no parameters",
    "no digest",
    "digest cut",
]


@pytest.mark.parametrize("damage", DAMAGES, ids=NAMES)
def test_the_checkpoint_before_a_damaged_one_is_used_and_that_is_said(damage, copy, caplog):
    damage(copy / "40")
    step, state = restore(copy)
    assert step == 30
    assert_identical(state, state_of(30))
    said = [record.getMessage() for record in caplog.records if "damaged" in record.getMessage()]
    assert len(said) == 1
    assert "step 40" in said[0]
    assert "\n" not in said[0]


def test_the_last_is_used_where_the_best_is_damaged(copy, caplog):
    truncate_all(copy / "20")
    assert restore(copy, "best")[0] == 40
    said = [record.getMessage() for record in caplog.records if "damaged" in record.getMessage()]
    assert len(said) == 1
    assert "step 20" in said[0]


def test_a_damaged_checkpoint_is_replaced_when_its_step_is_saved_again(copy):
    truncate_all(copy / "40")
    with Checkpoints(copy) as checkpoints:
        assert checkpoints.restore_last(state_of(0))[0] == 30
        checkpoints.save(40, state_of(40), {"loss": 2.5})
    step, state = restore(copy)
    assert step == 40
    assert_identical(state, state_of(40))


def names(directory) -> set[str]:
    return {path.name for path in directory.iterdir()}


def cut_the_manifest(step_directory):
    for path in step_directory.rglob("manifest.ocdbt"):
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def no_file(step_directory):
    shutil.rmtree(step_directory)
    (step_directory / "state").mkdir(parents=True)


@pytest.mark.parametrize("later", [cut_the_manifest, no_file])
def test_damaged_later_steps_are_set_aside_and_saving_goes_on(later, copy, caplog):
    shutil.copytree(copy / "40", copy / "999999")
    later(copy / "999999")
    with Checkpoints(copy) as checkpoints:
        assert checkpoints.restore_last(state_of(0))[0] == 40
        for step in (50, 60):
            checkpoints.save(step, state_of(step), {"loss": 2.0})
            checkpoints.wait()
            assert (copy / str(step) / "about" / "metadata").is_file()
    assert names(copy) == {"20", "50", "60", "999999.set-aside"}
    assert f"{copy / '999999'} is set aside as 999999.set-aside" in caplog.text
    assert_identical(restore(copy)[1], state_of(60))


def test_an_empty_step_alone_does_not_block(tmp_path):
    (tmp_path / "8").mkdir()
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.restore_last(state_of(0)) is None
        checkpoints.save(4, state_of(4), {"loss": 2.0})
    assert restore(tmp_path)[0] == 4


def test_what_is_set_aside_again_gets_a_name_of_its_own(copy):
    for _ in range(2):
        truncate_all(copy / "40")
        with Checkpoints(copy) as checkpoints:
            assert checkpoints.restore_last(state_of(0))[0] == 30
            checkpoints.save(40, state_of(40), {"loss": 2.5})
    assert names(copy) == {"20", "30", "40", "40.set-aside", "40.set-aside-2"}


def test_reading_alone_sets_nothing_aside(copy):
    truncate_all(copy / "40")
    (copy / "50").mkdir()
    assert restore(copy, read_only=True)[0] == 30
    assert names(copy) == {"20", "30", "40", "50"}


def test_a_save_that_does_not_happen_is_an_error(copy):
    with Checkpoints(copy) as checkpoints, pytest.raises(CheckpointError, match="there is one of a later step, 40"):
        checkpoints.save(35, state_of(35), {})


def test_a_save_that_is_not_on_disk_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr(ocp.CheckpointManager, "save", lambda self, step, args: True)
    with pytest.raises(CheckpointError, match="that of step 1 is missing"):
        save(tmp_path, {1: {"loss": 1.0}})


def test_a_copy_under_another_number_is_refused(copy, caplog):
    shutil.copytree(copy / "20", copy / "50")
    assert restore(copy)[0] == 40
    assert "the checkpoint of step 50 is damaged (it is that of step 20)" in caplog.text
    assert "50.set-aside" in names(copy)


def test_a_checkpoint_of_another_run_is_refused_and_never_the_best(copy, tmp_path, caplog):
    save(tmp_path / "other", {50: {"loss": 0.0}}, origin=Origin("another run", RUN.data))
    shutil.copytree(tmp_path / "other" / "50", copy / "50")
    assert restore(copy, "best", read_only=True)[0] == 20
    assert restore(copy)[0] == 40
    assert "the checkpoint of step 50 is damaged (it belongs to a run of another config)" in caplog.text


@pytest.mark.parametrize("change", [{"run": RUN.run}, {"step": 50}, {"metrics": {"loss": 0.0}}, {"data": "other"}])
def test_what_a_checkpoint_says_of_itself_is_within_its_digest(change, copy, caplog):
    other = Origin("another run", RUN.data) if "run" in change else RUN
    if change != {"step": 50}:
        shutil.rmtree(copy)
        save(copy, {20: {"loss": 1.0}}, origin=RUN)
        save(copy, {50: {"loss": 3.0}}, origin=other)
    else:
        shutil.copytree(copy / "40", copy / "50")
    path = copy / "50" / "about" / "metadata"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    assert restore(copy)[0] < 50
    assert "the checkpoint of step 50 is damaged (its content has changed since it was written)" in caplog.text


def test_going_on_with_other_data_is_refused_and_reading_with_it_is_said(four, caplog):
    other = Origin(RUN.run, "other data")
    with pytest.raises(DataError, match=r"the data differs from .* cannot resume from step 40"):
        restore(four, origin=other)
    assert restore(four, origin=other, read_only=True)[0] == 40
    assert "the data differs from what this run was trained on" in caplog.text


def test_where_the_model_does_not_fit_other_data_it_is_the_data_that_differs(four):
    with (
        Checkpoints(four, origin=Origin(RUN.run, "other data"), read_only=True) as checkpoints,
        pytest.raises(DataError, match=r"the data differs from .* the model does not fit it"),
    ):
        checkpoints.restore_last({**state_of(0), "params": {"w": jnp.zeros(3)}})


def test_a_file_in_place_of_the_directory_is_an_error(tmp_path):
    (tmp_path / "checkpoints").write_text("mine")
    with pytest.raises(CheckpointError, match="is not a directory"):
        restore(tmp_path / "checkpoints")


def test_where_all_are_damaged_that_is_an_error_and_nothing_is_touched(copy):
    for step in (20, 30, 40):
        truncate_all(copy / str(step))
    before = {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()}
    with pytest.raises(CheckpointError, match=r"no checkpoint in .*checkpoints can be read; choose another --workdir"):
        restore(copy)
    assert {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()} == before


def test_what_is_no_checkpoint_is_not_taken_for_one(copy):
    (copy / "50").mkdir()
    (copy / "notes.txt").write_text("mine")
    assert restore(copy)[0] == 40
    assert (copy / "notes.txt").read_text() == "mine"


def test_a_step_that_is_there_is_not_written_again(copy):
    with Checkpoints(copy) as checkpoints:
        checkpoints.save(40, state_of(41), {"loss": 0.0})
    assert_identical(restore(copy)[1], state_of(40))


def large_state(step: int):
    """A state that does not compress and takes 4 MB."""
    return {"params": {"w": jax.random.normal(jax.random.key(step), (1000, 1000))}}


def assert_refused_in_one_sentence(error, directory) -> None:
    message = str(error.value)
    assert "\n" not in message
    assert str(directory) in message
    assert "make room" in message


def test_a_checkpoint_that_cannot_be_written_is_an_error_and_those_before_are_whole(tmp_path):
    directory = tmp_path / "checkpoints"
    save(directory, {1: {"loss": 1.0}}, large_state)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    checkpoints = Checkpoints(directory)
    try:
        # Files above 1 MB cannot be written, as on a full disk.
        resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, limits[1]))
        with pytest.raises(CheckpointError) as error, checkpoints:
            checkpoints.save(2, large_state(2), {"loss": 0.5})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert_refused_in_one_sentence(error, directory)
    with Checkpoints(directory) as checkpoints:
        step, state = checkpoints.restore_last(large_state(0))
    assert step == 1
    assert_identical(state, large_state(1))


@pytest.fixture
def small_disk(tmp_path):
    path = tmp_path / "disk"
    path.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", str(path)]
    try:
        mounted = subprocess.run(mount, capture_output=True, check=False).returncode == 0
    except OSError:
        mounted = False
    if not mounted:
        pytest.skip("mounting a small disk takes root")
    yield path
    subprocess.run(["umount", "-l", str(path)], check=True)


def test_a_full_disk_is_an_error_and_those_before_are_whole(small_disk):
    save(small_disk / "checkpoints", {1: {"loss": 1.0}}, large_state)
    with pytest.raises(CheckpointError) as error:
        save(small_disk / "checkpoints", {2: {"loss": 0.5}}, large_state)
    assert_refused_in_one_sentence(error, small_disk / "checkpoints")
    with Checkpoints(small_disk / "checkpoints") as checkpoints:
        step, state = checkpoints.restore_last(large_state(0))
    assert step == 1
    assert_identical(state, large_state(1))


def test_a_checkpoint_of_another_structure_is_not_taken(four):
    with Checkpoints(four) as checkpoints, pytest.raises(CheckpointError):
        checkpoints.restore_last({"params": {"v": np.zeros(3)}})
