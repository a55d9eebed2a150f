import os
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from helpers.outcomes import differences, outcome
from helpers.rank_runs import run_ranks
from helpers.stops import stop_at
from imgnet_mini.config.data_settings import DataConfig
from imgnet_mini.config.run_config import RunConfig
from imgnet_mini.runs.records import read_csv, select_phase
from imgnet_mini.training import hours
from imgnet_mini.training.hours import TimePlan
from imgnet_mini.training.trainer import Trainer

DATA = DataConfig()
GROWING = DataConfig(progressive="0.5:1")
STEPS = 4


def plan_of(**values):
    return TimePlan(**({"small_step": 1.0, "full_step": 1.0, "validation": 2.0} | values))


def config_of(epochs, hours=1.0, **schedule):
    tables = {"schedule": {"epochs": epochs, "hours": hours, **schedule}}
    return RunConfig().override(tables).resolve(0.1)


@pytest.mark.parametrize(
    ("seconds", "done", "factor", "epochs"),
    [
        (-1, 0, 1, 0),
        (5.9, 0, 1, 0),
        (6, 0, 1, 1),
        (600, 0, 1, 100),
        (605, 0, 1, 100),
        (600, 2, 1, 102),
        (600, 2, 2, 52),
        (0, 2, 1, 2),
        (1e9, 0, 1, 166_666_666),
    ],
)
def test_as_many_epochs_as_fit(seconds, done, factor, epochs):
    plan = plan_of()
    assert plan.epochs_within(seconds, DATA, steps=4, done=done, factor=factor) == epochs


@pytest.mark.parametrize("done", [0, 2])
def test_growing_images_cost_more_from_epoch_to_epoch(done):
    plan = plan_of(full_step=4.0)
    epochs = plan.epochs_within(900, GROWING, steps=4, done=done)

    def total(epochs):
        return sum(
            plan.epoch_seconds(GROWING, epoch, epochs=epochs, steps=4)
            for epoch in range(done, epochs)
        )

    assert total(epochs) <= 900 < total(epochs + 1)
    assert plan.epoch_seconds(GROWING, 0, epochs=epochs, steps=4) == 6
    assert plan.epoch_seconds(GROWING, epochs - 1, epochs=epochs, steps=4) == 18


@pytest.mark.parametrize(
    ("epochs", "pct_start", "after"),
    [(1, 0.3, None), (3, 0.3, None), (4, 0.3, 1), (7, 0.3, 2), (10, 0.2, 1), (500, 0.3, 2)],
)
def test_the_plan_is_corrected_once_and_before_the_peak(epochs, pct_start, after):
    config = config_of(epochs, pct_start=pct_start)
    assert plan_of().replan_after(config) == after
    assert after is None or after < pct_start * epochs
    assert plan_of(replanned=True).replan_after(config) is None


@pytest.mark.parametrize(("seconds", "epochs"), [(6, 100), (12, 51), (3, 198), (4000, 3)])
def test_the_time_that_is_left_is_filled_with_epochs_as_long_as_the_last(
    monkeypatch, seconds, epochs
):
    monkeypatch.setattr(hours, "time", SimpleNamespace(perf_counter=lambda: 1000.0))
    plan = plan_of(elapsed=12.0)
    new, line = plan.replan(config_of(100, 600 / 3600), done=2, steps=4, seconds=seconds)
    assert (new.schedule.epochs, plan.replanned) == (epochs, True)
    assert (f"{epochs} epochs, as planned" in line) == (epochs == 100)
    if seconds < 4000:
        used = 12 + (epochs - 2) * seconds
        assert used <= 600 < used + seconds


@pytest.mark.parametrize("typed", [{"epochs": 3, "hours": 2.0}, {"hours": 2.0, "epochs": 20}])
def test_a_later_source_of_the_length_replaces_an_earlier_one(typed):
    saved = RunConfig().override({"schedule": typed})
    assert saved.schedule.hours == 2
    assert saved.override({"schedule": {"epochs": 5}}).schedule.hours is None
    assert saved.override({"schedule": {"pct_start": 0.2}}).schedule.hours == 2
    recipe = RunConfig.from_recipe("mini").override({"schedule": {"hours": 3.0}})
    assert recipe.schedule.hours == 3


