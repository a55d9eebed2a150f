"""Training on several ranks: real processes, linked by gloo."""

import json
import os
import random
import signal
import time
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.distributed as dist

from conftest import write_folder
from helpers.outcomes import differences, outcome
from helpers.rank_runs import RankProcesses, kill_ranks_until_done, run_ranks
from helpers.real_runs import run
from imgnet_mini.distributed.context import DistributedContext
from imgnet_mini.errors import ConfigError
from imgnet_mini.runs.records import read_csv

pytestmark = pytest.mark.skipif(os.name != "posix", reason="the ranks are forked")


def options(data, *more, arch="normed"):
    return (*small(data, arch), "--epochs", 3, "--max-lr", 0.02, *more)


def small(data, arch):
    return (
        *("--data-root", data, "--arch", arch, "--img-size", 32, "--name", "a"),
        *("--batch-size", 6, "--workers", 0, "--no-amp"),
    )


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return write_folder(tmp_path_factory.mktemp("images") / "data", train=8, val=3, classes=3)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """`finished(ranks, *options)` is the folder of an uninterrupted training; each runs once."""
    folders = {}

    def train(ranks, *words):
        if (ranks, words) not in folders:
            folder = tmp_path_factory.mktemp("finished")
            assert set(run_ranks(folder, ranks, "train", *words, read_seconds=0)) == {0}
            folders[ranks, words] = folder
        return folders[ranks, words]

    return train


@pytest.fixture
def two_ranks(images, finished):
    """What an uninterrupted run on two ranks leaves."""
    folder = finished(2, *options(images))
    losses = [record.loss for record in read_csv(folder / "out/a/train_log.csv")]
    assert max(losses) < 1.5  # well-conditioned: else the outcome would depend on the CPU
    return outcome(folder, "a")


def weights(folder, key="model"):
    content = torch.load(folder / "checkpoints/a/checkpoint.pth", weights_only=True)
    return content[key]


def largest_difference(ours, theirs):
    return max((ours[name].double() - theirs[name].double()).abs().max().item() for name in ours)


def test_two_ranks_with_other_workers_give_identical_bits(images, two_ranks, tmp_path):
    more = ("--workers", 2)
    assert run_ranks(tmp_path, 2, "train", *options(images, *more), read_seconds=0) == [0, 0]
    assert differences(outcome(tmp_path, "a"), two_ranks) == []


@pytest.mark.parametrize("arch", ["normed", "squeezenet1_1"])  # batch norm, dropout
@pytest.mark.parametrize("rank", [0, 1])
def test_a_signal_to_one_rank_stops_all_at_one_step_and_resume_gives_the_same_run(
    images, finished, tmp_path, arch, rank
):
    command, stopped = options(images, arch=arch), tmp_path / "stopped"
    whole = outcome(finished(2, *command), "a")
    settings = {"signal_at": 6, "signal_rank": rank, "read_seconds": 0}
    assert run_ranks(stopped, 2, "train", *command, **settings) == [143, 143]
    text = (stopped / "terminal.log").read_text("utf-8")
    assert text.count("stopped by SIGTERM and saved: step") == 1
    assert run_ranks(stopped, 2, "resume", "--name", "a", read_seconds=0) == [0, 0]
    assert differences(outcome(stopped, "a"), whole) == []
    assert "Traceback" not in text


def test_ranks_killed_and_started_again_give_the_same_run(images, two_ranks, tmp_path):
    command, generator = ("train", "--resume", *options(images)), random.Random(0)
    kills = trial = 0
    while kills < 4:
        trial += 1
        folder = tmp_path / str(trial)
        new, slowest = kill_ranks_until_done(folder, command, generator, 2.5, most=4 - kills)
        kills += new
        assert slowest < 15
        assert differences(outcome(folder, "a"), two_ranks) == []


def test_without_batch_norm_two_ranks_train_the_network_of_one_process(images, finished):
    folders = [finished(size, *options(images, arch="plain")) for size in (1, 2)]
    assert largest_difference(*map(weights, folders)) < 1e-6
    logs = [read_csv(folder / "out/a/train_log.csv") for folder in folders]
    for ours, theirs in zip(*logs, strict=True):
        assert (ours.epoch, ours.phase, ours.top1, ours.top5) == (
            *(theirs.epoch, theirs.phase, theirs.top1, theirs.top5),
        )
        assert ours.loss == pytest.approx(theirs.loss, abs=1e-4)


