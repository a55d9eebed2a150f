import errno
import json
import os
import random
import re
import signal
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from helpers.checkpoints import KINDS, best_at, checkpoint_at, content_at, damage, store_at
from imgnet_mini.checkpoint.load import read_run, read_weights
from imgnet_mini.checkpoint.manifest import Manifest
from imgnet_mini.checkpoint.reader import file_sha256
from imgnet_mini.checkpoint.store import (
    CheckpointStore,
    SaveCancelledError,
    _HashingWriter,
    tensor_bytes,
)
from imgnet_mini.errors import CheckpointError, WriteError
from imgnet_mini.runs.paths import RunPaths
from imgnet_mini.utils.signals import ImmediateStopError, StopRequest


@pytest.fixture
def paths(tmp_path):
    return RunPaths(tmp_path, "a")


def reopened(paths, keep=2):
    return CheckpointStore(paths, keep=keep)


def step_of(taken):
    return taken.checkpoint.state.step


def names(paths):
    return {path.name for path in paths.checkpoint_dir.iterdir()}


def test_the_newest_state_is_taken_up_and_nothing_need_be_said(paths):
    store_at(paths.output_dir, 10, 20)
    taken = reopened(paths).load_latest()
    assert (step_of(taken), taken.path, taken.notes) == (20, paths.checkpoint, [])
    assert torch.equal(taken.checkpoint.model["weight"], content_at(20)["model"]["weight"])


def test_what_is_saved_loads_with_plain_torch(paths):
    store_at(paths.output_dir, 10).save_best(best_at(10), step=10)
    for path in (paths.checkpoint, paths.best):
        assert "weight" in torch.load(path, weights_only=True)["model"]


@pytest.mark.parametrize(
    ("keep", "kept"), [(1, []), (2, [30]), (5, [0, 10, 20, 30]), (0, [0, 10, 20, 30])]
)
def test_so_many_states_are_kept_and_the_best_always(paths, keep, kept):
    store = store_at(paths.output_dir, 0, keep=keep)
    store.save_best(best_at(0), step=0)
    store_at_again = store_at(paths.output_dir, keep=keep)
    store_at_again.load_latest()
    for step in (10, 20, 30, 40):
        store_at_again.save(checkpoint_at(step))
        os.utime(paths.checkpoint, ns=(step, step))
    earlier = {f"checkpoint-{step}.pth" for step in kept}
    assert names(paths) == earlier | {"checkpoint.pth", "best.pth", "manifest.json"}
    assert step_of(reopened(paths).load_latest()) == 40


@pytest.mark.parametrize("kind", KINDS)
def test_a_damaged_checkpoint_is_noticed_and_the_one_before_is_used(paths, kind):
    generator = random.Random(kind)
    for _ in range(4):
        store_at(paths.output_dir, 10, 20)
        damage(paths.checkpoint, kind, generator)
        damaged = paths.checkpoint.read_bytes()
        taken = reopened(paths).load_latest()
        assert (step_of(taken), taken.path) == (10, paths.checkpoint_at(10))
        (note,) = taken.notes
        assert re.search(r"checkpoint\.pth is damaged: its SHA-256 .* Using step 10", note)
        assert paths.damaged.read_bytes() == damaged
        for path in paths.checkpoint_files():
            path.unlink(missing_ok=True)


@pytest.mark.parametrize("kind", KINDS)
def test_a_damaged_file_that_is_asked_for_by_name_is_refused(paths, kind):
    store = store_at(paths.output_dir, 10, 20)
    store.save_best(best_at(20), step=20)
    for path in (paths.checkpoint, paths.checkpoint_at(10)):
        damage(path, kind, random.Random(kind))
        with pytest.raises(CheckpointError, match=f"{path.name} is damaged"):
            reopened(paths).load_file(path)
    damage(paths.best, kind, random.Random(kind))
    with pytest.raises(CheckpointError, match=r"best\.pth is damaged"):
        read_weights(paths.best)
    assert not store.has_best()


def test_two_states_that_were_swapped_are_noticed(paths):
    store_at(paths.output_dir, 10, 11)
    newest, earlier = paths.checkpoint.read_bytes(), paths.checkpoint_at(10).read_bytes()
    paths.checkpoint.unlink()  # they may be links of one file
    paths.checkpoint_at(10).unlink()
    paths.checkpoint.write_bytes(earlier)
    paths.checkpoint_at(10).write_bytes(newest)
    taken = reopened(paths).load_latest()
    assert step_of(taken) == 10
    assert taken.notes == ["the save of step 11 is not in its place; using step 10"]
    with pytest.raises(CheckpointError, match="holds step 11, and not what its name says"):
        reopened(paths).load_file(paths.checkpoint_at(10))


