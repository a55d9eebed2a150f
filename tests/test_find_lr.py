import copy
import json
import shlex
import signal
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn
from torch.nn.functional import cross_entropy

from imgnet_mini.commands import find_lr
from imgnet_mini.config.run_config import RunConfig
from imgnet_mini.config.training_settings import ResolvedFinder
from imgnet_mini.distributed.context import SINGLE_PROCESS
from imgnet_mini.lr_finder.suggestions import METHOD_NAMES
from imgnet_mini.lr_finder.trials import search_peak_lr
from imgnet_mini.training import peak_lr
from imgnet_mini.training.optim import OPTIMIZERS
from imgnet_mini.training.setup import build_setup
from imgnet_mini.training.trainer import Trainer
from imgnet_mini.training.trial_limits import Limits
from imgnet_mini.utils.signals import StopRequest

SMALL = (
    *("--data-root", "data", "--arch", "shufflenet_v2_x0_5", "--img-size", 32),
    *("--batch-size", 12, "--workers", 0),
)

FAR = ("--start-lr", 1e-4, "--end-lr", 50)
"""Rates between which the loss falls and rises."""

ENOUGH = ("--budget", 10)
"""For the images of these tests, whose training has 40 steps."""


def result():
    """Of the only test."""
    (path,) = Path("lr_finder_plots").glob("*.json")
    return json.loads(path.read_text("utf-8"))


def said(cli):
    return " ".join(cli.out.split())


def test_it_saves_plot_curve_and_suggestions_and_the_line_to_paste_works(data, cli):
    rates = (*FAR, *ENOUGH, "--num-iter", 60, "--trials", 0)
    assert cli("find-lr", *SMALL, "--name", "a", *rates) == 0, cli.err
    saved = result()
    assert saved["name"] == "a"
    assert saved["suggestions"].keys() == set(METHOD_NAMES)
    assert saved["suggestions"]["trials"] is saved["trials"] is None
    assert saved["lr"] == saved["suggestions"][saved["recommended"]]
    with Image.open(Path("lr_finder_plots") / saved["plot"]) as plot:
        assert plot.width > 600
    rows = (Path("lr_finder_plots") / saved["curve"]).read_text().splitlines()
    assert rows[0] == "lr,loss,smoothed"
    assert len(rows) == saved["steps"] + 1

    line = next(line for line in cli.out.splitlines() if "imgnet-mini train --max-lr" in line)
    command = shlex.split(line)
    assert cli(*command[1:], "--epochs", 2) == 0, cli.err
    trained = RunConfig.read(Path("out/a/config.toml"))
    assert trained.schedule.max_lr == pytest.approx(saved["lr"], rel=0.01)
    assert trained.data.batch_size == 12
    assert trained.model.arch == "shufflenet_v2_x0_5"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--num-iter", 5], "only 5 steps"),
        (["--start-lr", 1e-12, "--end-lr", 1e-11, "--num-iter", 30], "never falls clearly"),
        (["--no-amp", "--clip-grad", 1e-9, *FAR, "--num-iter", 60], "never falls clearly"),
        (["--start-lr", 1e10, "--end-lr", 1e30, "--num-iter", 40], "diverged"),
    ],
    ids=["too-short", "never-falls", "clipped-away", "not-finite"],
)
def test_a_curve_that_tells_nothing_leaves_the_default_with_the_reason(data, cli, arguments, words):
    assert cli("find-lr", *SMALL, *ENOUGH, "--trials", 0, *arguments) == 0, cli.err
    saved = result()
    assert (saved["recommended"], saved["lr"]) == ("default", 0.1 * 12 / 256)
    assert words in saved["problem"] or "became" in saved["problem"]
    assert saved["problem"] in said(cli)
    assert f"imgnet-mini train --max-lr {saved['lr']:.3g}" in cli.out


@pytest.mark.parametrize(("epochs", "share", "steps"), [(20, 0.1, 2), (20, 1, 38), (60, 0.7, 82)])
def test_it_takes_no_more_images_than_it_announces_and_always_answers(
    data, cli, monkeypatch, epochs, share, steps
):
    taken = []
    forward = nn.Conv2d.forward

    def count(self, images):
        if self.in_channels == 3:
            taken.append(len(images))
        return forward(self, images)

    monkeypatch.setattr(nn.Conv2d, "forward", count)
    assert cli("find-lr", *SMALL, "--epochs", epochs, "--budget", share) == 0, cli.err
    training = 12 * 2 * epochs
    assert f"at most {12 * steps} images" in said(cli)
    assert f"% of the {training} of the training" in said(cli)
    assert sum(taken[2:]) <= 12 * steps
    assert sum(taken) <= max(16, share * training)
    assert "imgnet-mini train --max-lr" in cli.out


