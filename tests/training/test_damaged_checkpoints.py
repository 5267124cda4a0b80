"""Checkpoints that are damaged, of another run or no checkpoints are told apart, said, and set aside."""

import json
import shutil

import jax.numpy as jnp
import pytest
from fixtures.checkpoints import RUN, Checkpoints, restore, save, state_of
from toytasks.runs import assert_identical

from rnnjax.errors import CheckpointError, DataError
from rnnjax.training.directory.checkpoint import Origin


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
def test_the_checkpoint_before_a_damaged_one_is_used_and_that_is_said(damage, copied_checkpoints, caplog):
    damage(copied_checkpoints / "40")
    step, state = restore(copied_checkpoints)
    assert step == 30
    assert_identical(state, state_of(30))
    said = [record.getMessage() for record in caplog.records if "damaged" in record.getMessage()]
    assert len(said) == 1
    assert "step 40" in said[0]
    assert "\n" not in said[0]


def test_the_last_is_used_where_the_best_is_damaged(copied_checkpoints, caplog):
    truncate_all(copied_checkpoints / "20")
    assert restore(copied_checkpoints, "best")[0] == 40
    said = [record.getMessage() for record in caplog.records if "damaged" in record.getMessage()]
    assert len(said) == 1
    assert "step 20" in said[0]


def test_a_damaged_checkpoint_is_replaced_when_its_step_is_saved_again(copied_checkpoints):
    truncate_all(copied_checkpoints / "40")
    with Checkpoints(copied_checkpoints) as checkpoints:
        assert checkpoints.restore_last(state_of(0))[0] == 30
        checkpoints.save(40, state_of(40), {"loss": 2.5})
    step, state = restore(copied_checkpoints)
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
def test_damaged_later_steps_are_set_aside_and_saving_goes_on(later, copied_checkpoints, caplog):
    shutil.copytree(copied_checkpoints / "40", copied_checkpoints / "999999")
    later(copied_checkpoints / "999999")
    with Checkpoints(copied_checkpoints) as checkpoints:
        assert checkpoints.restore_last(state_of(0))[0] == 40
        for step in (50, 60):
            checkpoints.save(step, state_of(step), {"loss": 2.0})
            checkpoints.wait()
            assert (copied_checkpoints / str(step) / "about" / "metadata").is_file()
    assert names(copied_checkpoints) == {"20", "50", "60", "999999.set-aside"}
    assert f"{copied_checkpoints / '999999'} is set aside as 999999.set-aside" in caplog.text
    assert_identical(restore(copied_checkpoints)[1], state_of(60))


def test_an_empty_step_alone_does_not_block(tmp_path):
    (tmp_path / "8").mkdir()
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.restore_last(state_of(0)) is None
        checkpoints.save(4, state_of(4), {"loss": 2.0})
    assert restore(tmp_path)[0] == 4


def test_what_is_set_aside_again_gets_a_name_of_its_own(copied_checkpoints):
    for _ in range(2):
        truncate_all(copied_checkpoints / "40")
        with Checkpoints(copied_checkpoints) as checkpoints:
            assert checkpoints.restore_last(state_of(0))[0] == 30
            checkpoints.save(40, state_of(40), {"loss": 2.5})
    assert names(copied_checkpoints) == {"20", "30", "40", "40.set-aside", "40.set-aside-2"}


def test_reading_alone_sets_nothing_aside(copied_checkpoints):
    truncate_all(copied_checkpoints / "40")
    (copied_checkpoints / "50").mkdir()
    assert restore(copied_checkpoints, read_only=True)[0] == 30
    assert names(copied_checkpoints) == {"20", "30", "40", "50"}


def test_a_copy_under_another_number_is_refused(copied_checkpoints, caplog):
    shutil.copytree(copied_checkpoints / "20", copied_checkpoints / "50")
    assert restore(copied_checkpoints)[0] == 40
    assert "the checkpoint of step 50 is damaged (it is that of step 20)" in caplog.text
    assert "50.set-aside" in names(copied_checkpoints)


def test_a_checkpoint_of_another_run_is_refused_and_never_the_best(copied_checkpoints, tmp_path, caplog):
    save(tmp_path / "other", {50: {"loss": 0.0}}, origin=Origin("another run", RUN.data))
    shutil.copytree(tmp_path / "other" / "50", copied_checkpoints / "50")
    assert restore(copied_checkpoints, "best", read_only=True)[0] == 20
    assert restore(copied_checkpoints)[0] == 40
    assert "the checkpoint of step 50 is damaged (it belongs to a run of another config)" in caplog.text


@pytest.mark.parametrize("change", [{"run": RUN.run}, {"step": 50}, {"metrics": {"loss": 0.0}}, {"data": "other"}])
def test_what_a_checkpoint_says_of_itself_is_within_its_digest(change, copied_checkpoints, caplog):
    other = Origin("another run", RUN.data) if "run" in change else RUN
    if change != {"step": 50}:
        shutil.rmtree(copied_checkpoints)
        save(copied_checkpoints, {20: {"loss": 1.0}}, origin=RUN)
        save(copied_checkpoints, {50: {"loss": 3.0}}, origin=other)
    else:
        shutil.copytree(copied_checkpoints / "40", copied_checkpoints / "50")
    path = copied_checkpoints / "50" / "about" / "metadata"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    assert restore(copied_checkpoints)[0] < 50
    assert "the checkpoint of step 50 is damaged (its content has changed since it was written)" in caplog.text


def test_going_on_with_other_data_is_refused_and_reading_with_it_is_said(four_checkpoints, caplog):
    other = Origin(RUN.run, "other data")
    with pytest.raises(DataError, match=r"the data differs from .* cannot resume from step 40"):
        restore(four_checkpoints, origin=other)
    assert restore(four_checkpoints, origin=other, read_only=True)[0] == 40
    assert "the data differs from what this run was trained on" in caplog.text


def test_where_the_model_does_not_fit_other_data_it_is_the_data_that_differs(four_checkpoints):
    with (
        Checkpoints(four_checkpoints, origin=Origin(RUN.run, "other data"), read_only=True) as checkpoints,
        pytest.raises(DataError, match=r"the data differs from .* the model does not fit it"),
    ):
        checkpoints.restore_last({**state_of(0), "params": {"w": jnp.zeros(3)}})


def test_where_all_are_damaged_that_is_an_error_and_nothing_is_touched(copied_checkpoints):
    for step in (20, 30, 40):
        truncate_all(copied_checkpoints / str(step))
    before = {path: path.read_bytes() for path in copied_checkpoints.rglob("*") if path.is_file()}
    with pytest.raises(CheckpointError, match=r"no checkpoint in .*checkpoints can be read; choose another --workdir"):
        restore(copied_checkpoints)
    assert {path: path.read_bytes() for path in copied_checkpoints.rglob("*") if path.is_file()} == before


def test_what_is_no_checkpoint_is_not_taken_for_one(copied_checkpoints):
    (copied_checkpoints / "50").mkdir()
    (copied_checkpoints / "notes.txt").write_text("mine")
    assert restore(copied_checkpoints)[0] == 40
    assert (copied_checkpoints / "notes.txt").read_text() == "mine"
