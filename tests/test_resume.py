import gc
import hashlib
import json
import os
import random
import re
import shutil
import time
from functools import partial
from pathlib import Path

import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.metadata import SESSION_START_INFO_TAG

from conftest import SMALL
from helpers.checkpoints import damage
from helpers.events import read_events
from helpers.outcomes import differences, outcome
from helpers.real_runs import FORKED, run
from helpers.stops import stop_at
from imgnet_mini.checkpoint.schema import RunCheckpoint
from imgnet_mini.commands import resume
from imgnet_mini.config.run_config import RunConfig
from imgnet_mini.errors import WriteError
from imgnet_mini.runs.lock import lock_run
from imgnet_mini.runs.records import read_csv
from imgnet_mini.training.trainer import Trainer

CHECKS = 18
"""Places where a run of 3 epochs of 4 steps may stop: after each step and validation batch."""

PREPARED = ("--data-root", "data", "--img-size", 32)


@pytest.fixture
def stop_after(monkeypatch):
    """Make the n-th look at the signals find one."""

    return partial(stop_at, monkeypatch)


def content(name, file="checkpoint"):
    return torch.load(f"checkpoints/{name}/{file}.pth", weights_only=True)


def assert_equal(ours, theirs, place=""):
    assert type(ours) is type(theirs), place
    if isinstance(ours, dict):
        assert ours.keys() == theirs.keys(), place
        for key in ours:
            if key not in ("seconds", "imgs_per_sec"):
                assert_equal(ours[key], theirs[key], f"{place}.{key}")
    elif isinstance(ours, list | tuple):
        assert len(ours) == len(theirs), place
        for index, (one, other) in enumerate(zip(ours, theirs, strict=True)):
            assert_equal(one, other, f"{place}[{index}]")
    elif isinstance(ours, torch.Tensor):
        assert torch.equal(ours, theirs), place
    else:
        assert ours == theirs, place


@pytest.mark.parametrize(
    ("arch", "stops", "loader"),
    [
        pytest.param("shufflenet_v2_x0_5", [1], "folder", id="first-step"),
        pytest.param("shufflenet_v2_x0_5", [4], "folder", id="last-of-epoch"),
        pytest.param("shufflenet_v2_x0_5", [5], "folder", id="in-validation"),
        pytest.param("shufflenet_v2_x0_5", [6], "folder", id="end-of-validation"),
        pytest.param("shufflenet_v2_x0_5", [7], "folder", id="next-epoch"),
        pytest.param("shufflenet_v2_x0_5", [CHECKS], "folder", id="last-validation"),
        pytest.param("shufflenet_v2_x0_5", [1, 1, 1, 9], "folder", id="four-times"),
        pytest.param("squeezenet1_1", [1, 1, 1, 9], "folder", id="four-times-with-dropout"),
        pytest.param("shufflenet_v2_x0_5", [1, 1, 1, 9], "pack", id="pack-four-times"),
    ],
)
def test_stopped_and_resumed_equals_never_stopped(run_small, cli, stop_after, arch, stops, loader):
    if loader == "pack":
        assert cli("prepare", *PREPARED) == 0, cli.err
    options = ["--arch", arch, "--max-lr", 0.02]
    assert run_small("train", "--name", "whole", *options) == 0, cli.err

    stop_after(stops[0])
    assert run_small("train", "--name", "parts", *options) == 130
    assert cli.says("imgnet-mini resume --name parts")
    for checks in [*stops[1:], 10**9]:
        stop_after(checks)
        code = cli("resume", "--name", "parts", "--workers", 1)
        assert code == (0 if checks == 10**9 else 130), cli.err

    whole, parts = content("whole"), content("parts")
    assert whole["config"]["data"]["loader"] == parts["config"]["data"]["loader"] == loader
    for key in ("model", "optimizer", "scheduler", "scaler", "state", "rng", "records"):
        assert_equal(parts[key], whole[key], key)
    assert_equal(content("parts", "best")["model"], content("whole", "best")["model"])
    lines = {
        name: [
            record.to_line().split("ips")[0]
            for record in read_csv(Path(f"out/{name}/train_log.csv"))
        ]
        for name in ("whole", "parts")
    }
    assert lines["parts"] == lines["whole"]
    assert Path("out/parts/logs.md").read_text().count("[Train]") == 3
    events = {name: read_events(f"runs/{name}") for name in ("whole", "parts")}
    assert events["parts"].scalars.keys() == events["whole"].scalars.keys()
    for tag, values in events["whole"].scalars.items():
        if not tag.endswith("imgs_per_sec"):
            assert events["parts"].scalars[tag] == values
    assert events["parts"].pictures == events["whole"].pictures
    assert [step for step, _ in events["whole"].pictures["val/samples"]] == [0, 1, 2]
    assert [step for step, _ in events["whole"].pictures["val/confusion_matrix"]] == [2]
    assert events["parts"].hparams == events["whole"].hparams
    assert [len(values) for values in events["parts"].hparams.values()] == [1, 1, 1]
    (text,) = events["parts"].texts.values()
    assert len(text) == 1


