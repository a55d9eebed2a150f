"""Numbers of a run in an experiment tracker; its real packages are for test_real_trackers.py."""

import math
import re
import threading
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from helpers.events import read_events
from imgnet_mini.checkpoint.load import read_run
from imgnet_mini.config.run_config import RunConfig, run_flags
from imgnet_mini.runs import tracking
from imgnet_mini.runs.tracking import OpenRecord, Tracker, TrackerRecord, build_tracker
from imgnet_mini.utils import packages


@dataclass
class Service:
    """A tracker in memory: rows and settings by id of the record."""

    rows: dict[str, list[tuple[int, dict[str, float]]]] = field(default_factory=dict)
    settings: dict[str, dict[str, object]] = field(default_factory=dict)
    finished: list[str] = field(default_factory=list)

    def open(self, record, name, folder, settings):
        rows = self.rows.setdefault(record.id, [])
        self.settings[record.id] = dict(settings)
        return OpenRecord(
            lambda metrics, step: rows.append((step, dict(metrics))),
            lambda: self.finished.append(record.id),
            1 + max((step for step, _ in rows), default=-1),
        )

    @property
    def only_rows(self):
        (rows,) = self.rows.values()
        return rows


@pytest.fixture
def service(monkeypatch):
    service = Service()
    monkeypatch.setitem(tracking.TRACKERS, "wandb", service.open)
    monkeypatch.setattr(packages, "find_spec", lambda name: name)
    return service


def start(step=0):
    tracker = Tracker(TrackerRecord("wandb", "a-1"), name="a", folder=Path(), step=step)
    tracker.start({"max_lr": 0.1})
    return tracker


def series(rows, tag):
    return [(step, metrics[tag]) for step, metrics in rows if tag in metrics]