def test_the_best_weights_in_place_of_the_state_are_noticed(paths):
    store_at(paths.output_dir, 10, 20).save_best(best_at(20), step=20)
    paths.checkpoint.write_bytes(paths.best.read_bytes())
    taken = reopened(paths).load_latest()
    assert step_of(taken) == 10
    assert "weights of the best epoch only" in taken.notes[0]


def test_a_checkpoint_of_another_run_is_noticed(paths, tmp_path):
    store_at(paths.output_dir, 10, 20)
    store_at(tmp_path / "other", 15)
    paths.checkpoint.write_bytes(RunPaths(tmp_path / "other", "a").checkpoint.read_bytes())
    assert step_of(reopened(paths).load_latest()) == 10


def test_where_none_is_whole_each_is_named_with_what_is_wrong(paths):
    store_at(paths.output_dir, 10, 20, 30, keep=3)
    everything = {path: path.stat().st_ino for path in paths.earlier_checkpoints()}
    for path in (paths.checkpoint, *everything):
        damage(path, "flip", random.Random(0))
    with pytest.raises(CheckpointError) as error:
        reopened(paths, 3).load_latest()
    for name in ("checkpoint.pth", "checkpoint-20.pth", "checkpoint-10.pth"):
        assert f"{name} is damaged" in str(error.value)
    assert paths.checkpoint.exists()


def test_after_a_fallback_the_run_goes_on_and_is_whole_again(paths):
    store_at(paths.output_dir, 10, 20)
    damage(paths.checkpoint, "zero", random.Random(0))
    store = reopened(paths)
    store.load_latest()
    store.save(checkpoint_at(20))
    taken = reopened(paths).load_latest()
    assert (step_of(taken), taken.notes) == (20, [])


def test_a_backup_that_was_put_back_is_known(paths):
    store = store_at(paths.output_dir, 10)
    backup = paths.checkpoint.read_bytes()
    for step in (20, 30, 40):
        store.save(checkpoint_at(step))
    paths.checkpoint.unlink()
    paths.checkpoint.write_bytes(backup)
    taken = reopened(paths).load_latest()
    assert step_of(taken) == 10
    assert taken.notes == ["the save of step 40 is not in its place; using step 10"]


def test_without_a_manifest_the_checksums_inside_have_to_do(paths):
    store = store_at(paths.output_dir, 10)
    store.save_best(best_at(20), step=20)
    store.save(checkpoint_at(20, best_epoch=1))
    paths.manifest.unlink()
    store = reopened(paths)
    taken = store.load_latest()
    assert (step_of(taken), taken.notes) == (20, [])
    assert store.has_best()
    assert len(json.loads(paths.manifest.read_text())["saved"]) == 3
    paths.manifest.unlink()
    data = bytearray(paths.checkpoint.read_bytes())
    data[len(data) // 2] ^= 1
    paths.checkpoint.write_bytes(data)
    assert step_of(reopened(paths).load_latest()) == 10


@pytest.mark.parametrize("epoch", [None, torch.ones(3)], ids=["none", "tensor"])
def test_best_weights_of_another_tool_enter_a_manifest_that_is_made_anew(paths, epoch):
    store_at(paths.output_dir, 10)
    paths.manifest.unlink()
    weights = {"epoch": epoch} if epoch is not None else best_at(10).to_dict() | {"epoch": None}
    torch.save(weights, paths.best)
    assert step_of(reopened(paths).load_latest()) == 10


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"format": 2}', '{"format": 1, "saved": [{"sha256": "x"}]}', "\0"]
)
def test_a_damaged_manifest_is_said_and_made_anew(paths, text):
    store_at(paths.output_dir, 10, 20)
    paths.manifest.write_text(text)
    taken = reopened(paths).load_latest()
    assert step_of(taken) == 20
    assert "manifest.json is damaged" in taken.notes[0]
    assert reopened(paths).load_latest().notes == []


def test_a_bit_of_the_manifest_costs_a_state_at_most(paths):
    store_at(paths.output_dir, 10, 20)
    whole = paths.manifest.read_bytes()
    checkpoint = paths.checkpoint.read_bytes()
    for place in range(0, len(whole), 7):
        flipped = bytearray(whole)
        flipped[place] ^= 1
        paths.manifest.write_bytes(flipped)
        assert step_of(reopened(paths).load_latest()) in (10, 20)
        paths.damaged.unlink(missing_ok=True)
        paths.checkpoint.write_bytes(checkpoint)


def test_a_link_that_cannot_be_made_is_a_renaming(paths, monkeypatch):
    def no_links(*_args, **_settings):
        raise OSError(errno.EPERM, "no links here")

    monkeypatch.setattr(os, "link", no_links)
    store_at(paths.output_dir, 10, 20)
    assert step_of(reopened(paths).load_latest()) == 20
    assert read_run(paths.checkpoint_at(10)).state.step == 10