def test_with_clipping_ema_nesterov_and_class_weights_two_ranks_train_the_network_of_one_process(
    images, tmp_path
):
    more = ("--nesterov", "--clip-grad", 0.05, "--no-norm-decay", "--ema-decay", 0.8)
    file = tmp_path / "weights.csv"
    file.write_text("class_00,1\nclass_01,5\nclass_02,2\n")
    command = options(images, *more, "--class-weights", file, arch="plain")
    for size in (1, 2):
        assert set(run_ranks(tmp_path / str(size), size, "train", *command)) == {0}
    for key in ("model", "ema"):
        one, two = (weights(tmp_path / str(size), key) for size in (1, 2))
        assert largest_difference(one, two) < 1e-6
    assert largest_difference(two, weights(tmp_path / "2")) > 1e-5
    logs = [read_csv(tmp_path / str(size) / "out/a/train_log.csv") for size in (1, 2)]
    for ours, theirs in zip(*logs, strict=True):
        assert (ours.epoch, ours.phase, ours.top1) == (theirs.epoch, theirs.phase, theirs.top1)
        assert ours.loss == pytest.approx(theirs.loss, abs=1e-4)


def test_with_ema_a_stopped_run_on_two_ranks_resumes_as_the_same_run(images, finished, tmp_path):
    command = options(images, "--ema-decay", 0.8)
    whole = finished(2, *command)
    stopped, settings = tmp_path / "stopped", {"signal_at": 7, "read_seconds": 0}
    assert run_ranks(stopped, 2, "train", *command, **settings) == [143, 143]
    assert run_ranks(stopped, 2, "resume", "--name", "a", read_seconds=0) == [0, 0]
    assert differences(outcome(stopped, "a"), outcome(whole, "a")) == []


def test_two_micro_batches_on_one_rank_are_the_steps_of_two_ranks(images, two_ranks, tmp_path):
    assert run(tmp_path, "train", *options(images, "--grad-accum-steps", 2)) == 0
    ours, theirs = (
        [[float(x) for x in row.split(",")[2:]] for row in rows if ",train," in row]
        for rows in (outcome(tmp_path, "a")["csv"], two_ranks["csv"])
    )
    np.testing.assert_allclose(ours, theirs, rtol=1e-6)


def test_gradient_accumulation_gives_the_gradient_of_the_whole_batch(images, finished, tmp_path):
    command = options(images, arch="plain")
    assert run(tmp_path, "train", *command, "--grad-accum-steps", 3) == 0
    assert largest_difference(weights(finished(1, *command)), weights(tmp_path)) < 1e-6


@pytest.mark.parametrize(("count", "batch"), [(1, 6), (7, 2), (67, 64)])
def test_evaluation_counts_each_image_once_on_any_number_of_ranks(tmp_path, count, batch):
    data = write_folder(tmp_path / "data", train=3, val=0, classes=2)
    extra = write_folder(tmp_path / "extra", train=0, val=count, classes=1)
    for number, path in enumerate(sorted((extra / "val/class_00").iterdir())):
        target = data / "val" / f"class_{number % 2:02d}"
        target.mkdir(parents=True, exist_ok=True)
        path.rename(target / path.name)
    more = ("--allow-missing-val-classes",) if count == 1 else ()
    command = options(data, "--epochs", 5, *more, arch="plain")
    assert run(tmp_path, "train", *command) == 0
    results = []
    for size in (1, 2, 3):
        words = ("evaluate", "--name", "a", "--batch-size", batch)
        assert set(run_ranks(tmp_path, size, *words)) == {0}
        metrics = json.loads((tmp_path / "reports/a/metrics.json").read_text("utf-8"))
        rows = (tmp_path / "reports/a/predictions.csv").read_text("utf-8").splitlines()
        results.append((metrics, rows))
    assert results[0][0]["images"] == count
    for metrics, rows in results[1:]:
        for name in ("images", "top1", "top5"):
            assert metrics[name] == results[0][0][name]
        assert metrics["loss"] == pytest.approx(results[0][0]["loss"], rel=1e-5)
        assert [row.split(",")[:3] for row in rows] == [r.split(",")[:3] for r in results[0][1]]


