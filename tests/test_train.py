import copy
import errno
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torchvision
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from conftest import SMALL
from imgnet_mini.checkpoint.host_copy import HostCopy
from imgnet_mini.checkpoint.store import CheckpointStore
from imgnet_mini.config.run_config import RunConfig
from imgnet_mini.data.loaders import Loader
from imgnet_mini.distributed import rank_sync
from imgnet_mini.errors import WriteError
from imgnet_mini.runs.records import read_csv
from imgnet_mini.training import trainer as trainer_module
from imgnet_mini.training.precision import Precision
from imgnet_mini.training.run import TrainingRun

FILES = {
    "checkpoints/a/.lock",
    "checkpoints/a/manifest.json",
    "checkpoints/a/checkpoint-8.pth",
    "checkpoints/a/checkpoint.pth",
    "checkpoints/a/best.pth",
    "out/a/train_log.csv",
    "out/a/logs.md",
    "out/a/config.toml",
    "out/a/environment.json",
    "out/a/images.npy",
    "reports/a/model_summary.txt",
}


def files(folder="."):
    return {
        path.as_posix()
        for path in Path(folder).rglob("*")
        if path.is_file() and not path.is_relative_to("data")
    }


def test_a_run_writes_what_it_promises_and_says_where(run_small, cli):
    assert run_small("train", "--name", "a") == 0, cli.err
    assert {path for path in files() if not path.startswith("runs/")} == FILES
    assert len(list(Path("runs/a").glob("events.out.tfevents.*"))) == 1
    assert "tensorboard --logdir runs" in cli.out
    assert "shufflenet_v2_x0_5" in cli.out
    assert "3 classes" in cli.out
    assert "checkpoints/a" in cli.out

    records = read_csv(Path("out/a/train_log.csv"))
    assert [(r.epoch, r.phase) for r in records] == [
        (epoch, phase) for epoch in range(3) for phase in ("train", "val")
    ]
    for record in records:
        assert record.to_line() in cli.out
        assert record.to_line() in Path("out/a/logs.md").read_text("utf-8")

    events = EventAccumulator("runs/a")
    events.Reload()
    assert {
        tag: [event.step for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]
    } == {
        "train/loss_step": list(range(12)),
        "train/lr": list(range(12)),
    } | {
        f"{phase}/{name}": [0, 1, 2]
        for phase in ("train", "val")
        for name in ("loss", "top1", "top5", "imgs_per_sec")
    } | {"val/balanced_top1": [0, 1, 2], "val/best_top1": [2]}
    assert events.Scalars("val/loss")[2].value == pytest.approx(records[-1].loss)

    environment = json.loads(Path("out/a/environment.json").read_text("utf-8"))
    assert environment["train_images"] == 24
    assert environment["torch"] == str(torch.__version__)


def test_the_learning_rate_is_that_of_one_cycle(run_small):
    assert run_small("train", "--name", "a", "--max-lr", 0.0046) == 0
    weight = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([weight], 0.0046)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, 0.0046, total_steps=12, cycle_momentum=False
    )
    rates = []
    for step in range(12):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        if step < 11:
            scheduler.step()
    events = EventAccumulator("runs/a")
    events.Reload()
    assert [event.value for event in events.Scalars("train/lr")] == pytest.approx(rates)
    assert [r.lr for r in read_csv(Path("out/a/train_log.csv"))][::2] == rates[3::4]


def test_unset_the_peak_is_a_tenth_per_256_images_and_saved_resolved(run_small):
    assert run_small("train", "--name", "a") == 0
    assert RunConfig.read(Path("out/a/config.toml")).schedule.max_lr == pytest.approx(0.1 * 6 / 256)


@pytest.mark.parametrize("file", ["best", "checkpoint"])
def test_weights_load_strictly_into_plain_torchvision(run_small, file):
    assert run_small("train", "--name", "a") == 0
    content = torch.load(f"checkpoints/a/{file}.pth", weights_only=True)
    torchvision.models.shufflenet_v2_x0_5(num_classes=3).load_state_dict(content["model"])