@pytest.mark.parametrize("share", [0.1, 1.3])  # no step, and one
def test_a_budget_of_less_than_two_steps_measures_nothing_and_answers(data, cli, share):
    assert cli("find-lr", *SMALL, "--epochs", 1, "--budget", share) == 0, cli.err
    limit = f"{100 * share:g} % of the 2 steps of the training (--budget) is less than two steps"
    assert limit in said(cli)
    assert "so nothing is measured" in said(cli)
    assert "train --max-lr 0.00469" in said(cli)


def test_a_budget_without_trial_runs_names_one_that_has_them(data, cli):
    assert cli("find-lr", *SMALL) == 0, cli.err
    shortage = "The budget of 2 steps is too small for trial runs, which take 180: --budget 4.5."
    assert shortage in said(cli)
    assert cli("find-lr", *SMALL, "--budget", 4.6) == 0, cli.err
    assert "then up to 3 trial runs of 40 steps" in said(cli)


def test_the_time_limit_leaves_an_answer(data, cli):
    assert cli("find-lr", *SMALL, *ENOUGH, "--max-minutes", 1e-9) == 0, cli.err
    assert "--max-minutes 1e-09 is less than two steps take, so nothing" in said(cli)
    assert "train --max-lr 0.00469" in said(cli)


def interrupt_at(monkeypatch, number, calls, kind=signal.SIGINT):
    """Signal this process in the range test's or the trial runs' step of this number."""
    train_step = Trainer.train_step

    def signalled(self, *args):
        train_step(self, *args)
        calls.append(1)
        if len(calls) == number:
            signal.raise_signal(kind)

    monkeypatch.setattr(Trainer, "train_step", signalled)


@pytest.mark.parametrize(("step", "runs"), [(10, 0), (30, 1)])
def test_ctrl_c_gives_the_best_answer_so_far(data, cli, monkeypatch, step, runs):
    interrupt_at(monkeypatch, step, [])
    assert cli("find-lr", *SMALL, *TRIALS) == 0, cli.err
    saved = result()
    assert len((saved["trials"] or {"runs": []})["runs"]) == runs
    assert saved["recommended"] == ("trials" if runs else "default")
    assert "Stopped by Ctrl-C: the best answer so far." in saved["reason"]
    assert saved["reason"] in said(cli)


def test_bounds_the_wrong_way_round_are_refused(data, cli):
    assert cli("find-lr", *SMALL, "--start-lr", 1, "--end-lr", 0.1) == 2
    assert cli.says("end_lr (0.1) must be above start_lr (1.0)")


TRIALS = (
    *("--name", "a", "--num-iter", 2, "--trials", 3, "--trial-steps", 20, "--no-amp"),
    *ENOUGH,
)


def test_trials_suggest_where_the_curve_does_not(data, cli):
    assert cli("find-lr", *SMALL, *TRIALS) == 0, cli.err
    saved = result()
    rule = 0.1 * 12 / 256
    assert {run["peak_lr"] for run in saved["trials"]["runs"]} >= {rule, 2 * rule}
    assert "only 2 steps" in saved["problem"]
    assert saved["recommended"] == "trials"
    assert rule / 4 <= saved["lr"] == saved["suggestions"]["trials"] <= 4 * rule
    assert "then up to 3 trial runs of 20 steps" in said(cli)
    assert f"imgnet-mini train --max-lr {saved['lr']:.3g}" in cli.out


@pytest.mark.parametrize(("epochs", "doubted"), [(20, False), (100_000, True)])
def test_a_much_higher_peak_of_the_settings_is_named(data, cli, epochs, doubted):
    Path("own.toml").write_text("[schedule]\nmax_lr = 0.005\n")
    more = ("--config", "own.toml", "--epochs", epochs, "--budget", 240 / (2 * epochs))
    assert cli("find-lr", *SMALL, *TRIALS, *more) == 0, cli.err
    assert result()["recommended"] == "trials"
    assert "train without --max-lr (max_lr of the settings) │ 5.00e-03" in said(cli)
    assert ("a much higher peak, max_lr = 0.005, which train uses" in said(cli)) == doubted


def test_a_trial_is_what_train_does_with_the_same_schedule(data, cli):
    assert cli("find-lr", *SMALL, *TRIALS) == 0, cli.err
    (path,) = Path("lr_finder_plots").glob("*_trials.csv")
    rows = np.loadtxt(path, delimiter=",", skiprows=1)
    rate = rows[20, 0]
    losses = rows[rows[:, 0] == rate, 2]
    train = ("train", *SMALL, "--name", "b", "--epochs", 10, "--no-amp", "--max-lr", rate)
    assert cli(*train) == 0, cli.err
    events = EventAccumulator("runs/b")
    events.Reload()
    trained = [event.value for event in events.Scalars("train/loss_step")]
    np.testing.assert_allclose(losses, trained, rtol=1e-6)