def test_a_resumed_run_does_not_hold_its_checkpoint(run_small, cli, stop_after, monkeypatch):
    stop_after(5)
    assert run_small("train", "--name", "a") == 130
    held, train = [], resume.train

    def count(*args, **settings):
        gc.collect()
        held.append(sum(type(one) is RunCheckpoint for one in gc.get_objects()))
        train(*args, **settings)

    monkeypatch.setattr(resume, "train", count)
    stop_after(10**9)
    assert cli("resume", "--name", "a") == 0, cli.err
    assert held == [0]


@pytest.mark.parametrize("loader", ["folder", "pack"])
def test_all_that_is_drawn_for_images_goes_on_bit_by_bit(run_small, cli, stop_after, loader):
    sizes = ("--img-size", 48, "--eval-size", 40)
    if loader == "pack":
        assert cli("prepare", "--data-root", "data", *sizes) == 0, cli.err
    options = [
        *sizes,
        "--progressive",
        "32:48",
        "--mixup",
        0.4,
        "--cutmix",
        1.0,
        "--grad-accum-steps",
        2,
    ]
    options += ["--arch", "squeezenet1_1", "--max-lr", 0.01]  # with dropout
    options += ["--trivial-augment", "--random-erasing", 0.5, "--use-class-style-aug"]
    assert run_small("train", "--name", "whole", *options) == 0, cli.err

    stop_after(2)
    assert run_small("train", "--name", "parts", *options) == 130
    for checks in (1, 4, 2, 10**9):
        stop_after(checks)
        code = cli("resume", "--name", "parts", "--workers", 1)
        assert code == (0 if checks == 10**9 else 130), cli.err

    whole, parts = content("whole"), content("parts")
    assert whole["config"]["data"]["loader"] == loader
    for key in ("model", "optimizer", "scheduler", "state", "rng", "records"):
        assert_equal(parts[key], whole[key], key)


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_each_optimizer_is_resumed_within_an_epoch_to_the_same_bits(
    run_small, cli, stop_after, optimizer
):
    options = ["--optimizer", optimizer, "--no-norm-decay", "--weight-decay", 0.05]
    options += ["--grad-accum-steps", 2, "--ema-decay", 0.9]
    assert run_small("train", "--name", "whole", *options) == 0, cli.err
    stop_after(2)
    assert run_small("train", "--name", "parts", *options) == 130
    stop_after(10**9)
    assert cli("resume", "--name", "parts") == 0, cli.err
    whole, parts = content("whole"), content("parts")
    for key in ("model", "ema", "optimizer", "scheduler", "state", "records"):
        assert_equal(parts[key], whole[key], key)
    assert content("parts", "best").keys() >= {"model", "raw", "epoch", "metrics"}
    ((_, start),) = read_events("runs/parts").hparams[SESSION_START_INFO_TAG]
    assert start.hparams["optimizer"].string_value == optimizer
    assert start.hparams["weight_decay"].number_value == 0.05
    assert start.hparams["adam_beta2"].number_value == 0.999
    assert "nesterov" not in start.hparams


@pytest.mark.parametrize(
    ("flag", "value", "before"),
    [
        ("--epochs", 5, "3"),
        ("--batch-size", 4, "6"),
        ("--max-lr", 0.5, "0.0023"),
        ("--arch", "resnet18", "shufflenet_v2_x0_5"),
        ("--img-size", 64, "32"),
        ("--seed", 9, "0"),
    ],
)
def test_what_would_make_it_another_run_is_refused_with_both_values(
    run_small, cli, stop_after, flag, value, before
):
    stop_after(3)
    assert run_small("train") == 130
    saved = Path("checkpoints/r50_onecycle_amp/checkpoint.pth").read_bytes()
    assert cli("resume", flag, value) == 2
    assert cli.says(f"{flag} {value}")
    assert cli.says(f"started with {before}")
    assert Path("checkpoints/r50_onecycle_amp/checkpoint.pth").read_bytes() == saved


def test_the_flags_the_run_was_started_with_are_accepted_again(run_small, stop_after, cli):
    stop_after(3)
    assert run_small("train", "--max-lr", 0.01) == 130
    stop_after(10**9)
    assert run_small("train", "--max-lr", 0.01, "--resume") == 0, cli.err
    assert "Resuming r50_onecycle_amp at step 3 of 12 (epoch 0 of 3, batch 3 of 4)" in cli.out


MINI = ("--recipe", "mini", "--no-zero-init-residual")  # which is for ResNets


