import copy
from contextlib import closing, nullcontext

import pytest
import torch
from torch.nn import functional as F

from imgnet_mini.config.settings import DataConfig, ModelConfig, OptimizerConfig, ScheduleConfig
from imgnet_mini.data.loaders import build_train_loader
from imgnet_mini.data.splits import ImageSplits, find_splits
from imgnet_mini.errors import CheckpointError, DivergedError
from imgnet_mini.runs.logger import RunLogger
from imgnet_mini.runs.paths import RunPaths
from imgnet_mini.training.ema import ema_decay_at
from imgnet_mini.training.model import build_model
from imgnet_mini.training.optim import build_loss, build_optimizer, build_scheduler
from imgnet_mini.training.precision import Precision
from imgnet_mini.training.trainer import Trainer
from imgnet_mini.utils.signals import StopRequest

CPU = torch.device("cpu")
STEPS = 6


def build_trainer(model, *, max_lr=0.05, precision=None, steps=STEPS, **more):
    settings = OptimizerConfig()
    optimizer = build_optimizer(settings, model, lr=max_lr)
    schedule = ScheduleConfig(epochs=1)
    scheduler = build_scheduler(schedule, optimizer, max_lr=max_lr, total_steps=steps)
    loss = build_loss(settings)
    return Trainer(model, loss, optimizer, scheduler, precision or Precision("cpu", None), **more)


@pytest.fixture
def model():
    return build_model(
        ModelConfig(arch="shufflenet_v2_x0_5"), classes=5, img_size=32, seed=3, device=CPU
    )


def batches(number):
    generator = torch.Generator().manual_seed(1)
    for _ in range(number):
        yield (
            torch.randn(8, 3, 32, 32, generator=generator),
            torch.randint(5, (8,), generator=generator),
        )


@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_steps_equal_those_of_a_bare_loop(model, dtype):
    reference = copy.deepcopy(model)
    trainer = build_trainer(model, precision=Precision("cpu", dtype))
    trainer.model.train()
    for images, targets in batches(STEPS):
        trainer.train_step([(images, targets)])

    optimizer = torch.optim.SGD(
        reference.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-4, fused=True
    )
    scheduler = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, 0.05, total_steps=STEPS, cycle_momentum=False
    )
    reference.train()
    rates, losses, hits = [], [], 0
    for step, (images, targets) in enumerate(batches(STEPS)):
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype is not None):
            logits = reference(images)
            loss = F.cross_entropy(logits, targets, label_smoothing=0.1)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        rates.append(optimizer.param_groups[0]["lr"])
        losses.append(loss.item())
        hits += int((logits.argmax(1) == targets).sum())
        if step < STEPS - 1:
            scheduler.step()

    for ours, theirs in zip(
        trainer.model.state_dict().values(), reference.state_dict().values(), strict=True
    ):
        assert torch.equal(ours, theirs)
    assert trainer.state.rate == rates[-1]
    assert trainer.state.step == STEPS
    assert trainer._rates == rates
    assert trainer._losses[:STEPS].tolist() == losses
    assert trainer._hits[0] == hits