@pytest.mark.parametrize("value", [0, -1, "inf", "nan", "soon"])
def test_hours_are_a_number_above_0(run_small, cli, value):
    assert run_small("train", "--name", "a", "--hours", value) == 2
    assert cli.says(f"--hours {value}:")


def test_epochs_and_hours_exclude_each_other(cli):
    assert cli("train", "--epochs", 3, "--hours", 1) == 2
    assert cli.says("--epochs 3 and --hours 1.0: choose one of the two")


@pytest.fixture
def train(cli, data):
    command = (
        *("train", "--data-root", "data", "--arch", "shufflenet_v2_x0_5", "--img-size", 32),
        *("--batch-size", 6, "--workers", 0),
    )
    return lambda *args: cli(*command, *args)


def test_too_little_time_is_refused_with_enough(train, cli):
    assert train("--name", "a", "--hours", 1e-5) == 2
    assert cli.says("--hours 1e-05 is too short for one epoch: that takes about")
    assert not Path("checkpoints").exists()


def test_the_speed_is_measured_without_a_trace(train, cli, monkeypatch):
    """The run is that of as many epochs, bit by bit, though dropout draws in the measurement."""
    flags = ("--arch", "squeezenet1_1", "--max-lr", 1e-3)
    monkeypatch.setattr(TimePlan, "epochs_within", lambda *_, **__: 2)
    monkeypatch.setattr(TimePlan, "replan_after", lambda *_: None)
    assert train("--name", "a", "--hours", 1, *flags) == 0, cli.err
    assert "Measuring the speed of the training for --hours 1" in cli.out
    assert "--hours 1: 2 epochs fit, of about" in cli.out
    assert train("--name", "b", "--epochs", 2, *flags) == 0, cli.err
    ours, theirs = (outcome(Path(), name)["state"] for name in "ab")
    assert 0 < ours["time_plan"]["full_step"] < 60
    assert differences(ours, theirs) == [".time_plan"]


class Clock:
    """A clock that each training step puts forward by some seconds."""

    def __init__(self, monkeypatch, seconds):
        self.now = 1000.0
        take = Trainer.train_step

        def take_step(trainer, batches):
            self.now += seconds
            take(trainer, batches)

        monkeypatch.setattr(Trainer, "train_step", take_step)
        fake = SimpleNamespace(perf_counter=self.read)
        modules = ("training.hours", "training.trainer", "training.evaluation", "commands.train")
        for module in modules:
            monkeypatch.setattr(f"imgnet_mini.{module}.time", fake)

    def read(self):
        self.now += 1e-6  # nothing takes no time
        return self.now


@pytest.fixture
def slower(monkeypatch):
    """Steps take a second in the measurement, and two in the training; validations nothing."""
    clock = Clock(monkeypatch, 2.0)
    measured = TimePlan(1.0, 1.0, 1e-9)
    monkeypatch.setattr(hours, "_measure", lambda *_: measured)
    return clock


HOURS = 58 / 3600
"""14 epochs of 4 steps as measured; as they are, 2 epochs of 8 seconds, and 5 more in the rest."""


