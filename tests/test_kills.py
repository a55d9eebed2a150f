"""Real processes, killed and stopped for real."""

import os
import random
import signal
import time
from pathlib import Path

import pytest

from conftest import write_folder
from helpers.outcomes import differences, outcome
from helpers.real_runs import RealRun, kill_until_done, run

pytestmark = pytest.mark.skipif(os.name != "posix", reason="Windows has no such signals")

KILLS = 12
"""The soak makes a hundred."""


def options(data, *more):
    return (
        *("--data-root", data, "--arch", "shufflenet_v2_x0_5", "--img-size", 32, "--name", "a"),
        *("--batch-size", 6, "--workers", 0, "--epochs", 3, "--max-lr", 0.02, *more),
    )


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return write_folder(tmp_path_factory.mktemp("images") / "data", train=8, val=3, classes=3)


@pytest.fixture(scope="module")
def whole(images, tmp_path_factory):
    """What a run leaves that nothing has stopped, and how long it takes."""
    assert run(tmp_path_factory.mktemp("first"), "--version") == 0  # the server has to start
    folder = tmp_path_factory.mktemp("whole")
    began = time.monotonic()
    assert run(folder, "train", *options(images)) == 0
    return outcome(folder, "a"), time.monotonic() - began


def test_killed_at_random_moments_and_resumed_it_is_the_run_that_was_never_killed(
    images, whole, tmp_path
):
    reference, seconds = whole
    generator = random.Random(0)
    kills = trial = 0
    while kills < KILLS:
        trial += 1
        folder = tmp_path / str(trial)
        command = ("train", "--resume", *options(images))
        tally = kill_until_done(folder, command, generator, seconds, most=KILLS - kills)
        kills += tally.kills
        assert differences(outcome(folder, "a"), reference) == []
        assert not list((folder / "checkpoints/a").glob("*.tmp"))


@pytest.mark.parametrize("place", ["first step", "middle", "validation", "next epoch", "last"])
def test_sigterm_at_a_step_saves_and_the_rest_is_the_same_run(images, whole, tmp_path, place):
    looks = {"first step": 1, "middle": 3, "validation": 5, "next epoch": 7, "last": 18}[place]
    assert run(tmp_path, "train", *options(images), signal_at=looks) == 143
    assert run(tmp_path, "resume", "--name", "a", "--workers", looks % 3) == 0
    assert differences(outcome(tmp_path, "a"), whole[0]) == []
    text = (tmp_path / "terminal.log").read_text("utf-8")
    assert "stopped by SIGTERM and saved: step" in text
    assert "Traceback" not in text


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("group", [False, True], ids=["process", "group"])
@pytest.mark.parametrize("workers", [0, 2])
def test_a_signal_in_training_saves_soon_and_leaves_nobody(
    images, tmp_path, number, group, workers
):
    command = ["train", *options(images, "--epochs", 500, "--workers", workers)]
    real = RealRun(tmp_path, command)
    real.wait_for(lambda: real.checks > 8)
    began = time.monotonic()
    real.send(number, group=group)
    assert real.wait() == 128 + number
    assert time.monotonic() - began < 10
    assert real.processes_left(seconds=8) == []
    text = real.log.read_text("utf-8")
    assert "imgnet-mini resume --name a" in text
    assert "Traceback" not in text


@pytest.mark.parametrize(
    ("command", "says"),
    [
        (["find-lr", "--num-iter", 5000, "--end-lr", 1e-6], "nothing was written"),
        (["prepare"], "run the same command to continue"),
        (["evaluate"], "nothing was written"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_a_signal_ends_the_other_commands_with_a_line(images, tmp_path, command, says):
    if command == ["evaluate"]:
        assert run(tmp_path, "train", *options(images)) == 0
        command = ["evaluate", "--name", "a"]
    elif command == ["prepare"]:
        command = ["prepare", "--data-root", images, "--pack-dir", tmp_path / "pack"]
    else:
        command = [*command, *options(images)[:-4]]
    real = RealRun(tmp_path, command, signal_at=1)
    assert real.wait() == 143
    assert says in " ".join(real.log.read_text("utf-8").replace("│", " ").split())


def test_a_signal_before_training_ends_it_with_a_line(images, tmp_path):
    real = RealRun(tmp_path, ["train", *options(images)])
    real.wait_for(lambda: real.is_in_command)
    real.send(signal.SIGTERM)
    assert real.wait() == 143
    assert "stopped immediately by SIGTERM" in real.log.read_text("utf-8")


def test_a_second_ctrl_c_ends_it_at_once_without_damage(images, whole, tmp_path):
    real = RealRun(tmp_path, ["train", *options(images)], slow_saves=15.0)
    real.wait_for(lambda: real.checks > 2)
    real.send(signal.SIGINT)
    real.wait_for(lambda: real.is_saving)
    time.sleep(0.7)  # beyond what counts as an echo
    began = time.monotonic()
    real.send(signal.SIGINT)
    assert real.wait() == 130
    assert time.monotonic() - began < 10
    assert "stopped immediately by SIGINT" in real.log.read_text("utf-8")
    assert run(tmp_path, "resume", "--name", "a") == 0
    assert differences(outcome(tmp_path, "a"), whole[0]) == []


def test_after_sigkill_no_worker_lives_on_and_the_run_is_free_at_once(images, whole, tmp_path):
    real = RealRun(tmp_path, ["train", *options(images, "--workers", 2)])
    real.wait_for(lambda: real.checks > 2)
    os.kill(real.process.pid, signal.SIGKILL)
    real.process.join()
    assert run(tmp_path, "resume", "--name", "a") == 0
    assert real.processes_left(seconds=8) == []
    assert differences(outcome(tmp_path, "a"), whole[0]) == []


def test_a_worker_that_the_system_kills_ends_the_run_with_advice(images, tmp_path):
    real = RealRun(tmp_path, ["train", *options(images, "--workers", 2, "--epochs", 500)])
    real.wait_for(lambda: real.checks > 8)
    (worker, *_) = [pid for pid in real.processes_left(seconds=0) if pid != real.process.pid]
    os.kill(worker, signal.SIGKILL)
    assert real.wait() == 5
    text = " ".join(real.log.read_text("utf-8").replace("│", " ").split())
    for words in ("a worker process was killed", "fewer --workers", "Safe: step"):
        assert words in text
    assert "imgnet-mini resume --name a" in text
    assert "Traceback" not in text
    assert real.processes_left(seconds=8) == []


def test_killed_before_its_first_epoch_ends_a_run_can_be_resumed(images, whole, tmp_path):
    real = RealRun(tmp_path, ["train", *options(images)])
    real.wait_for(lambda: real.checks > 1)
    os.kill(real.process.pid, signal.SIGKILL)
    real.process.join()
    assert run(tmp_path, "resume", "--name", "a") == 0
    assert differences(outcome(tmp_path, "a"), whole[0]) == []


def test_of_two_that_start_the_same_run_at_once_one_is_refused(images, tmp_path):
    both = [RealRun(tmp_path, ["train", *options(images)]) for _ in range(2)]
    codes = sorted(real.wait() for real in both)
    assert codes in ([0, 2], [0, 3])
    assert Path(tmp_path, "checkpoints/a/checkpoint.pth").exists()