@pytest.mark.parametrize("again", [MINI, ()], ids=["recipe", "nothing"])
def test_a_run_by_a_recipe_goes_on_with_its_own_settings(run_small, stop_after, cli, again):
    stop_after(3)
    assert run_small("train", *MINI) == 130
    before = Path("out/r50_onecycle_amp/config.toml").read_text()
    stop_after(10**9)
    assert run_small("train", *again, "--resume") == 0, cli.err
    assert "Resuming r50_onecycle_amp at step 3 of 12" in cli.out
    assert Path("out/r50_onecycle_amp/config.toml").read_text() == before
    environment = json.loads(Path("out/r50_onecycle_amp/environment.json").read_text())
    assert environment["recipe"] == "mini"


def test_a_recipe_that_would_make_it_another_run_is_refused_by_its_name(run_small, stop_after, cli):
    stop_after(3)
    assert run_small("train", "--crop-scale-min", 0.08) == 130
    saved = Path("checkpoints/r50_onecycle_amp/checkpoint.pth").read_bytes()
    assert run_small("train", *MINI, "--resume") == 2
    assert cli.says("--crop-scale-min 0.3 of --recipe mini: this run was started with 0.08")
    assert cli.says("Leave --recipe mini out to resume, or start a new run")
    assert Path("checkpoints/r50_onecycle_amp/checkpoint.pth").read_bytes() == saved


def test_a_flag_over_a_recipe_is_refused_as_a_flag(run_small, stop_after, cli):
    stop_after(3)
    assert run_small("train", *MINI) == 130
    assert run_small("train", *MINI, "--crop-scale-min", 0.5, "--resume") == 2
    assert cli.says("--crop-scale-min 0.5: this run was started with 0.3")
    assert cli.says("Leave --crop-scale-min out to resume")


def test_nothing_to_resume_names_train(cli):
    assert cli("resume", "--name", "a") == 6
    assert cli.says("imgnet-mini train --name a")


def test_a_finished_run_says_so(run_small, cli):
    assert run_small("train", "--name", "a") == 0
    assert cli("resume", "--name", "a") == 0
    assert "finished" in cli.out


@pytest.mark.parametrize("command", ["resume", "train --resume"])
def test_a_damaged_checkpoint_is_named_and_the_one_before_gives_the_same_run(
    run_small, stop_after, cli, command
):
    assert run_small("train", "--name", "whole") == 0
    stop_after(9)
    assert run_small("train", "--name", "parts") == 130
    path = Path("checkpoints/parts/checkpoint.pth")
    damage(path, "flip", random.Random(0))
    stop_after(10**9)
    started = run_small if "train" in command else cli
    assert started(*command.split(), "--name", "parts") == 0, cli.err
    assert "checkpoint.pth is damaged: its SHA-256 matches no checkpoint of this run" in cli.out
    assert "Using step 4, in checkpoints/parts/checkpoint-4.pth" in cli.out
    assert_equal(content("parts")["model"], content("whole")["model"])


@pytest.mark.parametrize("command", ["resume", "train --resume"])
def test_where_every_checkpoint_is_damaged_nothing_is_started(run_small, stop_after, cli, command):
    stop_after(6)
    assert run_small("train") == 130
    folder = Path("checkpoints/r50_onecycle_amp")
    for path in folder.glob("checkpoint*.pth"):
        path.write_bytes(path.read_bytes()[:-1])
    before = {path: path.read_bytes() for path in folder.iterdir()}
    started = run_small if "train" in command else cli
    assert started(*command.split()) == 6
    assert cli.says("checkpoint.pth is damaged")
    assert cli.says("checkpoint-0.pth is damaged")
    assert {path: path.read_bytes() for path in folder.iterdir()} == before


def test_a_checkpoint_asked_for_by_name_is_used_or_refused(run_small, stop_after, cli):
    assert run_small("train", "--name", "whole") == 0
    stop_after(9)
    assert run_small("train", "--name", "parts") == 130
    stop_after(10**9)
    earlier = Path("checkpoints/parts/checkpoint-4.pth")
    whole = earlier.read_bytes()
    damage(earlier, "zero", random.Random(0))
    assert cli("resume", "--name", "parts", "--checkpoint", earlier) == 6
    assert cli.says("checkpoint-4.pth is damaged")
    earlier.write_bytes(whole)
    assert cli("resume", "--name", "parts", "--checkpoint", earlier) == 0, cli.err
    assert "at step 4 of 12" in cli.out
    assert_equal(content("parts")["model"], content("whole")["model"])


def test_best_in_place_of_the_checkpoint_is_named_with_the_difference(run_small, cli):
    assert run_small("train", "--name", "a", "--epochs", 2) == 0
    path = Path("checkpoints/a/checkpoint.pth")
    path.write_bytes(path.with_name("best.pth").read_bytes())
    assert cli("resume", "--name", "a", "--checkpoint", path) == 6
    assert cli.says("weights of the best epoch only")