def test_the_gradient_of_all_parts_of_a_step_together_is_clipped(model):
    reference = copy.deepcopy(model)
    trainer = build_trainer(model, grad_accum_steps=2, clip_grad=0.5)
    trainer.model.train()
    parts = list(batches(4))
    trainer.train_step(parts[:2])
    trainer.train_step(parts[2:])

    optimizer = torch.optim.SGD(
        reference.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-4, fused=True
    )
    scheduler = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, 0.05, total_steps=STEPS, cycle_momentum=False
    )
    reference.train()
    for step in (parts[:2], parts[2:]):
        optimizer.zero_grad()
        for images, targets in step:
            F.cross_entropy(reference(images), targets, label_smoothing=0.1).div(2).backward()
        gradients = [parameter.grad for parameter in reference.parameters()]
        norm = torch.cat([gradient.flatten() for gradient in gradients]).norm()
        assert norm > 0.5
        for gradient in gradients:
            gradient.mul_(0.5 / norm)
        optimizer.step()
        scheduler.step()
    for ours, theirs in zip(model.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


def test_a_network_that_diverges_is_stopped_with_epoch_and_step(make_folder, tmp_path, model):
    make_folder(tmp_path / "data", train=6, val=1, classes=5)
    images = ImageSplits(*find_splits(tmp_path / "data"))
    data = DataConfig(batch_size=6, img_size=32, workers=0)
    trainer = build_trainer(model, max_lr=1e30)
    with (
        closing(build_train_loader(data, images, seed=0, device=CPU)) as loader,
        closing(RunLogger(RunPaths(tmp_path, "run"), [], step=0)) as history,
        StopRequest() as stop,
        pytest.raises(
            DivergedError, match=r"epoch 0, batch [12] .* lower --max-lr, such as 5e\+29"
        ),
    ):
        trainer.train_epoch(loader, history, stop)


class FixedBatches:
    """So many steps of `batches` as an epoch."""

    images_per_step = 8

    def __init__(self, steps):
        self._steps = steps

    def __len__(self):
        return self._steps

    def epoch(self, epoch, *, start=0):
        return batches(self._steps)


@pytest.mark.parametrize(
    ("overflows", "end"),
    [
        (3, nullcontext()),
        (17, pytest.raises(DivergedError, match=r"overflow fp16 .* --precision bf16")),
    ],
)
def test_gradients_may_overflow_fp16_at_first_but_not_for_ever(model, tmp_path, overflows, end):
    """Each overflow halves the scale; from 65536, the seventeenth brings it below 1."""
    trainer = build_trainer(model, precision=Precision("cpu", torch.float16), steps=20)
    left = iter(range(overflows))
    model.fc.bias.register_hook(
        lambda gradient: gradient if next(left, None) is None else gradient * torch.inf
    )
    with (
        closing(RunLogger(RunPaths(tmp_path, "run"), [], step=0)) as history,
        StopRequest() as stop,
    ):
        with end:
            trainer.train_epoch(FixedBatches(17), history, stop)
        trainer.state_dict()  # whatever the gradients were, the weights are finite


def test_weights_that_are_not_finite_never_reach_a_checkpoint(model):
    trainer = build_trainer(model)
    model.get_submodule("conv1.1").running_mean[0] = float("nan")
    with pytest.raises(DivergedError, match="no longer finite"):
        trainer.state_dict()


def test_the_state_of_every_part_comes_back(model):
    trainer = build_trainer(model)
    trainer.model.train()
    steps = list(batches(STEPS))
    for images, targets in steps[:3]:
        trainer.train_step([(images, targets)])
    trainer._rates.clear()
    saved = copy.deepcopy(trainer.state_dict())
    fresh = build_trainer(
        build_model(
            ModelConfig(arch="shufflenet_v2_x0_5"), classes=5, img_size=32, seed=4, device=CPU
        )
    )
    fresh.load_state_dict(saved)
    fresh.model.train()
    for images, targets in steps[3:]:
        trainer.train_step([(images, targets)])
        fresh.train_step([(images, targets)])
    assert fresh.state == trainer.state
    for ours, theirs in zip(
        fresh.model.state_dict().values(), trainer.model.state_dict().values(), strict=True
    ):
        assert torch.equal(ours, theirs)


def test_the_average_follows_each_step_and_leaves_the_weights_as_they_are(model):
    alone = build_trainer(copy.deepcopy(model))
    trainer = build_trainer(model, ema=0.3)
    expected = [parameter.detach().clone() for parameter in model.parameters()]
    for one in (alone, trainer):
        one.model.train()
    for step, batch in enumerate(batches(STEPS)):
        alone.train_step([batch])
        trainer.train_step([batch])
        decay = ema_decay_at(step, 0.3)
        expected = [
            decay * average + (1 - decay) * parameter.detach()
            for average, parameter in zip(expected, model.parameters(), strict=True)
        ]
    for ours, theirs in zip(model.parameters(), alone.model.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    saved = trainer.state_dict()
    assert saved.keys() == alone.state_dict().keys() | {"ema"}
    assert saved["ema"].keys() == saved["model"].keys()
    names = [name for name, _ in model.named_parameters()]
    for name, average in zip(names, expected, strict=True):
        torch.testing.assert_close(saved["ema"][name], average, rtol=1e-5, atol=1e-6)


def test_an_average_that_is_not_finite_never_reaches_a_checkpoint(model):
    trainer = build_trainer(model, ema=0.9)
    trainer._average.model.fc.bias[0] = float("inf")
    with pytest.raises(DivergedError, match="no longer finite"):
        trainer.state_dict()


def test_a_step_that_scaling_skips_moves_the_average_to_the_weights_all_the_same(model):
    trainer = build_trainer(model, precision=Precision("cpu", torch.float16), ema=0.9)
    trainer.model.train()
    (batch,) = batches(1)
    with torch.no_grad():
        trainer._average.model.fc.bias.add_(1)
    model.fc.bias.register_hook(lambda gradient: gradient * torch.inf)
    before = model.fc.bias.detach().clone()
    trainer.train_step([batch])
    assert torch.equal(model.fc.bias, before)
    torch.testing.assert_close(trainer._average.model.fc.bias, before + 0.1)


@pytest.mark.parametrize(("saved", "wanted"), [(0.0, 0.9), (0.9, 0.0)])
def test_a_checkpoint_with_an_average_and_a_run_without_do_not_go_together(model, saved, wanted):
    content = build_trainer(copy.deepcopy(model), ema=saved).state_dict()
    with pytest.raises(CheckpointError, match="does not fit this run: ema: it has"):
        build_trainer(model, ema=wanted).load_state_dict(content)