def test_best_is_the_first_epoch_with_the_highest_top1(run_small):
    assert run_small("train", "--name", "a") == 0
    top1 = [r.top1 for r in read_csv(Path("out/a/train_log.csv")) if r.phase == "val"]
    best = torch.load("checkpoints/a/best.pth", weights_only=True)
    assert best["epoch"] == top1.index(max(top1))
    assert best["metrics"]["top1"] == max(top1)


def test_the_same_seed_gives_the_same_weights_and_another_one_others(run_small):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        assert run_small("train", "--name", name, "--seed", seed, "--epochs", 1) == 0
    a, b, c = (
        torch.load(f"checkpoints/{name}/checkpoint.pth", weights_only=True)["model"]
        for name in "abc"
    )
    assert all(torch.equal(a[key], b[key]) for key in a)
    assert not torch.equal(a["fc.weight"], c["fc.weight"])


def test_an_existing_run_is_refused_and_left_as_it_is(run_small, cli):
    assert run_small("train", "--name", "a", "--epochs", 1) == 0
    before = {path: Path(path).read_bytes() for path in files()}
    assert run_small("train", "--name", "a", "--epochs", 1) == 2
    for word in ("imgnet-mini resume --name a", "--resume", "--overwrite"):
        assert cli.says(word)
    assert {path: Path(path).read_bytes() for path in files()} == before


def test_overwrite_starts_anew_without_remains(run_small):
    assert run_small("train", "--name", "a", "--reports") == 0
    assert run_small("train", "--name", "a", "--epochs", 1, "--overwrite") == 0
    assert [path.name for path in Path("reports/a").iterdir()] == ["model_summary.txt"]
    assert len(read_csv(Path("out/a/train_log.csv"))) == 2
    events = EventAccumulator("runs/a")
    events.Reload()
    assert [event.step for event in events.Scalars("val/top1")] == [0]


def test_overwrite_that_cannot_start_loses_nothing(run_small, cli):
    assert run_small("train", "--name", "a", "--epochs", 1) == 0
    before = files()
    assert run_small("train", "--name", "a", "--overwrite", "--arch", "resnet5") == 2
    assert cli.says("did you mean resnet50")
    assert run_small("train", "--name", "a", "--overwrite", "--data-root", "nowhere") == 4
    assert files() == before


def test_resume_flag_starts_where_there_is_nothing_and_continues_where_there_is(run_small, cli):
    assert run_small("train", "--name", "a", "--resume") == 0
    assert "learning rate up to" in cli.out
    assert run_small("train", "--name", "a", "--resume") == 0
    assert "finished" in cli.out


def test_where_only_the_best_weights_are_left_each_command_names_the_way_out(run_small, cli):
    assert run_small("train", "--name", "a") == 0
    for path in Path("checkpoints/a").glob("checkpoint*.pth"):
        path.unlink()
    assert cli("resume", "--name", "a") == 6
    assert cli.says("imgnet-mini train --config out/a/config.toml --name a --overwrite")
    for more in ([], ["--resume"]):
        assert run_small("train", "--name", "a", *more) == 2
        assert cli.says("a run named a has left checkpoints/a/best.pth, and no checkpoint")
        assert cli.says("train --overwrite, or choose another --name")
    assert run_small("train", "--name", "a", "--overwrite", "--epochs", 1) == 0, cli.err


def test_resume_and_overwrite_exclude_each_other(run_small, cli):
    assert run_small("train", "--resume", "--overwrite") == 2
    assert cli.says("--resume and --overwrite")


def test_auto_takes_what_find_lr_saved_for_this_name(run_small, cli):
    finder = Path("lr_finder_plots")
    finder.mkdir()
    for name, lr in (("a", 0.0123), ("b", 0.5)):
        result = {"name": name, "lr": lr, "recommended": "steepest", "time": "2026-01-01T00:00:00"}
        (finder / f"lr_finder_{name}.json").write_text(json.dumps(result))
    assert run_small("train", "--name", "a", "--max-lr", "auto", "--epochs", 1) == 0, cli.err
    assert RunConfig.read(Path("out/a/config.toml")).schedule.max_lr == 0.0123


def test_auto_without_a_suggestion_names_the_command_that_makes_one(run_small, cli):
    assert run_small("train", "--name", "a", "--max-lr", "auto") == 2
    assert pasted(cli)[:2] == ["imgnet-mini", "find-lr"]
    assert not files()