def test_a_plan_that_was_wrong_is_corrected_and_the_time_held(train, cli, slower):
    began = slower.now
    assert train("--name", "a", "--hours", HOURS) == 0, cli.err
    assert "14 epochs fit, of about 4.0 s each" in cli.out
    assert "7 epochs, instead of 14. The last epoch took 8.0 s (expected: 4.0 s)" in cli.out
    assert slower.now - began == pytest.approx(56, abs=0.01)
    records = select_phase(read_csv(Path("out/a/train_log.csv")), "train")
    assert len(records) == 7
    lrs = [record.lr for record in records]
    peak = lrs.index(max(lrs))
    assert peak >= 1
    assert lrs[: peak + 1] == sorted(lrs[: peak + 1])
    assert lrs[peak:] == sorted(lrs[peak:], reverse=True)
    saved = RunConfig.read_saved(Path("out/a/config.toml")).schedule
    assert (saved.epochs, saved.hours) == (7, pytest.approx(HOURS))
    content = torch.load("checkpoints/a/checkpoint.pth", weights_only=True)
    assert content["scheduler"]["total_steps"] == 7 * STEPS
    assert content["time_plan"]["replanned"]
    assert content["time_plan"]["elapsed"] == pytest.approx(56, abs=0.01)
    assert lrs[-1] == pytest.approx(content["optimizer"]["param_groups"][0]["min_lr"])


def test_automatic_decays_are_those_of_the_planned_length(train, cli, slower):
    assert train("--name", "a", "--hours", 70 / 3600, "--ema-decay", "auto") == 0, cli.err
    assert "17 epochs fit" in cli.out
    saved = RunConfig.read_saved(Path("out/a/config.toml"))
    assert saved.optimizer.ema_decay == pytest.approx(1 - 1 / (0.03 * 17 * STEPS))


def test_a_stopped_run_goes_on_by_its_plan_to_the_same_bits(train, cli, slower, monkeypatch):
    """Stopped in the first epoch, in the second before the correction, and after it."""
    flags = ("--hours", HOURS, "--max-lr", 1e-3)
    assert train("--name", "a", *flags) == 0, cli.err
    for checks, epoch in ((3, 0), (8, 1), (9, 3)):
        with monkeypatch.context() as patched:
            stop_at(patched, checks)
            assert train("--name", "b", "--resume", *flags) == 130
        content = torch.load("checkpoints/b/checkpoint.pth", weights_only=True)
        assert content["state"]["epoch"] == epoch
        assert content["time_plan"]["replanned"] == (epoch > 1)
    assert cli("resume", "--name", "b", "--hours", 3) == 2
    assert cli.says("--hours 3.0: this run was started with")
    assert "--replan" not in cli.err
    assert train("--name", "b", "--resume", *flags) == 0, cli.err
    assert differences(outcome(Path(), "a"), outcome(Path(), "b")) == []


def test_a_new_number_of_epochs_ends_the_plan(train, cli, slower, monkeypatch):
    with monkeypatch.context() as patched:
        stop_at(patched, 14)
        assert train("--name", "a", "--hours", HOURS) == 130
    assert cli("resume", "--name", "a", "--epochs", 4, "--replan") == 0, cli.err
    content = torch.load("checkpoints/a/checkpoint.pth", weights_only=True)
    assert content["state"]["epoch"] == 4
    assert "time_plan" not in content
    assert content["config"]["schedule"]["hours"] is None


def disagree():
    """Let each rank fit another number of epochs, at the start and in the correction."""
    rank = int(os.environ["RANK"])
    TimePlan.epochs_within = lambda *_, done=0, **__: 4 + rank + (done > 0)


@pytest.mark.skipif(os.name != "posix", reason="the ranks are forked")
def test_ranks_measure_together_and_take_the_plan_of_the_first(data):
    command = (
        *("train", "--data-root", "data", "--arch", "plain", "--img-size", 32, "--name", "a"),
        *("--batch-size", 6, "--workers", 0, "--hours", 1, "--max-lr", 0.02),
    )
    assert run_ranks(Path(), 2, *command, before=disagree) == [0, 0]
    text = Path("terminal.log").read_text("utf-8")
    assert text.count("--hours 1: 4 epochs fit") == 1
    assert text.count("--hours 1: 5 epochs, instead of 4") == 1
    content = torch.load("checkpoints/a/checkpoint.pth", weights_only=True)
    assert (content["state"]["epoch"], content["config"]["schedule"]["epochs"]) == (5, 5)
