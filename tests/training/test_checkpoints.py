"""Checkpoints that are whole: which are kept, what comes back, and what cannot be written."""

import resource
import subprocess

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
from fixtures.checkpoints import Checkpoints, restore, save, state_of, steps
from toytasks.runs import assert_identical

from rnnjax.errors import CheckpointError


def test_the_last_two_and_the_best_are_kept(four_checkpoints):
    assert steps(four_checkpoints) == [40, 30, 20]


def test_a_state_comes_back_bit_by_bit(four_checkpoints):
    step, state = restore(four_checkpoints)
    assert step == 40
    assert_identical(state, state_of(40))


def test_parameters_are_read_without_the_rest_even_where_that_is_damaged(copied_checkpoints):
    for path in (copied_checkpoints / "40" / "state").rglob("*"):
        if path.is_file():
            path.write_bytes(b"")
    with Checkpoints(copied_checkpoints, read_only=True) as checkpoints:
        step, items = checkpoints.restore_last({"params": state_of(0)["params"]})
    assert step == 40
    assert_identical(items, {"params": state_of(40)["params"]})


def test_the_best_is_that_of_the_lowest_loss(four_checkpoints):
    step, state = restore(four_checkpoints, "best")
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


def test_a_state_is_restored_onto_the_devices_that_are_asked_for(four_checkpoints):
    mesh = jax.make_mesh((2,), ("batch",), axis_types=(jax.sharding.AxisType.Auto,))
    split = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("batch"))
    like = state_of(0)
    like["params"]["w"] = jax.device_put(like["params"]["w"], split)
    with Checkpoints(four_checkpoints) as checkpoints:
        _, state = checkpoints.restore_last(like)
    assert state["params"]["w"].sharding.is_equivalent_to(split, 1)
    assert_identical(state, state_of(40))


def test_a_save_that_does_not_happen_is_an_error(copied_checkpoints):
    with (
        Checkpoints(copied_checkpoints) as checkpoints,
        pytest.raises(CheckpointError, match="there is one of a later step, 40"),
    ):
        checkpoints.save(35, state_of(35), {})


def test_a_save_that_is_not_on_disk_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr(ocp.CheckpointManager, "save", lambda self, step, args: True)
    with pytest.raises(CheckpointError, match="that of step 1 is missing"):
        save(tmp_path, {1: {"loss": 1.0}})


def test_a_file_in_place_of_the_directory_is_an_error(tmp_path):
    (tmp_path / "checkpoints").write_text("mine")
    with pytest.raises(CheckpointError, match="is not a directory"):
        restore(tmp_path / "checkpoints")


def test_a_step_that_is_there_is_not_written_again(copied_checkpoints):
    with Checkpoints(copied_checkpoints) as checkpoints:
        checkpoints.save(40, state_of(41), {"loss": 0.0})
    assert_identical(restore(copied_checkpoints)[1], state_of(40))


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


def test_a_checkpoint_of_another_structure_is_not_taken(four_checkpoints):
    with Checkpoints(four_checkpoints) as checkpoints, pytest.raises(CheckpointError):
        checkpoints.restore_last({"params": {"v": np.zeros(3)}})
