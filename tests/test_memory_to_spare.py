"""find-lr and bench go on where GPU memory runs out while a pack takes some of it."""

import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from helpers.packs import DATA, build, opened
from imgnet_mini.commands import bench, find_lr
from imgnet_mini.config.run_config import RunConfig
from imgnet_mini.data.loaders import BatchLoader, Loader
from imgnet_mini.data.splits import ImageSplits
from imgnet_mini.data.tree import find_splits
from imgnet_mini.distributed.context import SINGLE_PROCESS
from imgnet_mini.lr_finder.budget import Plan
from imgnet_mini.runs.logger import NullLogger
from imgnet_mini.training.optim import build_loss
from imgnet_mini.training.peak_lr import estimate_step_seconds, run_lr_trials
from imgnet_mini.training.precision import Precision
from imgnet_mini.training.setup import Setup
from imgnet_mini.training.throughput import TrainingBenchmark
from imgnet_mini.training.trial_limits import Limits
from imgnet_mini.utils.signals import StopRequest

STEPS = 24
CONFIG = RunConfig().override({"finder": {"num_iter": STEPS}})


class Batches(BatchLoader):
    """Random batches, five an epoch, of a loader that can free memory once."""

    images_per_step = 8
    freed = 0

    def __len__(self):
        return 5

    def epoch(self, epoch, *, start=0):
        generator = torch.Generator().manual_seed(epoch)
        for number in range(len(self)):
            images = torch.randn(8, 3, 8, 8, generator=generator)
            if number >= start:
                yield images, torch.arange(8) % 3

    def endless(self):
        return (batch for epoch in range(1000) for batch in self.epoch(epoch))

    @property
    def can_free_memory(self):
        return not self.freed

    def free_memory(self):
        self.freed += 1
        return self.freed == 1


class Network(nn.Sequential):
    """Runs out of memory, or overflows, in some of its calls, counted over all copies."""

    def __init__(self, *, out_of_memory_at=(), overflows_at=()):
        torch.manual_seed(0)
        super().__init__(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(144, 3))
        self.calls = [0]
        self.error: Exception = torch.OutOfMemoryError()
        self.out_of_memory_at, self.overflows_at = out_of_memory_at, overflows_at

    def __deepcopy__(self, memo):
        other = Network(out_of_memory_at=self.out_of_memory_at, overflows_at=self.overflows_at)
        other.load_state_dict(self.state_dict())
        other.calls, other.error = self.calls, self.error
        return other

    def forward(self, images):
        self.calls[0] += 1
        if self.calls[0] in self.out_of_memory_at:
            raise self.error
        logits = super().forward(images)
        return logits * math.inf if self.calls[0] in self.overflows_at else logits


def setup(network, batches=None, dtype=None):
    return Setup(
        torch.device("cpu"),
        Precision("cpu", dtype),
        images=SimpleNamespace(train=SimpleNamespace(classes=("a", "b", "c"))),
        train_loader=batches or Batches(),
        model=network,
        criterion=build_loss(CONFIG.optimizer),
        distributed=SINGLE_PROCESS,
    )


def run_trials(parts):
    plan = Plan(1000, 100, 0, trials=2, trial_steps=STEPS, needed=0)
    with StopRequest() as stop:
        limits = Limits(stop, SINGLE_PROCESS, minutes=None)
        return run_lr_trials(CONFIG, parts, plan, limits, first=0.01)


def run_range_test(parts):
    finder = CONFIG.finder.resolve(0.01, STEPS)
    with StopRequest() as stop:
        limits = Limits(stop, SINGLE_PROCESS, minutes=None)
        return find_lr._test_range(CONFIG, parts, finder, limits)


@pytest.mark.parametrize("call", [1, 8, STEPS + 8])
def test_a_trial_run_repeats_a_step_that_ran_out_of_memory(call):
    expected = run_trials(setup(Network()))
    batches = Batches()
    assert run_trials(setup(Network(out_of_memory_at=[call]), batches)) == expected
    assert batches.freed == 1
    with pytest.raises(torch.OutOfMemoryError):
        run_trials(setup(Network(out_of_memory_at=[call, call + 1])))