def test_reports_makes_the_report_at_the_end(run_small, cli):
    assert run_small("train", "--name", "a", "--epochs", 1, "--reports") == 0, cli.err
    assert Path("reports/a/confusion_matrix.png").exists()


def test_a_signal_in_the_last_save_stops_before_the_reports(run_small, cli, monkeypatch):
    finish_epoch = TrainingRun.finish_epoch

    def signalled(self, *metrics):
        finish_epoch(self, *metrics)
        signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(TrainingRun, "finish_epoch", signalled)
    assert run_small("train", "--name", "a", "--epochs", 1, "--reports") == 143
    assert cli.says("stopped by SIGTERM after the last epoch: everything is saved")
    assert cli.says("imgnet-mini report --name a")
    assert not Path("reports/a/metrics.json").exists()
    assert cli("resume", "--name", "a") == 0
    assert "a is finished" in cli.out


def test_a_loss_that_is_not_finite_ends_the_run_and_keeps_the_last_good_checkpoint(run_small, cli):
    assert run_small("train", "--name", "a", "--max-lr", 1e30) == 7
    assert cli.says("--max-lr")
    assert cli.says("epoch 0, batch")
    assert cli.says("Safe: step 0 (epoch 0), in checkpoints/a/checkpoint.pth")
    assert pasted(cli) == ["imgnet-mini", "resume", "--name", "a", "--max-lr", "5e+29", "--replan"]
    content = torch.load("checkpoints/a/checkpoint.pth", weights_only=True)
    assert content["state"]["step"] == 0
    assert cli("resume", "--name", "a", "--max-lr", 0.01, "--replan") == 0, cli.err