@pytest.mark.parametrize("change", ["missing", "damaged"])
def test_without_its_best_weights_a_run_says_so_and_finds_new_ones(
    run_small, stop_after, cli, change
):
    stop_after(9)
    assert run_small("train", "--name", "a") == 130
    best = Path("checkpoints/a/best.pth")
    if change == "missing":
        best.unlink()
    else:
        damage(best, "flip", random.Random(0))
    stop_after(10**9)
    assert cli("resume", "--name", "a") == 0, cli.err
    assert "checkpoints/a/best.pth is missing or damaged" in cli.out
    assert content("a", "best")["epoch"] == content("a")["state"]["best_epoch"] >= 1


def test_a_run_that_was_moved_names_its_new_place(run_small, stop_after, cli):
    old, new = Path("old").absolute(), Path("new").absolute()
    stop_after(3)
    assert run_small("train", "--name", "a", "--output-dir", old) == 130
    old.rename(new)
    stop_after(1)
    assert cli("resume", "--name", "a", "--output-dir", new) == 130
    assert cli.says(f"imgnet-mini resume --name a --output-dir {new}")
    stop_after(10**9)
    assert cli("resume", "--name", "a", "--output-dir", new) == 0, cli.err
    assert f"imgnet-mini report --name a --output-dir {new}" in cli.out
    assert str(old) not in cli.out


def test_the_state_of_another_run_does_not_come_with_this_ones_best_weights(
    run_small, stop_after, cli
):
    assert run_small("train", "--name", "a", "--seed", 1) == 0
    stop_after(9)
    assert run_small("train", "--name", "b", "--max-lr", 1e-9) == 130
    stop_after(10**9)
    other = "checkpoints/a/checkpoint-8.pth"
    assert cli("resume", "--name", "b", "--checkpoint", other) == 0, cli.err
    assert "checkpoints/b/best.pth is missing or damaged, or not what this state had" in cli.out
    best = Path("checkpoints/b/best.pth").read_bytes()
    assert content("b")["best"] == hashlib.sha256(best).hexdigest()
    assert content("b", "best")["epoch"] == content("b")["state"]["best_epoch"] == 2


def test_a_finished_state_of_another_run_leaves_this_one_as_it_is(run_small, stop_after, cli):
    assert run_small("train", "--name", "a") == 0
    stop_after(9)
    assert run_small("train", "--name", "b") == 130
    stop_after(10**9)
    before = Path("out/b/train_log.csv").read_bytes()
    other = "checkpoints/a/checkpoint.pth"
    assert cli("resume", "--name", "b", "--checkpoint", other) == 6
    assert cli.says(f"{other} is of a finished run, and not the newest state of b")
    assert Path("out/b/train_log.csv").read_bytes() == before
    assert cli("resume", "--name", "a", "--checkpoint", other) == 0, cli.err
    assert "a is finished" in cli.out


def test_a_run_that_another_process_is_at_is_refused(run_small, stop_after, cli):
    stop_after(3)
    assert run_small("train", "--name", "a") == 130
    holder = FORKED.Process(target=hold_lock, args=(Path("checkpoints/a/.lock").absolute(),))
    holder.start()
    try:
        deadline = time.monotonic() + 30
        while not Path("checkpoints/a/.lock.json").exists():
            assert time.monotonic() < deadline
            time.sleep(0.01)
        for started, command in ((cli, ["resume"]), (run_small, ["train", "--overwrite"])):
            assert started(*command, "--name", "a") == 3
            assert cli.says(f"the run a is in use by process {holder.pid}")
    finally:
        holder.kill()
        holder.join()
    assert content("a")["state"]["step"] == 3


def hold_lock(path):
    with lock_run("a", path):
        time.sleep(60)


def test_more_epochs_are_a_new_plan_that_has_to_be_asked_for(run_small, stop_after, cli):
    stop_after(7)
    assert run_small("train", "--name", "a", "--max-lr", 0.02) == 130
    stop_after(10**9)
    assert cli("resume", "--name", "a", "--epochs", 5) == 2
    assert cli.says("--epochs 5: this run was started with 3")
    assert cli.says("add --replan")
    assert cli("resume", "--name", "a", "--epochs", 5, "--replan") == 0, cli.err
    assert_rates_are_those_of(5, max_lr=0.02, since=5)
    assert re.search(r"New schedule: one cycle over 5 epochs.* from \S+ to \S+ at once", cli.out)
    assert RunConfig.read(Path("out/a/config.toml")).schedule.epochs == 5
    assert [r.epoch for r in read_csv(Path("out/a/train_log.csv"))][::2] == [0, 1, 2, 3, 4]


