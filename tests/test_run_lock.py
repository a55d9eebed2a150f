import json
import os
import re
import signal
import time

import pytest

from helpers.real_runs import FORKED
from imgnet_mini.errors import InUseError, WriteError
from imgnet_mini.runs.lock import lock_run


def hold(path, taken, seconds):
    with lock_run("a", path):
        taken.set()
        time.sleep(seconds)


def try_to_hold(path, outcomes, start, over):
    start.wait()
    try:
        with lock_run("a", path):
            outcomes.put("held")
            over.wait(60)
    except InUseError:
        outcomes.put("refused")


@pytest.fixture
def holder(tmp_path):
    """Another process that holds the lock."""
    taken = FORKED.Event()
    process = FORKED.Process(target=hold, args=(tmp_path / ".lock", taken, 60))
    process.start()
    assert taken.wait(60)
    yield process
    process.kill()
    process.join()


def test_a_second_process_is_refused_with_the_owner_and_the_time(tmp_path, holder):
    with pytest.raises(InUseError) as error, lock_run("a", tmp_path / ".lock"):
        pass
    since = r"since \d{4}-\d\d-\d\dT\d\d:\d\d:\d\d"
    assert re.search(
        rf"the run a is in use by process {holder.pid} on .+ {since}", str(error.value)
    )
    assert error.value.exit_code == 3


def test_a_killed_owner_releases_the_lock(tmp_path, holder):
    os.kill(holder.pid, signal.SIGKILL)
    holder.join()
    began = time.monotonic()
    with lock_run("a", tmp_path / ".lock"):
        assert time.monotonic() - began < 5
        owner = json.loads((tmp_path / ".lock.json").read_text("utf-8"))
        assert owner["pid"] == os.getpid()


def test_children_that_outlive_their_parent_do_not_keep_its_lock(tmp_path):
    parent = FORKED.Process(target=hold_with_a_child, args=(tmp_path / ".lock", tmp_path / "child"))
    parent.start()
    child = tmp_path / "child"
    while not (child.exists() and child.read_text()):
        time.sleep(0.01)
    os.kill(parent.pid, signal.SIGKILL)
    parent.join()
    try:
        with lock_run("a", tmp_path / ".lock"):
            os.kill(int(child.read_text()), 0)  # it is still there
    finally:
        os.kill(int(child.read_text()), signal.SIGKILL)


def hold_with_a_child(path, note):
    with lock_run("a", path):
        child = os.fork()
        if child == 0:
            time.sleep(60)
            os._exit(0)
        note.write_text(str(child))
        time.sleep(60)


def test_one_of_several_simultaneous_processes_gets_the_lock(tmp_path):
    outcomes, start, over = FORKED.Queue(), FORKED.Event(), FORKED.Event()
    processes = [
        FORKED.Process(target=try_to_hold, args=(tmp_path / ".lock", outcomes, start, over))
        for _ in range(6)
    ]
    for process in processes:
        process.start()
    time.sleep(0.5)
    start.set()
    found = sorted(outcomes.get(timeout=60) for _ in processes)
    over.set()
    for process in processes:
        process.join()
    assert found == ["held"] + 5 * ["refused"]


def test_the_lock_is_released_after_the_block(tmp_path):
    for _ in range(2):
        with lock_run("a", tmp_path / ".lock"):
            pass
    assert [path.name for path in tmp_path.iterdir()] == [".lock"]


def test_a_folder_that_cannot_be_made_is_a_write_error(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(WriteError, match="cannot write"), lock_run("a", tmp_path / "file/.lock"):
        pass


def test_an_owner_without_its_note_is_called_another_process(tmp_path, holder):
    (tmp_path / ".lock.json").unlink()
    with (
        pytest.raises(InUseError, match="the run a is in use by another process"),
        lock_run("a", tmp_path / ".lock"),
    ):
        pass


@pytest.mark.skipif(os.name != "posix", reason="Windows has no such flag")
def test_an_existing_symlink_is_not_followed(tmp_path):
    (tmp_path / ".lock").symlink_to(tmp_path / "elsewhere")
    with (
        pytest.raises(WriteError, match=r"cannot write .*\.lock"),
        lock_run("a", tmp_path / ".lock"),
    ):
        pass
    assert not (tmp_path / "elsewhere").exists()
