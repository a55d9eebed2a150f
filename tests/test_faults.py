"""A save that dies or fails at any call leaves the state before or the one after it."""

import shutil
from contextlib import suppress

import pytest

from helpers.checkpoints import checkpoint_at, content_at, store_at
from helpers.faults import DiedError, calls_of_a_save, failing_at, full_disk, traced
from helpers.outcomes import differences
from imgnet_mini.checkpoint.store import CheckpointStore
from imgnet_mini.errors import WriteError
from imgnet_mini.runs.paths import RunPaths
from imgnet_mini.utils.atomic_file import TEMPORARY_SUFFIX, remove_temporary_files


def taken_up(folder, *, keep=2):
    paths = RunPaths(folder, "a")
    remove_temporary_files(paths.checkpoint_dir)
    return CheckpointStore(paths, keep=keep).load_latest()


@pytest.mark.parametrize("keep", [1, 2, 3, 0])
def test_a_process_that_dies_at_any_call_leaves_the_old_state_or_the_new_one(tmp_path, keep):
    calls = calls_of_a_save(tmp_path / "count")
    assert calls > 15
    found = set()
    for number in range(1, calls + 1):
        store = store_at(tmp_path / "run", 10, 20, keep=keep)
        with suppress(DiedError), failing_at(number, DiedError()):
            store.save(checkpoint_at(30))
        taken = taken_up(tmp_path / "run", keep=keep)
        found.add(taken.checkpoint.state.step)
        wanted = content_at(taken.checkpoint.state.step)
        assert not differences(plain(taken.checkpoint.model), plain(wanted["model"]))
        shutil.rmtree(tmp_path / "run")
    assert found == {20, 30}


def plain(weights):
    return {name: tensor.tolist() for name, tensor in weights.items()}


@pytest.mark.parametrize("once", [True, False], ids=["once", "from-then-on"])
def test_an_error_at_any_call_is_reported_and_leaves_no_rest(tmp_path, once):
    for number in range(1, calls_of_a_save(tmp_path / "count") + 1):
        folder = tmp_path / "run"
        store = store_at(folder, 10, 20)
        saved = False
        with failing_at(number, full_disk(), once=once), suppress(WriteError):
            store.save(checkpoint_at(30))
            saved = True
        rests = list((folder / "checkpoints/a").glob(f"*{TEMPORARY_SUFFIX}"))
        assert not rests or not once, number
        step = taken_up(folder).checkpoint.state.step
        assert step == 30 if saved else step in (20, 30)
        shutil.rmtree(folder)


@pytest.mark.skipif(shutil.which("strace") is None, reason="there is no strace")
def test_the_order_in_which_a_save_reaches_the_disk(tmp_path):
    code, calls = traced(tmp_path / "run")
    assert code == 0
    order = [call for call in calls if call in ("fsync", "rename", "link", "unlink")]
    # the checkpoint; the manifest; a second name for the old state; the new name; rotation
    manifest = ["fsync", "rename", "fsync"]
    assert order == ["fsync", *manifest, "unlink", "link", "rename", "fsync", "unlink"]