def test_a_step_is_repeated_where_cublas_runs_out_of_memory():
    expected = run_trials(setup(Network()))
    network = Network(out_of_memory_at=[8])
    network.error = RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `...`")
    assert run_trials(setup(network)) == expected


@pytest.mark.parametrize(("ranks", "steps", "images"), [(1, 1, 8), (1, 4, 4), (2, 4, 2)])
def test_the_time_of_a_step_is_estimated_on_a_micro_batch(ranks, steps, images):
    data = {"img_size": 32, "batch_size": 16, "grad_accum_steps": steps}
    config = CONFIG.override({"data": data})
    sizes = []

    class Seen(nn.Module):
        def forward(self, inputs):
            sizes.append(len(inputs))
            return inputs.mean((2, 3)).requires_grad_()

    parts = replace(setup(Seen()), distributed=SimpleNamespace(world_size=ranks))
    used, _ = estimate_step_seconds(config, parts)
    assert sizes == [images, images]
    assert used == 2 * images


def test_a_range_test_that_ran_out_of_memory_starts_again():
    expected = run_range_test(setup(Network()))
    batches = Batches()
    found = run_range_test(setup(Network(out_of_memory_at=[9]), batches))
    assert found.losses.tolist() == expected.losses.tolist()
    assert len(found.losses) == STEPS
    assert batches.freed == 1


@pytest.mark.parametrize("call", [3, STEPS - 1, STEPS])
def test_a_step_that_fp16_skips_does_not_make_a_trial_run_diverge(call):
    parts = setup(Network(overflows_at=[call]), dtype=torch.float16)
    skipped, other = run_trials(parts).runs
    assert math.isfinite(skipped.final_loss)
    assert len(skipped.losses) == STEPS - 1
    assert len(other.losses) == STEPS


def test_a_trial_run_whose_loss_overflows_without_a_scaler_has_diverged():
    runs = run_trials(setup(Network(overflows_at=[STEPS]))).runs
    assert [run.final_loss == math.inf for run in runs] == [False, True]


@pytest.fixture
def pack(data):
    build()
    return ImageSplits(*find_splits(DATA), opened())


@pytest.fixture
def resident(monkeypatch):
    """A pack of which every loader has memory to spare, once; lists the loaders that gave it."""
    gave = []
    monkeypatch.setattr(Loader, "can_free_memory", property(lambda self: self not in gave))

    def free(self):
        had_some = self.can_free_memory
        gave.extend([self] if had_some else [])
        return had_some

    monkeypatch.setattr(Loader, "free_memory", free)
    return gave


BENCH = RunConfig().override(
    {"data": {"batch_size": 6, "img_size": 32, "workers": 0}, "optimizer": {"ema_decay": 0.9}}
)


class Pooled(Network):
    def __init__(self, **settings):
        super().__init__(**settings)
        self[2] = nn.Sequential(nn.AdaptiveAvgPool2d(6), nn.Flatten())


@pytest.mark.parametrize("fixed", [False, True], ids=["loader", "one batch"])
def test_a_measurement_repeats_a_step_that_ran_out_of_memory(pack, resident, fixed):
    model = Pooled(out_of_memory_at=[2])
    with StopRequest() as stop:
        measured = TrainingBenchmark(BENCH, pack, model, NullLogger(), stop)
        assert measured.training(0.0, measured.fixed_batch() if fixed else None) > 0
        assert resident == [measured.loader]
        measured.close()
    assert model.calls[0] >= 4


def test_a_change_that_runs_out_of_memory_gets_that_of_the_settings_it_is_compared_with(
    pack, resident
):
    model = Pooled(out_of_memory_at=[3, 4])
    with StopRequest() as stop:
        change = bench._Change("--batch-size 12", BENCH, pack)
        parts = SimpleNamespace(images=pack, model=model)
        trial = bench._Bench(BENCH, parts, NullLogger(), stop, 0.0)
        found, *_ = trial.try_changes(iter([change]), math.inf)
    assert found.note == ""
    assert found.images_per_second > 0