def test_a_run_is_tracked_with_the_numbers_of_tensorboard(run_small, service, cli):
    assert run_small("train", "--name", "a", "--track", "wandb", "--max-lr", 0.01) == 0, cli.err
    scalars = read_events("runs/a").scalars
    rows, steps = service.only_rows, 4
    assert [step for step, _ in rows] == list(range(3 * steps))
    for tag, points in scalars.items():
        last = steps if tag not in ("train/loss_step", "train/lr") else 1
        ours = [(step if last == 1 else step // last, value) for step, value in series(rows, tag)]
        assert [step for step, _ in ours] == [step for step, _ in points], tag
        assert [value for _, value in ours] == pytest.approx([value for _, value in points]), tag
    assert {tag for _, metrics in rows for tag in metrics} == scalars.keys() | {"epoch"}
    assert series(rows, "epoch") == [(3, 0), (7, 1), (11, 2)]
    (settings,) = service.settings.values()
    assert (settings["max_lr"], settings["arch"]) == (0.01, "shufflenet_v2_x0_5")
    assert not {"data_root", "output_dir"} & settings.keys()
    assert service.finished == [*service.rows]


def test_a_resumed_run_goes_on_in_its_record_and_repeats_no_step(run_small, service, cli):
    assert run_small("train", "--name", "a", "--track", "wandb", "--max-lr", 0.01) == 0, cli.err
    whole, end = list(service.only_rows), final_weights(cli)
    Path("checkpoints/a/checkpoint.pth").unlink()  # as if killed in its last epoch
    assert cli("resume", "--name", "a") == 0, cli.err
    assert [step for step, _ in service.only_rows] == [step for step, _ in whole]
    assert final_weights(cli) == end
    assert len(service.finished) == 2


def test_weights_depend_neither_on_tracking_nor_on_its_failure(
    run_small, service, cli, monkeypatch
):
    def broken(*_, **__):
        raise OSError("disk full")

    full = OpenRecord(broken, broken, 0)
    monkeypatch.setitem(tracking.TRACKERS, "trackio", lambda *_: full)
    ends = []
    for name in ("none", "wandb", "trackio"):
        assert run_small("train", "--name", name, "--track", name, "--epochs", 1) == 0
        ends.append(final_weights(cli))
    assert len(set(ends)) == 1
    assert "Warning: --track trackio: OSError: disk full" in cli.err
    assert read_run(Path("checkpoints/none/checkpoint.pth")).tracking is None
    saved = read_run(Path("checkpoints/wandb/checkpoint.pth")).tracking
    assert saved == f"wandb:{next(iter(service.rows))}"
    assert re.fullmatch(r"wandb:wandb-[0-9a-f]{8}", saved)


def final_weights(cli):
    return re.search(r"Final weights sha256 (\w+)", cli.out)[1]


def test_a_run_that_was_not_tracked_gets_a_record_with_its_earlier_epochs(
    data, copy_run, service, cli
):
    copy_run(data.parent, "--max-lr", 0.05, "--epochs", 1)
    again = ["--epochs", 2, "--replan", "--track", "wandb"]
    assert cli("resume", "--name", "a", *again) == 0, cli.err
    assert [step for step, _ in service.only_rows] == [3, 4, 5, 6, 7]
    assert len(series(service.only_rows, "val/top1")) == 2


def test_an_earlier_checkpoint_starts_a_record_of_its_own(run_small, service, cli):
    assert run_small("train", "--name", "a", "--track", "wandb", "--max-lr", 0.01) == 0, cli.err
    earlier = "checkpoints/a/checkpoint-8.pth"
    assert cli("resume", "--name", "a", "--checkpoint", earlier) == 0, cli.err
    first, second = service.rows.values()
    assert [step for step, _ in first] == list(range(12))
    assert [step for step, _ in second] == [3, 7, 8, 9, 10, 11]


def test_a_resumed_run_can_stop_tracking(data, copy_run, service, cli):
    copy_run(data.parent, "--max-lr", 0.05, "--epochs", 1)
    Path("checkpoints/a/checkpoint.pth").unlink()
    saved = ["--name", "a", "--track"]
    assert cli("resume", *saved, "wandb") == 0, cli.err
    Path("checkpoints/a/checkpoint.pth").unlink()
    assert cli("resume", *saved, "none") == 0, cli.err
    assert len(service.finished) == 1


@pytest.mark.parametrize("fails", ["open", "log", "finish"])
def test_a_tracker_that_fails_is_one_warning(service, monkeypatch, capsys, fails):
    def broken(*_, **__):
        raise RuntimeError("no\x1bnetwork")

    def open_broken(*_):
        parts = {"log": lambda *_, **__: None, "finish": lambda: None, fails: broken}
        return OpenRecord(parts["log"], parts["finish"], 0)

    monkeypatch.setitem(tracking.TRACKERS, "wandb", broken if fails == "open" else open_broken)
    tracker = start()
    for step in range(3):
        tracker.log_step(step, {"train/lr": 0.1})
    tracker.close()
    error = capsys.readouterr().err
    assert "Warning: --track wandb: RuntimeError: no\\x1bnetwork" in error
    assert error.count("Warning") == 1


def test_a_tracker_that_hangs_is_not_waited_for(service, monkeypatch, capsys):
    release = threading.Event()
    hanging = OpenRecord(lambda *_, **__: release.wait(60), lambda: None, 0)
    monkeypatch.setitem(tracking.TRACKERS, "wandb", lambda *_: hanging)
    monkeypatch.setattr(tracking, "_FINISH_SECONDS", 0.05)
    tracker = start()
    for step in range(10):
        tracker.log_step(step, {"train/lr": 0.1})
    tracker.close()
    assert "it has not finished within" in capsys.readouterr().err
    release.set()


def test_a_tracker_that_cannot_keep_up_is_given_up_before_it_fills_the_memory(
    service, monkeypatch, capsys
):
    release = threading.Event()
    slow = OpenRecord(lambda *_, **__: release.wait(60), lambda: None, 0)
    monkeypatch.setitem(tracking.TRACKERS, "wandb", lambda *_: slow)
    monkeypatch.setattr(tracking, "_MAX_WAITING", 5)
    tracker = start()
    for step in range(20):
        tracker.log_step(step, {"train/lr": 0.1})
    assert tracker._rows.qsize() == 5
    assert capsys.readouterr().err.count("5 rows wait") == 1
    release.set()
    tracker.close()


def test_values_of_a_step_are_one_row_and_nan_is_left_out(service):
    tracker = start()
    tracker.log_step(0, {"train/loss_step": 2.0, "train/lr": 0.1})
    tracker.log_step(1, {"train/loss_step": math.nan, "train/lr": 0.2})
    tracker.log_epoch({"val/top1": 50.0})
    tracker.close()
    assert service.only_rows == [
        (0, {"train/loss_step": 2.0, "train/lr": 0.1}),
        (1, {"train/lr": 0.2, "val/top1": 50.0}),
    ]


def test_an_epoch_that_ends_after_its_last_step_was_sent_takes_the_next_row(service):
    before = start()
    before.log_step(0, {"train/lr": 0.1})
    before.flush()  # stopped while it validates
    before.close()
    tracker = start(step=1)
    tracker.log_epoch({"val/top1": 50.0})
    tracker.flush()
    for step in (1, 2):
        tracker.log_step(step, {"train/lr": 0.2})
    tracker.close()
    assert [(step, *metrics) for step, metrics in service.only_rows] == [
        (0, "train/lr"),
        (1, "val/top1"),
        (2, "train/lr"),
    ]


def test_another_tracker_takes_a_record_of_its_own(service):
    saved = TrackerRecord("trackio", "a-1")
    tracker = build_tracker("wandb", RunConfig().run.paths(), saved)
    assert tracker.record.tracker == "wandb"
    assert tracker.record.id != saved.id


@pytest.mark.parametrize("command", ["train", "resume"])
def test_a_missing_package_is_named_with_its_cure(
    data, copy_run, cli, monkeypatch, run_small, command
):
    monkeypatch.setattr(packages, "find_spec", lambda name: None)
    copy_run(data.parent, "--max-lr", 0.05, "--epochs", 1)
    more = ["--name", "b"] if command == "train" else ["--name", "a", "--epochs", 2, "--replan"]
    assert cli(command, "--track", "trackio", *more) == 2
    assert cli.says("--track trackio requires trackio, not installed")
    assert 'pip install "imgnet-mini[trackio]"' in cli.err
    assert not Path("checkpoints/b").exists()


def test_commands_that_do_not_train_are_not_told_of_it():
    run = RunConfig().override({"run": {"track": "wandb", "name": "a"}}).run
    assert run_flags(run) == " --name a"