def test_trials_are_the_same_again_whatever_the_range_test_did(data, cli):
    for steps in (2, 19):  # too few to move the first peak
        assert cli("find-lr", *SMALL, *TRIALS, "--num-iter", steps) == 0, cli.err
    first, second = (path.read_text() for path in Path("lr_finder_plots").glob("*_trials.csv"))
    assert first == second


def test_a_trial_too_short_for_its_schedule_is_refused_before_work(data, cli):
    assert cli("find-lr", *SMALL, "--trial-steps", 20, "--pct-start", 0.05) == 2
    assert cli.says("--trial-steps 20 is too few")
    assert not Path("lr_finder_plots").exists()


def test_the_answer_is_below_all_trials_if_they_diverge(data, cli, monkeypatch):
    monkeypatch.setitem(OPTIMIZERS, "sgd", replace(OPTIMIZERS["sgd"], default_lr=lambda _: 1e30))
    assert cli("find-lr", *SMALL, *TRIALS) == 0, cli.err
    saved = result()
    assert [run["loss"] for run in saved["trials"]["runs"]] == [None] * 3
    assert (saved["recommended"], saved["lr"]) == ("default", 1e30 / 16)
    assert "All trial runs diverged" in said(cli)


@pytest.mark.parametrize(
    ("settings", "default"), [("", 0.1 * 12 / 256), ("[schedule]\nmax_lr = 0.3\n", 0.3)]
)
def test_trials_that_learn_too_little_leave_the_default(data, cli, monkeypatch, settings, default):
    monkeypatch.setattr(
        peak_lr,
        "search_peak_lr",
        lambda *args, **more: search_peak_lr(*args, **more | {"chance_loss": 0.0}),
    )
    Path("own.toml").write_text(settings)
    assert cli("find-lr", *SMALL, *TRIALS, "--config", "own.toml") == 0, cli.err
    saved = result()
    assert (saved["trials"]["steps"], len(saved["trials"]["runs"])) == (20, 2)
    assert (saved["recommended"], saved["lr"]) == ("default", default)
    assert "No trial run of 20 steps has learned enough" in said(cli)


def test_a_signal_in_a_trial_leaves_nothing(data, cli, monkeypatch):
    train_epoch = Trainer.train_epoch

    def signalled(self, *args, **kwargs):
        signal.raise_signal(signal.SIGTERM)
        return train_epoch(self, *args, **kwargs)

    monkeypatch.setattr(Trainer, "train_epoch", signalled)
    assert cli("find-lr", *SMALL, *TRIALS) == 143
    assert cli.says("find-lr stopped by SIGTERM; nothing was written")
    assert not list(Path().rglob("lr_finder_*"))


def test_the_test_is_made_with_the_optimizer_of_training_and_its_line_keeps_all_of_it(data, cli):
    extra = ("--no-norm-decay", "--clip-grad", 1000, "--ema-decay", 0.9)
    assert cli("find-lr", *SMALL, *FAR, *ENOUGH, "--trials", 0, *extra) == 0, cli.err
    saved = result()
    asked = {"nesterov": False, "norm_decay": False, "clip_grad": 1000, "zero_init_residual": False}
    assert saved["settings"].items() >= asked.items()
    line = next(line for line in cli.out.splitlines() if "imgnet-mini train --max-lr" in line)
    for option in ("--no-norm-decay", "--clip-grad 1000.0", "--ema-decay 0.9"):
        assert option in line


def test_the_range_test_has_the_label_smoothing_of_training(data):
    options = {
        "run": {"data_root": data},
        "data": {"img_size": 32, "batch_size": 12, "workers": 0, "loader": "folder"},
        "model": {"arch": "shufflenet_v2_x0_5"},
        "optimizer": {"label_smoothing": 0.4},
        "runtime": {"device": "cpu", "amp": False},
    }
    config = RunConfig().override(options)
    finder = ResolvedFinder(start_lr=1e-4, end_lr=1e-3, num_iter=2)
    setup = build_setup(config, growing=False)
    with torch.no_grad():  # a fresh network gives every class nearly the same probability
        setup.model.fc.weight.mul_(300)
    with closing(setup.train_loader), StopRequest() as stop:
        images, targets = next(iter(setup.train_loader.epoch(0)))
        model = copy.deepcopy(setup.model).train()
        logits = model(images)
        limits = Limits(stop, SINGLE_PROCESS, minutes=None)
        curve = find_lr._test_range(config, setup, finder, limits)
    smoothed = cross_entropy(logits, targets, label_smoothing=0.4).item()
    assert curve.losses[0] == pytest.approx(smoothed, rel=1e-4)
    assert curve.losses[0] != pytest.approx(cross_entropy(logits, targets).item(), rel=1e-2)