def test_an_old_file_that_cannot_be_removed_does_not_end_the_run(paths, monkeypatch):
    store = store_at(paths.output_dir, 10, 20)
    unlink = os.unlink

    def stuck(path, *args, **settings):
        if "checkpoint-10" in str(path):
            raise OSError(errno.EACCES, "stuck")
        unlink(path, *args, **settings)

    monkeypatch.setattr(os, "unlink", stuck)
    store.save(checkpoint_at(30))
    assert step_of(reopened(paths).load_latest()) == 30


def test_a_full_disk_says_what_was_needed_and_keeps_what_was_there(paths, monkeypatch):
    store = store_at(paths.output_dir, 10)
    before = {path: path.read_bytes() for path in paths.checkpoint_dir.iterdir()}

    def full(*_args):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(WriteError, match=r"checkpoint\.pth: No space .* needed, .* free in "):
        store.save(checkpoint_at(20))
    assert {path: path.read_bytes() for path in paths.checkpoint_dir.iterdir()} == before
    assert store.newest.step == 10


def test_a_second_ctrl_c_inside_a_write_ends_it_at_once_and_keeps_what_was_there(
    paths, monkeypatch
):
    store = store_at(paths.output_dir, 10)
    before = {path: path.read_bytes() for path in paths.checkpoint_dir.iterdir()}
    write, writes = _HashingWriter.write, iter(range(1000))

    def signalled(self, data):
        if next(writes) == 1:
            signal.raise_signal(signal.SIGINT)
        return write(self, data)

    monkeypatch.setattr(_HashingWriter, "write", signalled)
    with StopRequest() as stop:
        signal.raise_signal(signal.SIGINT)
        stop._received_at -= 60
        with pytest.raises(ImmediateStopError, match="SIGINT"):
            store.save(checkpoint_at(20))
    assert {path: path.read_bytes() for path in paths.checkpoint_dir.iterdir()} == before


def test_a_save_in_another_thread_is_cancelled_at_its_next_write_and_keeps_what_was_there(
    paths, monkeypatch
):
    store = store_at(paths.output_dir, 10)
    before = {path: path.read_bytes() for path in paths.checkpoint_dir.iterdir()}
    write, writing, go = _HashingWriter.write, threading.Event(), threading.Event()

    def waiting(self, data):
        writing.set()
        assert go.wait(30)
        return write(self, data)

    monkeypatch.setattr(_HashingWriter, "write", waiting)
    with ThreadPoolExecutor(1) as pool:
        saving = pool.submit(store.save, checkpoint_at(20))
        assert writing.wait(30)
        store.cancel()
        go.set()
        assert isinstance(saving.exception(), SaveCancelledError)
    assert {path: path.read_bytes() for path in paths.checkpoint_dir.iterdir()} == before


def test_the_best_weights_of_another_state_are_not_taken_for_its_own(paths):
    store = store_at(paths.output_dir, 10)
    store.save_best(best_at(20), step=20)
    store.save(checkpoint_at(20, best_epoch=1))
    store.save_best(best_at(30), step=30)
    store.save(checkpoint_at(30, best_epoch=2))
    for path, has_best in ((paths.checkpoint, True), (paths.checkpoint_at(20), False)):
        store = reopened(paths)
        store.load_file(path)
        assert store.has_best() == has_best


def test_weights_that_are_replaced_while_they_are_read_are_whole(paths, monkeypatch):
    """A run saves between the look at the file and the look at the list, and before the loading."""
    store = store_at(paths.output_dir, 10)
    store.save_best(best_at(10), step=10)
    read = Manifest.read

    def saving_meanwhile(path):
        store.save_best(best_at(20), step=20)
        manifest = read(path)
        store.save_best(best_at(30), step=30)
        return manifest

    digest = file_sha256(paths.best)
    monkeypatch.setattr(Manifest, "read", saving_meanwhile)
    weights = read_weights(paths.best)
    assert weights.weights.epoch == 1
    assert weights.sha256 == digest != file_sha256(paths.best)


def test_a_copy_that_has_mixed_up_the_times_changes_no_order(paths):
    store_at(paths.output_dir, 0, 10, 20, 30, 40, keep=0)
    for path in paths.earlier_checkpoints():
        os.utime(path, (1, 1) if path.name == "checkpoint-30.pth" else (9, 9))
    paths.checkpoint.unlink()
    store = reopened(paths, keep=3)
    assert step_of(store.load_latest()) == 30
    store.save(checkpoint_at(40))
    assert names(paths) >= {"checkpoint-30.pth", "checkpoint-20.pth", "checkpoint.pth"}
    assert len(names(paths)) == 4


def test_the_size_of_a_content_is_that_of_its_tensors(paths):
    checkpoint = checkpoint_at(10, size=100_000)
    store_at(paths.output_dir).save(checkpoint)
    assert tensor_bytes(checkpoint.to_dict()) == pytest.approx(
        paths.checkpoint.stat().st_size, rel=0.02
    )