@pytest.mark.parametrize(("before", "after"), [(2, 1), (1, 2)])
def test_another_number_of_ranks_requires_a_flag(images, tmp_path, before, after):
    command = ("train", *options(images, arch="plain"))
    assert set(run_ranks(tmp_path, before, *command, signal_at=2, read_seconds=0)) == {143}
    resume = ("resume", "--name", "a")
    assert set(run_ranks(tmp_path, after, *resume)) == {2}
    log = tmp_path / "terminal.log"
    text = " ".join(log.read_text("utf-8").replace("│", " ").split())
    assert f"this run has {before} process(es), and resumes with {after}" in text
    assert set(run_ranks(tmp_path, after, *resume, "--allow-world-size-change")) == {0}
    assert f"world_size {before} -> {after}" in log.read_text("utf-8")
    records = read_csv(tmp_path / "out/a/train_log.csv")
    assert [(r.epoch, r.phase) for r in records] == [
        (epoch, phase) for epoch in range(3) for phase in ("train", "val")
    ]


def test_four_ranks_continue_as_two_with_two_micro_batches_each(images, tmp_path):
    command = options(images, "--batch-size", 8, arch="plain")
    whole, moved = tmp_path / "whole", tmp_path / "moved"
    assert set(run_ranks(whole, 4, "train", *command)) == {0}
    assert set(run_ranks(moved, 4, "train", *command, signal_at=4, read_seconds=0)) == {143}
    resume = ("resume", "--name", "a", "--allow-world-size-change", "--grad-accum-steps", 2)
    assert set(run_ranks(moved, 2, *resume)) == {0}
    assert largest_difference(weights(whole), weights(moved)) < 1e-6


@pytest.mark.parametrize("command", ["train", "find-lr", "evaluate"])
def test_an_error_of_all_ranks_is_printed_once(images, tmp_path, command):
    wrong = {
        "train": options(images, "--batch-size", 7),
        "find-lr": (*small(images, "plain"), "--batch-size", 7),
        "evaluate": ("--data-root", images, "--name", "a"),
    }[command]
    ranks = RankProcesses(tmp_path, 2, (command, *wrong))
    codes = ranks.wait()
    text = ranks.log.read_text("utf-8")
    assert (6 if command == "evaluate" else 2) in codes
    assert 0 not in codes
    assert text.count("╭─ Error") == 1
    assert ("use 6 or 8" in text) == (command != "evaluate")