def test_after_an_overflow_of_fp16_both_commands_work(run_small, cli, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(Precision, "name", "fp16")
        assert run_small("train", "--name", "a", "--max-lr", 1e30, "--output-dir", "my runs") == 7
    assert "my runs/out/a/config.toml" in pasted(cli)
    assert cli(*pasted(cli)[1:], "--max-lr", 0.01, "--epochs", 2) == 0, cli.err
    assert Path("my runs/checkpoints/a-bf16/best.pth").exists()


def test_a_schedule_shorter_than_its_rise_is_refused_before_anything_is_written(run_small, cli):
    assert run_small("train", "--name", "a", "--epochs", 1, "--batch-size", 24) == 2
    assert cli.says("too short for a one-cycle schedule")
    assert not files()


def test_out_of_memory_names_the_batch_size_to_try(run_small, cli, monkeypatch):
    def no_memory(*_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(trainer_module.Trainer, "train_step", no_memory)
    assert run_small("train", "--name", "a") == 2
    assert cli.says(
        "out of memory at --batch-size 6: try --batch-size 3, or --grad-accum-steps 2, which"
    )
    assert cli.says("Nothing is lost: correct the command, and run train again")
    assert not pasted(cli)


def test_out_of_memory_in_a_later_epoch_names_a_command_that_continues(run_small, cli, monkeypatch):
    step = trainer_module.Trainer.train_step

    def without_memory(self, batches):
        if self.state.step == 5:
            raise torch.OutOfMemoryError("CUDA out of memory")
        step(self, batches)

    with monkeypatch.context() as patch:
        patch.setattr(trainer_module.Trainer, "train_step", without_memory)
        assert run_small("train", "--name", "a", "--output-dir", "my results") == 2
    assert cli.says("out of memory at --batch-size 6 Safe: step 4")
    command = pasted(cli)
    assert command[-3:] == ["--grad-accum-steps", "2", "--allow-world-size-change"]
    assert cli(*command[1:]) == 0, cli.err


def pasted(cli):
    """The words of the last command below a message, as a shell splits them."""
    commands = [line for line in cli.err.splitlines() if line.startswith("  imgnet-mini ")]
    return shlex.split(commands[-1]) if commands else []


@pytest.mark.parametrize("options", [["--batch-size", 6, "--grad-accum-steps", 6], ["--compile"]])
def test_what_fails_before_the_first_step_does_not_block_the_corrected_command(
    run_small, cli, monkeypatch, options
):
    if options == ["--compile"]:
        from torch._inductor.exc import InvalidCxxCompiler  # noqa: PLC0415 - slow

        def no_compiler(*_):
            raise InvalidCxxCompiler

        monkeypatch.setattr(trainer_module.Trainer, "train_step", no_compiler)
    assert run_small("train", "--name", "a", *options) == 2
    assert cli.says("--no-compile" if options == ["--compile"] else "fewer --grad-accum-steps")
    assert cli.says("Nothing is lost: correct the command, and run train again")
    monkeypatch.undo()
    assert run_small("train", "--name", "a", "--resume", "--epochs", 1) == 0, cli.err
    assert run_small("train", "--name", "a", "--epochs", 1) == 2
    assert run_small("train", "--name", "a", "--resume", "--epochs", 1) == 0, cli.err
    assert "a is finished" in cli.out


@pytest.mark.parametrize("command", ["train", "find-lr", "evaluate"])
def test_out_of_memory_while_the_network_is_built_names_it_too(
    run_small, cli, monkeypatch, command
):
    if command == "evaluate":
        assert run_small("train", "--name", "a") == 0

    def no_memory(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(torch.nn.Module, "to", no_memory)
    small = SMALL[:-2] if command == "find-lr" else SMALL if command == "train" else ()
    assert cli(command, *small, "--name", "a") == 2
    assert cli.says("out of memory at --batch-size 6: ")


@pytest.mark.parametrize(("spare", "code"), [([True], 0), ([False], 2)], ids=["some", "none"])
def test_validation_that_runs_out_of_memory_is_repeated_once_the_pack_is_given_back(
    run_small, cli, monkeypatch, spare, code
):
    validate, calls = trainer_module.Trainer.validate, []

    def out_of_memory_at_first(*args):
        calls.append(args)
        if len(calls) == 1:
            raise torch.OutOfMemoryError
        return validate(*args)

    monkeypatch.setattr(trainer_module.Trainer, "validate", out_of_memory_at_first)
    monkeypatch.setattr(Loader, "free_memory", lambda _: spare.pop())
    assert run_small("train", "--name", "a", "--epochs", 1) == code, cli.err
    assert len(calls) == (2 if code == 0 else 1)


@pytest.mark.parametrize("where", ["weight", "running_mean", "momentum"])
def test_what_is_not_finite_never_reaches_a_checkpoint(run_small, cli, monkeypatch, where):
    step = trainer_module.Trainer.train_step

    def poisoned(self, batches):
        step(self, batches)
        if self.state.step == 6:
            first = next(self.model.parameters())
            if where == "weight":
                first.data[0] = torch.nan
            elif where == "momentum":
                self._optimizer.state[first]["momentum_buffer"][0] = torch.inf
            else:
                dict(self.model.named_buffers())["conv1.1.running_mean"][0] = torch.inf

    monkeypatch.setattr(trainer_module.Trainer, "train_step", poisoned)
    assert run_small("train", "--name", "a") == 7
    assert cli.says("Safe: step 4")
    content = torch.load("checkpoints/a/checkpoint.pth", weights_only=True)
    assert content["state"]["step"] == 4
    assert all(t.isfinite().all() for t in content["model"].values() if t.is_floating_point())
    assert all(row.epoch == 0 for row in read_csv(Path("out/a/train_log.csv")))


def test_inside_a_long_epoch_it_is_saved_every_so_many_minutes(run_small, monkeypatch):
    monkeypatch.setattr(rank_sync, "_SYNC_SECONDS", 0.0)
    saved = []
    save = CheckpointStore.save
    monkeypatch.setattr(
        CheckpointStore,
        "save",
        lambda self, checkpoint: (saved.append(checkpoint.state.step), save(self, checkpoint)),
    )
    assert run_small("train", "--name", "a", "--epochs", 1, "--save-minutes", 1e-9) == 0
    assert saved == [0, 1, 2, 3, 4, 4]


def test_training_goes_on_while_a_checkpoint_is_written_and_it_is_that_of_its_step(
    run_small, monkeypatch
):
    assert run_small("train", "--name", "b", "--keep", 9) == 0
    steps, saves = [], []
    train_step, save = trainer_module.Trainer.train_step, CheckpointStore.save

    def counted(self, batches):
        train_step(self, batches)
        with changed:
            steps.append(self.state.step)
            changed.notify()

    def slow(self, checkpoint):
        saves.append(checkpoint.state.step)
        with changed:
            if 0 < checkpoint.state.step < 12:
                assert changed.wait_for(lambda: steps[-1] >= checkpoint.state.step + 2, 60)
        save(self, checkpoint)

    changed = threading.Condition()
    monkeypatch.setattr(trainer_module.Trainer, "train_step", counted)
    monkeypatch.setattr(CheckpointStore, "save", slow)
    assert run_small("train", "--name", "a", "--keep", 9) == 0
    assert saves == [0, 4, 8, 12]
    for step in ("-0", "-4", "-8", ""):
        ours, theirs = (
            torch.load(f"checkpoints/{name}/checkpoint{step}.pth", weights_only=True)
            for name in "ab"
        )
        for part in ("model", "optimizer", "rng"):
            torch.testing.assert_close(ours[part], theirs[part], rtol=0, atol=0)


def test_a_checkpoint_is_written_once_its_copy_is_complete_and_validation_waits_for_it(
    run_small, monkeypatch
):
    monkeypatch.setattr(rank_sync, "_SYNC_SECONDS", 0.0)
    save, wait, validate = CheckpointStore.save, HostCopy.wait, trainer_module.Trainer.validate
    events = []

    def noted_wait(self):
        wait(self)
        events.append("copied")

    def noted_save(self, checkpoint):
        before = copy.deepcopy(checkpoint.model)
        time.sleep(2 if checkpoint.state.step == 1 else 0)  # while the next step is taken
        torch.testing.assert_close(checkpoint.model, before, rtol=0, atol=0)
        save(self, checkpoint)
        events.append("saved")

    def noted_validate(*args):
        events.append("validation")
        return validate(*args)

    monkeypatch.setattr(HostCopy, "wait", noted_wait)
    monkeypatch.setattr(CheckpointStore, "save", noted_save)
    monkeypatch.setattr(trainer_module.Trainer, "validate", noted_validate)
    assert run_small("train", "--name", "a", "--epochs", 1, "--save-minutes", 1e-9) == 0
    assert events == ["copied", "saved"] * 5 + ["validation", "copied", "saved"]


def test_a_save_that_fails_while_training_goes_on_ends_it_soon(run_small, cli, monkeypatch):
    monkeypatch.setattr(rank_sync, "_SYNC_SECONDS", 0.0)
    save, train_step = CheckpointStore.save, trainer_module.Trainer.train_step
    failed, steps = threading.Event(), []

    def full(self, checkpoint):
        if checkpoint.state.step == 4:
            raise WriteError("no space")
        save(self, checkpoint)

    def noted(self, batches):
        train_step(self, batches)
        steps.append(self.state.step)
        if self.state.step > 4:
            assert failed.wait(30)

    def reported(self, future):
        result = set_exception(self, future)
        failed.set()
        return result

    set_exception = Future.set_exception
    monkeypatch.setattr(Future, "set_exception", reported)
    monkeypatch.setattr(CheckpointStore, "save", full)
    monkeypatch.setattr(trainer_module.Trainer, "train_step", noted)
    assert run_small("train", "--name", "a") == 5
    assert cli.says("no space")
    assert cli.says("Safe: step 0")
    assert max(steps) == 5


def test_a_run_whose_folder_leads_elsewhere_is_refused(run_small, cli, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    Path("checkpoints").mkdir()
    Path("checkpoints/a").symlink_to(tmp_path / "elsewhere")
    assert run_small("train", "--name", "a") == 2
    assert cli.says("checkpoints/a is a link out of checkpoints")
    assert not list((tmp_path / "elsewhere").iterdir())
    Path("checkpoints/a").unlink()
    Path("checkpoints").rmdir()
    Path("checkpoints").symlink_to(tmp_path / "elsewhere")  # all runs on another disk, say
    assert run_small("train", "--name", "a", "--epochs", 1) == 0, cli.err


def test_a_disk_that_will_be_too_small_is_said_before_training(run_small, cli, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(9, 9, 10**6))
    assert run_small("train", "--name", "a", "--epochs", 1) == 0
    note = r"Note: checkpoints will take up to \d+\.\d MB, and checkpoints/a has 1\.0 MB free"
    assert re.search(note, cli.out)


def test_a_disk_that_is_full_in_the_middle_names_what_is_safe(run_small, cli, monkeypatch):
    replace = Path.replace

    def full(self, target):
        if self.name.startswith(".checkpoint.pth") and Path("out/a/logs.md").exists():
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return replace(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", full)
        assert run_small("train", "--name", "a") == 5
    for words in ("No space left", "MB needed", "Safe: step 0", "imgnet-mini resume --name a"):
        assert cli.says(words)
    assert cli("resume", "--name", "a") == 0, cli.err


def test_a_corrupt_image_is_named_before_training(run_small, cli):
    image = Path("data/train/class_01/002.JPEG")
    image.write_bytes(image.read_bytes()[:-200])
    assert run_small("train", "--name", "a") == 4
    assert cli.says("data/train/class_01/002.JPEG")
    assert not files()


def test_an_image_that_breaks_in_the_middle_of_training_is_named(run_small, cli):
    image = Path("data/train/class_01/003.png")
    whole = image.read_bytes()
    image.write_bytes(whole[:1000] + bytes(100) + whole[1100:])  # both ends are whole
    assert run_small("train", "--name", "a", "--workers", 1) == 4
    assert cli.says("data/train/class_01/003.png")
    assert cli.says("Safe: step 0")
    assert not cli.says("Traceback")
    for flag in ("--skip-bad", "--allow-image-changes"):
        assert cli.says(f"imgnet-mini resume --name a {flag}")
    assert run_small("train", "--name", "b", "--skip-bad", "--epochs", 2) == 0, cli.err
    image.write_bytes(whole)
    assert cli("resume", "--name", "a") == 0, cli.err


def test_an_output_folder_that_cannot_be_written_is_named_before_training(run_small, cli):
    Path("file").write_text("in the way")
    assert run_small("train", "--name", "a", "--output-dir", "file") == 5
    assert cli.says("cannot write file/checkpoints/a/.lock")
    assert "[Train]" not in cli.out


def test_missing_data_says_what_was_looked_for_and_names_the_demo(cli, tmp_path):
    assert cli("train") == 4
    for words in (
        str(tmp_path / "data" / "imagenet-mini"),
        "train/<class>/<image>.JPEG",
        "ifigotin/imagenetmini-1000",
        "imgnet-mini demo",
    ):
        assert cli.says(words)


@pytest.mark.parametrize("arch", ["googlenet", "squeezenet1_1"])
def test_networks_with_ways_of_their_own_are_trained(run_small, cli, arch):
    assert run_small("train", "--name", "a", "--arch", arch, "--epochs", 1) == 0, cli.err


@pytest.mark.skipif(os.name != "posix", reason="Windows has no such signals")
@pytest.mark.usefixtures("default_sighup")
@pytest.mark.parametrize(
    ("number", "code", "workers"),
    [(signal.SIGINT, 130, 2), (signal.SIGTERM, 143, 2), (signal.SIGTERM, 143, 0), (1, 129, 2)],
)
def test_a_signal_to_the_whole_group_saves_and_says_how_to_continue(data, number, code, workers):
    options = [str(word) for word in SMALL]
    options[options.index("--workers") + 1] = str(workers)
    options[options.index("--epochs") + 1] = "500"
    process = subprocess.Popen(
        [sys.executable, "-m", "imgnet_mini", "train", *options, "--name", "a"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    deadline = time.monotonic() + 60
    log = Path("out/a/train_log.csv")
    while not (log.exists() and len(log.read_text().splitlines()) > 3):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    os.killpg(process.pid, number)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == code, errors
    assert "imgnet-mini resume --name a" in errors
    assert "Traceback" not in errors
    state = torch.load("checkpoints/a/checkpoint.pth", weights_only=True)["state"]
    assert state["step"] == 4 * state["epoch"] + state["batch"]


def test_averaged_weights_are_validated_beside_the_raw_ones_and_kept_as_the_best(run_small, cli):
    assert run_small("train", "--name", "plain", "--max-lr", 0.05) == 0, cli.err
    sha256 = re.search(r"Final weights sha256 (\w+)", cli.out)[1]
    assert run_small("train", "--name", "a", "--max-lr", 0.05, "--ema-decay", 0.6) == 0, cli.err
    assert sha256 in cli.out  # of the raw weights, which are trained as ever
    assert "of the averaged weights after epoch" in cli.out

    records = read_csv(Path("out/a/train_log.csv"))
    assert [(r.epoch, r.phase) for r in records] == [
        (epoch, phase) for epoch in range(3) for phase in ("train", "val", "ema")
    ]
    plain = read_csv(Path("out/plain/train_log.csv"))
    of_both = [replace(r, imgs_per_sec=0) for r in records if r.phase != "ema"]
    assert of_both == [replace(r, imgs_per_sec=0) for r in plain]
    averaged = [r for r in records if r.phase == "ema"]
    assert averaged[0].loss != records[1].loss
    for record in averaged:
        assert record.to_line().startswith(f"[Ema] Epoch 00{record.epoch} | loss ")
        assert record.to_line() in cli.out
        assert record.to_line() in Path("out/a/logs.md").read_text("utf-8")
    events = EventAccumulator("runs/a")
    events.Reload()
    assert [event.value for event in events.Scalars("ema/top1")] == pytest.approx(
        [r.top1 for r in averaged]
    )
    assert events.Scalars("val/best_top1")[0].value == pytest.approx(max(r.top1 for r in averaged))

    best = torch.load("checkpoints/a/best.pth", weights_only=True)
    last = torch.load("checkpoints/a/checkpoint.pth", weights_only=True)
    top1 = [r.top1 for r in averaged]
    assert best["epoch"] == last["state"]["best_epoch"] == top1.index(max(top1))
    assert best["metrics"]["loss"] == averaged[best["epoch"]].loss
    for weights in (best["model"], best["raw"], last["model"], last["ema"]):
        torchvision.models.shufflenet_v2_x0_5(num_classes=3).load_state_dict(weights)
    assert not torch.equal(best["model"]["fc.bias"], best["raw"]["fc.bias"])
    if best["epoch"] == 2:
        assert torch.equal(best["model"]["fc.bias"], last["ema"]["fc.bias"])


def test_what_is_made_of_the_best_weights_is_made_of_the_averaged_ones(run_small, cli):
    more = ("--name", "a", "--ema-decay", 0.6, "--no-amp", "--epochs", 2)
    assert run_small("train", *more) == 0, cli.err
    assert cli("report", "--name", "a", "--workers", 0) == 0, cli.err
    best = torch.load("checkpoints/a/best.pth", weights_only=True)
    metrics = json.loads(Path("reports/a/metrics.json").read_text("utf-8"))
    assert metrics["loss"] == pytest.approx(best["metrics"]["loss"], rel=1e-6)
    assert metrics["top1"] == best["metrics"]["top1"]
    assert "EMA top-1" in Path("reports/a/index.html").read_text("utf-8")
    assert cli("readme", "--name", "a") == 0, cli.err
    assert "those of the EMA weights" in Path("README.md").read_text("utf-8")
    assert cli("export", "--name", "a", "--format", "state-dict") == 0, cli.err
    assert cli("evaluate", "--name", "a", "--workers", 0, "--checkpoint", "last") == 0, cli.err
    last = json.loads(Path("reports/a/metrics.json").read_text("utf-8"))["loss"]
    (raw,) = [r for r in read_csv(Path("out/a/train_log.csv")) if (r.epoch, r.phase) == (1, "val")]
    assert last == pytest.approx(raw.loss, rel=1e-6)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--nesterov", "--momentum", 0), "--nesterov requires a --momentum above 0, such as 0.9"),
        (
            ("--zero-init-residual",),
            "--zero-init-residual is for the ResNets of torchvision, and not for shufflenet",
        ),
        (("--ema-decay", 1), "--ema-decay 1: must be a number of at least 0 and below 1"),
        (("--clip-grad", 0), "--clip-grad 0: should be greater than 0"),
    ],
)
def test_settings_that_cannot_be_are_refused_before_anything_is_written(
    run_small, cli, options, says
):
    assert run_small("train", "--name", "a", *options) == 2
    assert cli.says(says)
    assert not Path("out").exists()
