"""Under torchrun itself: killed ranks, restarts, several nodes, signals."""

import os
import signal
import time

import pytest
import torch

from conftest import write_folder
from helpers.outcomes import differences, outcome
from helpers.processes import are_gone
from helpers.rank_runs import Torchrun, free_port, run_ranks

pytestmark = [
    pytest.mark.skipif(os.name != "posix", reason="Windows has no such signals"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]

TWO = ("--standalone", "--nproc-per-node", 2)


def options(data, *more):
    return (
        *("--data-root", data, "--arch", "shufflenet_v2_x0_5", "--img-size", 32, "--name", "a"),
        *("--batch-size", 12, "--workers", 0, "--max-lr", 0.001, "--no-amp", *more),
    )


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return write_folder(tmp_path_factory.mktemp("images") / "data", train=8, val=3, classes=3)


@pytest.fixture
def started(tmp_path):
    """`started(launch, *args)` starts torchrun; all its processes end with the test."""
    running = []

    def start(launch, *args, folder=tmp_path):
        running.append(Torchrun(folder, launch, args))
        return running[-1]

    yield start
    for one in running:
        one.end()


def test_a_killed_rank_ends_the_others_with_advice_to_resume(images, started):
    job = started(TWO, "train", *options(images, "--epochs", 2000, "--workers", 1))
    job.wait_for_text("[Val] Epoch 001")
    ranks = job.rank_pids()
    os.kill(ranks[1], signal.SIGKILL)
    began = time.monotonic()
    assert job.wait(60) != 0
    assert are_gone(ranks, seconds=5)
    assert time.monotonic() - began < 15
    ours = job.text.partition("torch/distributed/elastic")[0]
    assert ours.count("Error ─") <= 1
    assert "another rank exited unexpectedly" in job.text or "143" in job.text
    assert "imgnet_mini/" not in job.text  # no traceback of ours


def test_with_max_restarts_a_killed_job_gives_the_same_run(images, started, tmp_path):
    command = options(images, "--epochs", 12)
    whole = tmp_path / "whole"
    assert run_ranks(whole, 2, "train", *command) == [0, 0]
    job = started(("--max-restarts", 3, *TWO), "train", "--resume", *command)
    job.wait_for_text("[Val] Epoch 002")
    os.kill(job.rank_pids()[0], signal.SIGKILL)  # the one that writes
    assert job.wait() == 0
    assert job.text.count("Resuming a at step") == 1
    assert differences(outcome(tmp_path, "a"), outcome(whole, "a")) == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_torchrun_saves_once_and_ends_all_ranks(images, started, tmp_path, number):
    job = started(TWO, "train", *options(images, "--epochs", 2000))
    job.wait_for_text("[Val] Epoch 001")
    ranks = job.rank_pids()
    os.kill(job.process.pid, number)
    began = time.monotonic()
    assert job.wait(60) != 0
    assert time.monotonic() - began < 28  # after 30 seconds, torchrun kills its processes
    assert are_gone(ranks, seconds=15)
    assert job.text.count(f"stopped by {number.name} and saved: step") == 1
    saved = torch.load(tmp_path / "checkpoints/a/checkpoint.pth", weights_only=True)
    step = saved["state"]["step"]
    assert f"saved: step {step} " in " ".join(job.text.replace("│", " ").split())


def test_ranks_stop_and_save_when_torchrun_is_killed(images, started):
    job = started(TWO, "train", *options(images, "--epochs", 2000))
    job.wait_for_text("[Val] Epoch 001")
    ranks = job.rank_pids()
    os.kill(job.process.pid, signal.SIGKILL)
    job.process.wait()
    assert are_gone(ranks, seconds=15)
    assert job.text.count("stopped by SIGTERM and saved: step") == 1


def test_two_nodes_of_two_ranks_train_the_network_of_four_ranks(images, started, tmp_path):
    command = options(images, "--epochs", 3)
    whole = tmp_path / "whole"
    assert set(run_ranks(whole, 4, "train", *command)) == {0}
    meeting = (
        *("--nnodes", 2, "--nproc-per-node", 2, "--rdzv-backend", "c10d", "--rdzv-id", "one"),
        *("--rdzv-endpoint", f"127.0.0.1:{free_port()}", "--local-addr", "127.0.0.1"),
    )
    agents = [
        started(meeting, "train", *command, folder=tmp_path / name) for name in ("left", "right")
    ]
    assert [agent.wait() for agent in agents] == [0, 0]
    (writer,) = [agent.folder for agent in agents if (agent.folder / "out").exists()]
    ours, theirs = outcome(writer, "a"), outcome(whole, "a")
    assert differences(ours, theirs) == []