def assert_rates_are_those_of(epochs, *, max_lr, since):
    """The logged rates from a step on are those of one cycle over so many epochs."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], max_lr)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr, total_steps=4 * epochs, cycle_momentum=False
    )
    rates = []
    for _ in range(4 * epochs - 1):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    rates.append(optimizer.param_groups[0]["lr"])
    events = EventAccumulator("runs/a")
    events.Reload()
    logged = [event.value for event in events.Scalars("train/lr")]
    assert logged[since:] == pytest.approx(rates[since:])
    assert logged[:since] != pytest.approx(rates[:since])


def test_a_finished_run_goes_on_under_a_new_plan_and_survives_a_stop_in_it(
    run_small, stop_after, cli
):
    assert run_small("train", "--name", "a", "--max-lr", 0.02) == 0
    assert cli("resume", "--name", "a") == 0
    assert "imgnet-mini resume --name a --epochs 6 --replan" in cli.out
    more = ("--epochs", 6, "--max-lr", 0.01, "--replan")
    stop_after(1)
    assert cli("resume", "--name", "a", *more) == 130
    assert content("a")["config"]["schedule"]["epochs"] == 6
    stop_after(10**9)
    assert cli("resume", "--name", "a") == 0, cli.err
    assert_rates_are_those_of(6, max_lr=0.01, since=12)


def test_fewer_epochs_than_are_done_are_no_plan(run_small, stop_after, cli):
    stop_after(9)
    assert run_small("train", "--name", "a") == 130
    assert cli("resume", "--name", "a", "--epochs", 1, "--replan") == 2
    assert cli.says("--epochs 1: 1 epochs and 3 steps of the next are done")
    assert cli("resume", "--name", "a", "--replan") == 2
    assert cli.says("--replan: the schedule is unchanged")


def test_a_log_that_a_kill_has_cut_short_is_completed_though_the_run_is_finished(run_small, cli):
    assert run_small("train", "--name", "a") == 0
    log, lines = Path("out/a/train_log.csv"), Path("out/a/logs.md")
    whole = log.read_bytes(), lines.read_bytes()
    log.write_text("".join(log.read_text().splitlines(keepends=True)[:-2]))
    lines.unlink()
    assert cli("resume", "--name", "a") == 0
    assert (log.read_bytes(), lines.read_bytes()) == whole


@pytest.mark.parametrize(
    ("key", "value"), [("torch", "2.10.0"), ("threads", 7), ("device", "another one")]
)
def test_what_decides_the_bits_and_has_changed_is_named(run_small, stop_after, cli, key, value):
    stop_after(3)
    assert run_small("train", "--name", "a") == 130
    saved = content("a")
    saved["environment"][key] = value
    torch.save(saved, "checkpoints/a/checkpoint.pth")
    forget_manifest("a")
    stop_after(10**9)
    assert cli("resume", "--name", "a") == 0, cli.err
    assert f"Note: {key} {value} -> " in cli.out
    assert "same data order, results not bit-identical" in cli.out


@pytest.mark.parametrize(
    ("place", "value", "says"),
    [
        (("scheduler", "last_epoch"), 2, "scheduler.last_epoch: 2, after 5 steps"),
        (("scheduler", "total_steps"), 16, "scheduler.total_steps: 16, and by the settings"),
        (("optimizer", "param_groups", 0, "lr"), 0.5, "param_groups.0.lr: 0.5, and by the sett"),
        (("optimizer", "param_groups", 0, "momentum"), 0.1, "param_groups.0.momentum: 0.1"),
        (("optimizer", "param_groups", 0, "params"), [0], "the saved groups hold other parameters"),
        (("optimizer", "state"), {}, "optimizer.state.0: has nothing, but this optimizer keeps"),
        (("config", "schedule", "max_lr"), "auto", "max_lr: Input should be a valid number"),
        (("config", "schedule", "max_lr"), 0.3, "param_groups.0.lr: "),
        (("state", "batch"), 77, "state.batch: 77, and an epoch has 4 steps"),
        (("state", "epoch"), 0, "records: they are not those of 0 epochs"),
        (("records",), [], "records: they are not those of 1 epochs"),
        (("environment", "mood"), "good", None),
        (("scheduler", "_schedule_phases"), 5, None),
        (("scheduler", "_anneal_func_type"), "?", None),
        (("optimizer", "param_groups", 0, "nesterov"), "?", None),
        (("optimizer", "param_groups", 0, "dampening"), None, None),
        (("config", "run", "output_dir"), "/elsewhere", None),
    ],
    ids=str,
)
def test_what_contradicts_itself_is_refused_and_what_is_of_no_use_is_not_used(
    run_small, stop_after, cli, place, value, says
):
    stop_after(7)
    assert run_small("train", "--name", "a") == 130
    saved = content("a")
    *way, last = place
    part = saved
    for key in way:
        part = part[key]
    part[last] = value
    torch.save(saved, "checkpoints/a/checkpoint.pth")
    forget_manifest("a")
    stop_after(10**9)
    assert cli("resume", "--name", "a") == (6 if says else 0), cli.err
    if says:
        assert cli.says(says)
    else:
        assert "Traceback" not in cli.err
        assert content("a")["state"]["step"] == 12
        assert "/elsewhere" not in cli.out


def forget_manifest(name):
    """As in a run of 0.1.0, or a checkpoint that was copied alone."""
    folder = Path("checkpoints", name)
    for path in (folder / "manifest.json", *folder.glob("checkpoint-*.pth")):
        path.unlink()


@pytest.mark.parametrize("change", ["removed", "class"])
def test_other_images_than_the_run_was_started_on_are_refused(run_small, stop_after, cli, change):
    stop_after(3)
    assert run_small("train") == 130
    image = Path("data/train/class_00/000.JPEG")
    if change == "removed":
        image.unlink()
    else:
        for split in ("train", "val"):
            Path("data", split, "class_00").rename(Path("data", split, "class_xx"))
    assert cli("resume") == 4
    assert cli.says("started on")


def test_events_written_after_the_checkpoint_are_not_doubled(run_small, stop_after, cli):
    stop_after(7)
    assert run_small("train") == 130
    path = Path("checkpoints/r50_onecycle_amp/checkpoint.pth")
    early = path.read_bytes()
    stop_after(10)
    assert cli("resume") == 130
    path.write_bytes(early)  # as if killed before the newer checkpoint was saved
    stop_after(10**9)
    assert cli("resume") == 0, cli.err
    events = EventAccumulator("runs/r50_onecycle_amp")
    events.Reload()
    assert [event.step for event in events.Scalars("train/loss_step")] == list(range(12))
    assert [event.step for event in events.Scalars("val/top1")] == [0, 1, 2]


def test_a_run_on_a_pack_that_was_removed_names_the_cure(run_small, stop_after, cli):
    assert cli("prepare", *PREPARED) == 0
    stop_after(3)
    assert run_small("train") == 130
    Path("data/pack").rename("kept")
    assert cli("resume") == 4
    assert cli.says("no pack in data/pack; make one with imgnet-mini prepare")
    stop_after(10**9)
    assert cli("resume", "--pack-dir", "kept") == 0, cli.err


def test_a_run_on_files_goes_on_with_the_files_though_there_is_a_pack_now(
    run_small, stop_after, cli
):
    assert run_small("train", "--name", "whole") == 0
    stop_after(3)
    assert run_small("train", "--name", "parts") == 130
    assert cli("prepare", *PREPARED) == 0
    stop_after(10**9)
    assert cli("resume", "--name", "parts") == 0, cli.err
    assert_equal(content("parts")["model"], content("whole")["model"])
    assert content("parts")["config"]["data"]["loader"] == "folder"


@pytest.mark.parametrize("flags", [("--pack-size", 40), ("--img-size", 40)])
def test_a_pack_of_other_sizes_is_another_run(run_small, stop_after, cli, flags):
    assert cli("prepare", *PREPARED) == 0
    stop_after(3)
    assert run_small("train") == 130
    assert cli("prepare", *PREPARED, *flags) == 0
    assert cli("resume") == 4
    for words in ("is not the one the run was started on", "--pack-size", "--img-size"):
        assert cli.says(words)


def test_a_pack_made_again_as_it_was_is_the_same_run(run_small, stop_after, cli):
    elsewhere = ("--pack-dir", "elsewhere")
    assert cli("prepare", *PREPARED, *elsewhere) == 0
    stop_after(3)
    assert run_small("train", *elsewhere) == 130
    assert cli("prepare", *PREPARED, *elsewhere, "--pack-size", 40) == 0
    assert cli("resume") == 4
    assert cli.says("the pack in elsewhere is not the one")
    assert cli("prepare", *PREPARED, *elsewhere) == 0
    stop_after(10**9)
    assert cli("resume") == 0, cli.err


@pytest.mark.parametrize(("started", "asked"), [("pack", "folder"), ("folder", "pack")])
def test_a_run_does_not_change_between_pack_and_files(run_small, stop_after, cli, started, asked):
    assert cli("prepare", *PREPARED) == 0
    stop_after(3)
    assert run_small("train", "--loader", started) == 130
    assert cli("resume", "--loader", asked) == 2
    assert cli.says(f"--loader {asked}: this run was started with {started}")


def test_a_run_on_a_pack_that_is_out_of_date_is_not_resumed_until_it_fits(
    run_small, stop_after, cli
):
    assert cli("prepare", *PREPARED) == 0
    stop_after(3)
    assert run_small("train") == 130
    image = Path("data/train/class_00/000.JPEG")
    image.with_name("new.JPEG").write_bytes(image.read_bytes())
    assert cli("resume") == 4
    assert cli.says("out of date: files in data/train: 1 added (first: class_00/new.JPEG)")
    image.with_name("new.JPEG").unlink()
    stop_after(10**9)
    assert cli("resume", "--loader", "auto") == 0, cli.err


ALL = (
    *(
        "--nesterov",
        "--no-norm-decay",
        "--zero-init-residual",
        "--clip-grad",
        0.5,
        "--ema-decay",
        0.9,
    ),
    *("--grad-accum-steps", 2),
)


@pytest.mark.skipif(os.name != "posix", reason="the process is forked")
def test_a_process_stopped_within_an_epoch_goes_on_bit_by_bit_with_all_that_may_be_added(
    data, tmp_path
):
    options = (
        *("--data-root", data, "--arch", "resnet18", "--img-size", 32, "--name", "a"),
        *("--batch-size", 6, "--workers", 0, "--epochs", 2, "--max-lr", 0.02, *ALL),
    )
    assert run(tmp_path / "whole", "train", *options) == 0
    stopped = tmp_path / "stopped"
    assert run(stopped, "train", *options, signal_at=2) == 143
    for looks in (7, 8):  # in the validation of the averaged weights, and in the second epoch
        assert run(stopped, "resume", "--name", "a", signal_at=looks) == 143
    saved = torch.load(stopped / "checkpoints/a/checkpoint.pth", weights_only=True)
    assert (saved["state"]["epoch"], len(saved["records"])) == (1, 3)
    assert 0 < saved["state"]["batch"] < 4
    assert len(saved["optimizer"]["param_groups"]) == 2
    assert run(stopped, "resume", "--name", "a") == 0
    whole = outcome(tmp_path / "whole", "a")
    assert differences(outcome(stopped, "a"), whole) == []
    assert len(whole["csv"]) == 1 + 3 * 2
    assert whole["state"]["ema"] != whole["state"]["model"]


def test_averages_that_are_damaged_or_gone_are_named(run_small, stop_after, cli):
    stop_after(3)
    assert run_small("train", "--name", "a", "--ema-decay", 0.9) == 130
    saved = content("a")
    weights = saved.pop("ema")
    torch.save(saved, "checkpoints/a/checkpoint.pth")
    forget_manifest("a")
    assert cli("resume", "--name", "a") == 6
    assert cli.says("ema: it has none, and by the settings it is to have some")
    del weights["fc.bias"]
    torch.save(saved | {"ema": weights}, "checkpoints/a/checkpoint.pth")
    forget_manifest("a")
    assert cli("resume", "--name", "a") == 6
    assert cli.says("ema: its weights are not those of the network in model")


@pytest.mark.parametrize(
    ("flag", "before"), [(("--ema-decay", 0.5), "0.0"), (("--nesterov",), "--no-nesterov")], ids=str
)
def test_none_of_them_may_be_added_on_the_way(run_small, stop_after, cli, flag, before):
    stop_after(3)
    assert run_small("train", "--name", "a") == 130
    assert cli("resume", "--name", "a", *flag) == 2
    assert cli.says(f"this run was started with {before}")


PNG = Path("data/train/class_01/003.png")
VAL_IMAGE = Path("data/val/class_01/001.png")


def hide_damage(path):
    """Break an image in a way that its header and end do not show."""
    whole = path.read_bytes()
    path.write_bytes(whole[:1000] + bytes(100) + whole[1100:])
    return whole


def test_a_run_goes_on_without_a_validation_image_that_broke(run_small, cli):
    hide_damage(VAL_IMAGE)
    assert run_small("train", "--name", "a", "--epochs", 2) == 4
    assert cli.says(f"cannot decode {VAL_IMAGE}")
    assert cli.says("imgnet-mini resume --name a --skip-bad")
    assert cli.says("imgnet-mini resume --name a --allow-image-changes")
    VAL_IMAGE.unlink()
    assert cli("resume", "--name", "a") == 4
    assert cli.says("1 removed: val/class_01/001.png")
    assert cli.says("--allow-image-changes")
    assert cli("resume", "--name", "a", "--allow-image-changes") == 0, cli.err
    assert "1 removed: val/class_01/001.png" in cli.out
    assert list(content("a")["dropped"]) == ["val/class_01/001.png"]
    environment = json.loads(Path("out/a/environment.json").read_text())
    assert environment["skipped"] == ["val/class_01/001.png: removed after the start of the run"]
    assert cli("evaluate", "--name", "a") == 0
    assert json.loads(Path("reports/a/metrics.json").read_text())["images"] == 8


def test_a_run_goes_on_with_skip_bad_and_keeps_the_order_of_the_others(run_small, cli, monkeypatch):
    hide_damage(PNG)
    assert run_small("train", "--name", "a") == 4
    assert cli("resume", "--name", "a", "--skip-bad") == 0, cli.err
    assert "1 broken: train/class_01/003.png" in cli.out
    assert list(content("a")["dropped"]) == ["train/class_01/003.png"]
    assert content("a")["config"]["data"]["skip_bad"] is True
    # The same as a run in which the next image has its place.
    PNG.write_bytes(PNG.with_name("004.JPEG").read_bytes())
    assert run_small("train", "--name", "b") == 0
    assert_equal(content("a")["model"], content("b")["model"])


def test_a_run_goes_on_with_a_repaired_image_and_remembers_it(run_small, stop_after, cli):
    whole = hide_damage(PNG)
    PNG.write_bytes(whole[:1000] + bytes(105) + whole[1100:])
    assert run_small("train", "--name", "a") == 4
    PNG.write_bytes(whole)
    assert cli("resume", "--name", "a") == 4, cli.err
    assert cli.says(f"1 changed: train/class_01/003.png ({len(whole)} bytes now)")
    assert cli("resume", "--name", "a", "--skip-bad") == 4
    stop_after(3)
    assert cli("resume", "--name", "a", "--allow-image-changes") == 130
    stop_after(10**9)
    assert cli("resume", "--name", "a") == 0, cli.err
    assert content("a")["changed"] == {"train/class_01/003.png": len(whole)}
    assert run_small("train", "--name", "b") == 0
    assert_equal(content("a")["model"], content("b")["model"])


def test_changes_are_saved_before_the_next_step(run_small, stop_after, cli, monkeypatch):
    stop_after(3)
    assert run_small("train", "--name", "a") == 130
    PNG.unlink()

    def fail(*_args, **_options):
        raise WriteError("the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "train_epoch", fail)
        assert cli("resume", "--name", "a", "--skip-bad") == 5
    assert list(content("a")["dropped"]) == ["train/class_01/003.png"]
    stop_after(1)
    assert cli("resume", "--name", "a") == 130, cli.err
    assert "removed" not in cli.out


def test_an_added_image_is_left_out_and_told(run_small, stop_after, cli):
    assert run_small("train", "--name", "whole") == 0
    stop_after(3)
    assert run_small("train", "--name", "a") == 130
    PNG.with_name("new.png").write_bytes(PNG.read_bytes())
    for split in ("train", "val"):
        shutil.copytree(f"data/{split}/class_00", f"data/{split}/class_000")
    stop_after(10**9)
    assert cli("resume", "--name", "a") == 0, cli.err
    assert "12 added since the start, left out: train/class_000/000.JPEG" in cli.out
    assert_equal(content("a")["model"], content("whole")["model"])


def test_exchanged_folders_of_equal_names_and_sizes_are_noticed(cli, stop_after):
    for split in ("train", "val"):
        for level, name in enumerate(("a", "b")):
            for number in range(4):
                path = Path("data", split, name, f"{number}.bmp")
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.new("RGB", (32, 32), (99 * level, 0, number)).save(path)
    stop_after(2)
    assert cli("train", *SMALL, "--batch-size", 2) == 130
    train = Path("data/train")
    (train / "a").rename("aside")
    (train / "b").rename(train / "a")
    Path("aside").rename(train / "b")
    assert cli("resume") == 4
    assert cli.says("2 changed: train/a/0.bmp (3126 bytes now), train/b/0.bmp")


def test_a_class_without_images_left_is_refused(run_small, stop_after, cli):
    stop_after(3)
    assert run_small("train") == 130
    for path in Path("data/val/class_01").iterdir():
        path.write_bytes(b"")
    assert cli("resume", "--skip-bad") == 4
    assert cli.says("no image can be decoded in class_01 of data/val")


def test_a_run_without_its_list_of_images_is_resumed_if_nothing_changed(run_small, stop_after, cli):
    stop_after(3)
    assert run_small("train") == 130
    images = Path("out/r50_onecycle_amp/images.npy")
    listed = images.read_bytes()
    for damaged in (b"", listed[:-5], b"x" * 200):
        images.write_bytes(damaged)
        stop_after(1)
        assert cli("resume") == 130, cli.err
    images.unlink()
    stop_after(10**9)
    PNG.unlink()
    assert cli("resume") == 4
    assert cli.says("started on")


def test_a_run_of_0_2_0_goes_on_without_the_endings_that_it_ignored(run_small, stop_after, cli):
    stop_after(3)
    assert run_small("train", "--name", "a") == 130
    Path("out/a/images.npy").unlink()
    shutil.copy(PNG, PNG.with_suffix(".jfif"))
    stop_after(1)
    assert cli("resume", "--name", "a") == 130, cli.err
    assert "1 image(s) with endings that 0.2.0 ignored are left out" in cli.out


def test_a_pack_is_used_as_it_is_although_a_file_is_gone(run_small, stop_after, cli):
    assert cli("prepare", *PREPARED) == 0
    assert run_small("train", "--name", "whole") == 0
    stop_after(3)
    assert run_small("train", "--name", "a") == 130
    PNG.unlink()
    assert cli("resume", "--name", "a") == 4
    assert cli.says("--allow-image-changes")
    stop_after(10**9)
    assert cli("resume", "--name", "a", "--allow-image-changes") == 0, cli.err
    assert_equal(content("a")["model"], content("whole")["model"])