def test_a_broken_image_on_one_rank_ends_all_ranks_and_is_named(tmp_path):
    data = write_folder(tmp_path / "data", train=8, val=3, classes=3)
    damaged = data / "train/class_01/001.png"
    content = bytearray(damaged.read_bytes())
    content[len(content) // 2] ^= 0xFF  # its header and end stay: only decoding finds it
    damaged.write_bytes(content)
    began = time.monotonic()
    ranks = RankProcesses(tmp_path, 2, ("train", *options(data, "--epochs", 50)))
    codes = ranks.wait(60)
    assert time.monotonic() - began < 40
    assert 4 in codes
    assert 0 not in codes
    text = ranks.log.read_text("utf-8")
    assert text.count("╭─ Error") == 1
    assert "class_01/001.png" in "".join(text.replace("│", "").split())
    assert "Traceback" not in text


def test_a_rank_that_does_not_answer_ends_the_others_after_the_timeout(images, tmp_path):
    ranks = RankProcesses(
        tmp_path, 2, ("train", *options(images, "--epochs", 500, "--dist-timeout", 3))
    )
    ranks.ranks[0].wait_for(lambda: ranks.ranks[0].checks > 2)
    ranks.ranks[1].send(signal.SIGSTOP)
    assert ranks.ranks[0].wait(30) == 1
    ranks.ranks[1].send(signal.SIGKILL)
    assert ranks.ranks[1].wait() == 137
    text = ranks.log.read_text("utf-8")
    assert "no answer from another rank for 3 s (--dist-timeout)" in text
    assert "Traceback" not in text


def end_unanswered(how):
    """Let rank 0 end with a pending operation of its group that rank 1 never joins."""
    leave = dist.destroy_process_group

    def end():
        if os.environ["RANK"] == "1":
            time.sleep(600)
        group = dist.group.WORLD
        dist.all_reduce(torch.zeros(1), async_op=True)
        leave()
        if isinstance(how, Exception):
            raise type(how)(*how.args)  # a new one: a traceback of `how` would outlive the command
        os.kill(os.getpid(), how)
        assert isinstance(group, dist.ProcessGroup)

    dist.destroy_process_group = end


@pytest.mark.parametrize(
    ("how", "code", "said"),
    [
        (signal.SIGTERM, 143, "stopped immediately by SIGTERM"),
        (signal.SIGINT, 130, "stopped immediately by SIGINT"),
        (ConfigError("no such thing"), 2, "no such thing"),
        (KeyError("a bug"), 1, "KeyError: 'a bug'"),
    ],
    ids=["SIGTERM", "SIGINT", "error", "bug"],
)
def test_a_rank_that_ends_does_not_wait_for_the_others(images, tmp_path, how, code, said):
    command = ("train", *options(images, "--epochs", 1, arch="plain"))
    ranks = RankProcesses(tmp_path, 2, command, before=partial(end_unanswered, how))
    try:
        assert ranks.ranks[0].wait() == code
    finally:
        ranks.ranks[1].send(signal.SIGKILL)
        ranks.ranks[1].wait()
    assert said in ranks.log.read_text("utf-8")


def test_find_lr_on_two_ranks_equals_two_micro_batches_on_one_rank(images, tmp_path):
    words = (*small(images, "plain"), "--num-iter", 30, "--epochs", 400)
    words += ("--trials", 3, "--trial-steps", 20)
    two, one = tmp_path / "two", tmp_path / "one"
    code, _ = run_ranks(two, 2, "find-lr", *words)
    assert run(one, "find-lr", *words, "--grad-accum-steps", 2) == code
    curves = []
    for folder in (two, one):
        curve, trials = sorted(folder.glob("lr_finder_plots/*.csv"))
        assert trials.name.endswith("_trials.csv")
        columns = [np.loadtxt(path, delimiter=",", skiprows=1) for path in (curve, trials)]
        curves.append(np.concatenate([columns[0][:, :2], columns[1][:, ::2]]))
    np.testing.assert_allclose(*curves, rtol=1e-4)


def test_sync_bn_requires_gpus(images, tmp_path):
    ranks = RankProcesses(tmp_path, 2, ("train", *options(images, "--sync-bn", "--device", "cpu")))
    codes = ranks.wait()
    assert 2 in codes
    assert 0 not in codes
    text = ranks.log.read_text("utf-8")
    assert text.count("╭─ Error") == 1
    assert "--sync-bn needs GPUs, and this run is on cpu" in text


@pytest.mark.parametrize("command", ["prepare", "report", "check"])
def test_commands_for_one_process_refuse_several(tmp_path, command):
    ranks = RankProcesses(tmp_path, 2, (command,))
    assert ranks.wait() == [2, 2]
    text = ranks.log.read_text("utf-8")
    assert text.count("╭─ Error") == 1
    assert f"{command} runs in one process" in text


@pytest.mark.parametrize(
    ("nodes", "line"),
    [
        (1, "torchrun --standalone --nproc-per-node 2 -m imgnet_mini resume --name a"),
        (
            2,
            "torchrun --nnodes 2 --rdzv-backend c10d --rdzv-endpoint HOST:PORT --nproc-per-node 2 "
            "-m imgnet_mini resume --name a",
        ),
    ],
)
def test_a_command_to_paste_starts_as_many_processes(nodes, line):
    ranks = SimpleNamespace(world_size=2 * nodes, nodes=nodes, local_world_size=2)
    assert DistributedContext.command_line(ranks, "resume --name a") == line
