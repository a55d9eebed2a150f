"""Steps that run out of GPU memory while a pack takes some of it."""

import copy

import pytest
import torch
from torch import nn

from imgnet_mini.data.loaders import BatchLoader
from imgnet_mini.runs.logger import NullLogger
from imgnet_mini.training.precision import Precision
from imgnet_mini.training.trainer import Trainer
from imgnet_mini.utils.signals import StopRequest

STEPS = 4
MICRO_BATCHES = 2


class Batches(BatchLoader):
    """Random batches that hold memory; loading runs out of it once, before a step."""

    images_per_step = 8

    def __init__(self, *, spare=True, fails_at=None):
        self._spare = spare
        self._fails_at = fails_at
        self.freed = 0

    def __len__(self):
        return STEPS

    def epoch(self, epoch, *, start=0):
        generator = torch.Generator().manual_seed(epoch)
        for number in range(STEPS * MICRO_BATCHES):
            images = torch.randn(4, 3, 8, 8, generator=generator)
            if number == self._fails_at and not self.freed:
                raise torch.OutOfMemoryError
            if number >= start * MICRO_BATCHES:
                yield images, torch.arange(4) % 3

    @property
    def can_free_memory(self):
        return self._spare and not self.freed

    def free_memory(self):
        was_spare = self.can_free_memory
        self.freed += was_spare
        return was_spare


class RunsOut(nn.Module):
    """Runs out of memory in some of its forward or backward passes."""

    def __init__(self, *calls):
        super().__init__()
        self._calls = calls
        self._count = 0

    def forward(self, images):
        self._count += 1
        if self._count in self._calls:
            raise torch.OutOfMemoryError
        return images


def build_trainer(*, forward=(), backward=(), optimizer=torch.optim.SGD):
    torch.manual_seed(0)
    hidden = RunsOut(*backward)

    class Identity(torch.autograd.Function):
        @staticmethod
        def forward(ctx, images):
            return images.clone()

        @staticmethod
        def backward(ctx, gradient):
            return hidden(gradient)

    class Middle(nn.Module):
        def forward(self, images):
            return Identity.apply(images)

    model = nn.Sequential(
        *(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), Middle(), nn.Dropout(0.5)),
        *(RunsOut(*forward), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(144, 3)),
    )
    sgd = optimizer(model.parameters(), lr=0.1, momentum=0.9)
    schedule = torch.optim.lr_scheduler.ConstantLR(sgd)
    return Trainer(
        *(model, nn.CrossEntropyLoss(), sgd, schedule, Precision("cpu", None)),
        grad_accum_steps=MICRO_BATCHES,
        ema_decay=0.9,
    )


def train(trainer, batches):
    with StopRequest() as stop:
        metrics = trainer.train_epoch(batches, NullLogger(), stop)
    state = copy.deepcopy(trainer.state_dict())
    state["state"]["seconds"] = 0
    return (metrics.loss, metrics.top1), state


@pytest.mark.parametrize(
    ("passes", "fails_at"),
    [
        ({"forward": [4]}, None),
        ({"backward": [3]}, None),
        ({"forward": [1]}, None),
        ({}, 5),
        ({}, 4),
    ],
    ids=["forward", "backward", "first", "loading within a step", "loading"],
)
def test_a_step_that_runs_out_of_memory_is_repeated_to_the_same_bits(passes, fails_at):
    expected = train(build_trainer(), Batches())
    batches = Batches(fails_at=fails_at)
    found = train(build_trainer(**passes), batches)
    assert batches.freed == 1
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


@pytest.mark.parametrize(("spare", "calls"), [(False, [4]), (True, [4, 5])], ids=["none", "twice"])
def test_memory_that_runs_out_with_none_to_spare_ends_the_epoch(spare, calls):
    with pytest.raises(torch.OutOfMemoryError):
        train(build_trainer(forward=calls), Batches(spare=spare))


class FailingOptimizer(torch.optim.SGD):
    def step(self, closure=None):
        super().step(closure)
        raise torch.OutOfMemoryError


def test_a_step_that_has_changed_weights_is_not_repeated():
    batches = Batches()
    with pytest.raises(torch.OutOfMemoryError):
        train(build_trainer(optimizer=FailingOptimizer), batches)
    assert not batches.freed
