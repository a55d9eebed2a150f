import copy
import io
import math
import time
from contextlib import closing, nullcontext
from itertools import islice

import pytest
import torch
from torch.nn import functional as F

from imgnet_mini.config.data_settings import DataConfig
from imgnet_mini.config.training_settings import ModelConfig, OptimizerConfig, ScheduleConfig
from imgnet_mini.data.loaders import BatchLoader, build_eval_loader, build_train_loader
from imgnet_mini.data.splits import ImageSplits
from imgnet_mini.data.tree import find_splits
from imgnet_mini.distributed.context import SINGLE_PROCESS, DistributedContext
from imgnet_mini.errors import CheckpointError, DivergedError
from imgnet_mini.runs.logger import NullLogger
from imgnet_mini.training.ema import ema_decay_at
from imgnet_mini.training.model import build_model
from imgnet_mini.training.optim import OPTIMIZERS, build_loss, build_optimizer, build_scheduler
from imgnet_mini.training.precision import Precision
from imgnet_mini.training.trainer import Trainer
from imgnet_mini.utils.signals import StopRequest
from imgnet_mini.utils.torchrun_env import TorchrunEnv

CPU = torch.device("cpu")
STEPS = 6


def build_trainer(model, *, max_lr=0.05, precision=None, steps=STEPS, settings=None, **more):
    settings = settings or OptimizerConfig()
    optimizer = build_optimizer(settings, model, lr=max_lr)
    schedule = ScheduleConfig(epochs=1)
    scheduler = build_scheduler(schedule, optimizer, max_lr=max_lr, total_steps=steps)
    return Trainer(
        model,
        build_loss(settings),
        optimizer,
        scheduler,
        precision or Precision("cpu", None),
        total_steps=steps,
        **more,
    )


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
    lrs, losses, hits = [], [], 0
    for step, (images, targets) in enumerate(batches(STEPS)):
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype is not None):
            logits = reference(images)
            loss = F.cross_entropy(logits, targets, label_smoothing=0.1)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        lrs.append(optimizer.param_groups[0]["lr"])
        losses.append(loss.item())
        hits += int((logits.argmax(1) == targets).sum())
        if step < STEPS - 1:
            scheduler.step()

    for ours, theirs in zip(
        trainer.model.state_dict().values(), reference.state_dict().values(), strict=True
    ):
        assert torch.equal(ours, theirs)
    assert trainer.state.lr == lrs[-1]
    assert trainer.state.step == STEPS
    read_losses, read_lrs, top1, _ = trainer._buffer.read(SINGLE_PROCESS)
    assert (read_losses, read_lrs, top1) == (losses, lrs, hits)


@pytest.mark.parametrize("clip_grad", [0.5, None])
def test_the_gradient_is_that_of_all_parts_of_a_step_together_and_clipped(model, clip_grad):
    model.double()  # the batch norms of few images would magnify the rounding of float32
    reference = copy.deepcopy(model)
    trainer = build_trainer(model, grad_accum_steps=2, clip_grad=clip_grad)
    trainer.model.train()
    parts = [(images.double(), targets) for images, targets in batches(4)]
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
        for gradient in gradients if clip_grad else ():
            gradient.mul_(clip_grad / norm)
        optimizer.step()
        scheduler.step()
    for ours, theirs in zip(model.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-9)


class LossLogger:
    """The whole of what the trainer asks of a logger."""

    def __init__(self):
        self.steps = []

    def log_steps(self, first_step, losses, lrs):
        self.steps += zip(range(first_step, first_step + len(losses)), losses, lrs, strict=True)


def adam_and_cosine(model):
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    return optimizer, torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=2 * STEPS)


def plain_trainer(model):
    loss = torch.nn.CrossEntropyLoss()
    return Trainer(model, loss, *adam_and_cosine(model), Precision("cpu", None))


def bare_adam_loop(model, steps):
    """Train with Adam and cosine annealing; return the loss and the learning rate per step."""
    optimizer, scheduler = adam_and_cosine(model)
    model.train()
    logged = []
    for step, (images, targets) in enumerate(batches(steps)):
        optimizer.zero_grad()
        loss = F.cross_entropy(model(images), targets)
        loss.backward()
        optimizer.step()
        logged.append((step, loss.item(), scheduler.get_last_lr()[0]))
        scheduler.step()
    return logged


def assert_same_weights(ours, theirs):
    pairs = zip(ours.state_dict().values(), theirs.state_dict().values(), strict=True)
    assert all(torch.equal(one, other) for one, other in pairs)


def test_any_optimizer_and_schedule_of_torch_train_as_in_a_bare_loop(model):
    reference, logger = copy.deepcopy(model), LossLogger()
    with StopRequest() as stop:
        plain_trainer(model).train_epoch(FixedBatches(STEPS), logger, stop)
    assert logger.steps == bare_adam_loop(reference, STEPS)
    assert_same_weights(model, reference)


def test_any_optimizer_and_schedule_of_torch_resume_to_the_same_weights(model):
    reference, resumed = copy.deepcopy(model), copy.deepcopy(model)
    bare_adam_loop(reference, 2 * STEPS)
    trainer = plain_trainer(model)
    trainer.model.train()
    steps = list(batches(2 * STEPS))
    for batch in steps[:STEPS]:
        trainer.train_step([batch])
    fresh = plain_trainer(resumed)
    fresh.load_state_dict(copy.deepcopy(trainer.state_dict()))
    fresh.model.train()
    for batch in steps[STEPS:]:
        fresh.train_step([batch])
    assert_same_weights(resumed, reference)


def test_a_network_that_diverges_is_stopped_with_epoch_and_step(make_folder, tmp_path, model):
    make_folder(tmp_path / "data", train=6, val=1, classes=5)
    images = ImageSplits(*find_splits(tmp_path / "data"))
    data = DataConfig(batch_size=6, img_size=32, workers=0)
    trainer = build_trainer(model, max_lr=1e30, hint="try a lower --max-lr")
    with (
        closing(build_train_loader(data, images, seed=0, device=CPU)) as loader,
        StopRequest() as stop,
        pytest.raises(DivergedError, match=r"epoch 0, batch [12] .*: try a lower --max-lr$"),
    ):
        trainer.train_epoch(loader, NullLogger(), stop)


class FixedBatches(BatchLoader):
    """So many steps of `batches` as an epoch."""

    images_per_step = 8

    def __init__(self, steps):
        self._steps = steps

    def __len__(self):
        return self._steps

    def epoch(self, epoch, *, start=0):
        yield from islice(batches(self._steps), start, None)


@pytest.mark.parametrize(
    ("overflows", "end"),
    [
        (3, nullcontext()),
        (17, pytest.raises(DivergedError, match=r"overflow fp16 .* try a lower learning rate")),
    ],
)
def test_gradients_may_overflow_fp16_at_first_but_not_for_ever(model, overflows, end):
    """Each overflow halves the scale; from 65536, the seventeenth brings it below 1."""
    trainer = build_trainer(model, precision=Precision("cpu", torch.float16), steps=20)
    left = iter(range(overflows))
    model.fc.bias.register_hook(
        lambda gradient: gradient if next(left, None) is None else gradient * torch.inf
    )
    with StopRequest() as stop:
        with end:
            trainer.train_epoch(FixedBatches(17), NullLogger(), stop)
        trainer.state_dict()  # whatever the gradients were, the weights are finite


class OverflowingBatches(FixedBatches):
    """Some of the steps have images whose activations overflow fp16."""

    def __init__(self, steps, overflowing, factor=1e9):
        super().__init__(steps)
        self._overflowing, self._factor = overflowing, factor

    def epoch(self, epoch, *, start=0):
        for step, (images, targets) in enumerate(super().epoch(epoch)):
            yield images * (self._factor if step in self._overflowing else 1), targets


@pytest.mark.parametrize("ema_decay", [0, 0.9])
def test_a_step_whose_activations_overflow_fp16_is_skipped_and_the_run_goes_on(model, ema_decay):
    logger = LossLogger()
    precision = Precision("cpu", torch.float16)
    trainer = build_trainer(model, precision=precision, ema_decay=ema_decay)
    with StopRequest() as stop:
        metrics = trainer.train_epoch(OverflowingBatches(STEPS, {0, 2}), logger, stop)
    losses = [loss for _, loss, _ in logger.steps]
    assert [math.isfinite(loss) for loss in losses] == [False, True, False, True, True, True]
    assert metrics.loss == pytest.approx(sum(losses[1:2] + losses[3:]) / 4)
    assert trainer._scaler.get_scale() <= 65536 / 4
    saved = trainer.state_dict()  # weights and statistics are finite
    assert saved["state"]["skipped"] == 2
    resumed = build_trainer(copy.deepcopy(model), precision=precision, ema_decay=ema_decay)
    resumed.load_state_dict(saved)
    assert resumed.state.metrics(8).loss == metrics.loss
    trainer.state.finish_epoch(0.0)
    assert "skipped" not in trainer.state_dict()["state"]


@pytest.mark.parametrize(
    ("overflowing", "factor", "dtype", "reason"),
    [
        (range(STEPS), 1e9, torch.float16, "overflow fp16 in all steps of epoch 0: try a lower"),
        ({2}, math.inf, torch.bfloat16, "the loss became nan in epoch 0, batch 2"),
    ],
)
def test_overflow_in_every_step_or_without_a_scaler_ends_the_run(
    model, overflowing, factor, dtype, reason
):
    trainer = build_trainer(model, precision=Precision("cpu", dtype))
    with StopRequest() as stop, pytest.raises(DivergedError, match=reason):
        trainer.train_epoch(OverflowingBatches(STEPS, overflowing, factor), LossLogger(), stop)


def test_validation_does_not_overflow_fp16(make_folder, tmp_path, model):
    make_folder(tmp_path / "data", train=1, val=2, classes=5)
    images = ImageSplits(*find_splits(tmp_path / "data"))
    with torch.no_grad():  # as with running statistics that lag behind the weights
        model.get_submodule("conv1.1").weight.fill_(1e6)
    found = {}
    for dtype in (torch.float16, None):
        trainer = build_trainer(model, precision=Precision("cpu", dtype))
        data = DataConfig(batch_size=4, img_size=32, workers=0)
        with closing(build_eval_loader(data, images, device=CPU)) as loader, StopRequest() as stop:
            found[dtype], _ = trainer.validate(loader, stop)["val"]
    assert found[torch.float16].loss == pytest.approx(found[None].loss, rel=0.05)


def test_weights_that_are_not_finite_never_reach_a_checkpoint(model):
    trainer = build_trainer(model)
    model.get_submodule("conv1.1").running_mean[0] = float("nan")
    with pytest.raises(DivergedError, match="no longer finite"):
        trainer.state_dict()


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("dtype", [None, torch.bfloat16], ids=["fp32", "bf16"])
def test_stopped_and_resumed_equals_never_stopped_for_each_optimizer(model, name, dtype):
    settings = OptimizerConfig(optimizer=name, norm_decay=False)
    options = {"settings": settings, "precision": Precision("cpu", dtype)}
    options |= {"grad_accum_steps": 2, "ema_decay": 0.9, "clip_grad": 1.0, "max_lr": 0.01}
    trainer = build_trainer(model, **options)
    trainer.model.train()
    steps = list(batches(2 * STEPS))
    for step in range(3):
        trainer.train_step(steps[2 * step : 2 * step + 2])
    trainer._buffer.read(SINGLE_PROCESS)
    file = io.BytesIO()
    torch.save(trainer.state_dict(), file)
    file.seek(0)
    other = build_model(
        ModelConfig(arch="shufflenet_v2_x0_5"), classes=5, img_size=32, seed=4, device=CPU
    )
    fresh = build_trainer(other, **options)
    fresh.load_state_dict(torch.load(file, weights_only=True))
    fresh.model.train()
    for step in range(3, STEPS):
        trainer.train_step(steps[2 * step : 2 * step + 2])
        fresh.train_step(steps[2 * step : 2 * step + 2])
    ours, theirs = fresh.state_dict(), trainer.state_dict()
    for part in ("state", "scheduler"):
        assert ours[part] == theirs[part]
    for part in ("model", "ema"):
        torch.testing.assert_close(ours[part], theirs[part], rtol=0, atol=0)
    ours, theirs = ours["optimizer"], theirs["optimizer"]
    assert ours["param_groups"] == theirs["param_groups"]
    torch.testing.assert_close(ours["state"], theirs["state"], rtol=0, atol=0)


def test_the_scale_of_gradients_and_its_growth_are_resumed(model):
    fp16 = Precision("cpu", torch.float16)
    trainer = build_trainer(copy.deepcopy(model), precision=fp16)
    trainer.model.train()
    trainer._scaler.load_state_dict(
        trainer._scaler.state_dict() | {"scale": 8.0, "growth_interval": 3}
    )
    steps = list(batches(STEPS))
    overflow = trainer.model.fc.bias.register_hook(lambda gradient: gradient * torch.inf)
    trainer.train_step([steps[0]])
    overflow.remove()
    trainer.train_step([steps[1]])
    fresh = build_trainer(copy.deepcopy(model), precision=fp16)
    fresh.load_state_dict(copy.deepcopy(trainer.state_dict()))
    fresh.model.train()
    assert fresh._scaler.get_scale() == 4.0  # halved once
    assert fresh._scaler.state_dict() == trainer._scaler.state_dict()
    for step in steps[2:4]:  # the second of which doubles it
        trainer.train_step([step])
        fresh.train_step([step])
    assert fresh._scaler.get_scale() == trainer._scaler.get_scale() == 8.0
    assert_same_weights(fresh.model, trainer.model)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_an_optimizer_whose_state_is_not_finite_never_reaches_a_checkpoint(model, name):
    for number in range(len(OPTIMIZERS[name].state_names({"momentum": 0.9, "use_muon": False}))):
        trainer = build_trainer(model, settings=OptimizerConfig(optimizer=name))
        state = trainer._optimizer.state[model.fc.bias]
        [*state.values()][number].fill_(torch.nan)
        with pytest.raises(DivergedError, match="no longer finite"):
            trainer.state_dict()


@pytest.mark.parametrize(("saved", "loaded"), [("sgd", "adamw"), ("adamw", "sgd"), ("muon", "sgd")])
def test_the_state_of_another_optimizer_is_refused(model, saved, loaded):
    state = build_trainer(model, settings=OptimizerConfig(optimizer=saved)).state_dict()
    trainer = build_trainer(model, settings=OptimizerConfig(optimizer=loaded))
    with pytest.raises(CheckpointError, match=r"does not fit this run: optimizer\.(state|param)"):
        trainer.load_state_dict(state)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_state_of_another_shape_or_with_a_tensor_missing_is_refused(model, name):
    trainer = build_trainer(model, settings=OptimizerConfig(optimizer=name))
    state = copy.deepcopy(trainer.state_dict())
    tensors = state["optimizer"]["state"][0]
    field = [*tensors][-1]
    whole = tensors[field]
    tensors[field] = whole[:1]
    with pytest.raises(CheckpointError, match=rf"optimizer\.state\.0\.{field}: has shape"):
        trainer.load_state_dict(state)
    del tensors[field]
    with pytest.raises(CheckpointError, match=r"optimizer\.state\.0: has .* keeps .*" + field):
        trainer.load_state_dict(state)
    tensors[field] = whole
    trainer.load_state_dict(state)


def test_the_average_follows_each_step_and_leaves_the_weights_as_they_are(model):
    alone = build_trainer(copy.deepcopy(model))
    trainer = build_trainer(model, ema_decay=0.3)
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


def test_an_ema_that_is_not_finite_never_reaches_a_checkpoint(model):
    trainer = build_trainer(model, ema_decay=0.9)
    trainer._ema.model.fc.bias[0] = float("inf")
    with pytest.raises(DivergedError, match="no longer finite"):
        trainer.state_dict()


def test_a_step_that_scaling_skips_moves_the_ema_to_the_weights_all_the_same(model):
    trainer = build_trainer(model, precision=Precision("cpu", torch.float16), ema_decay=0.9)
    trainer.model.train()
    (batch,) = batches(1)
    with torch.no_grad():
        trainer._ema.model.fc.bias.add_(1)
    model.fc.bias.register_hook(lambda gradient: gradient * torch.inf)
    before = model.fc.bias.detach().clone()
    trainer.train_step([batch])
    assert torch.equal(model.fc.bias, before)
    torch.testing.assert_close(trainer._ema.model.fc.bias, before + 0.1)


@pytest.mark.parametrize(("saved", "wanted"), [(0.0, 0.9), (0.9, 0.0)])
def test_a_checkpoint_with_an_ema_and_a_run_without_do_not_go_together(model, saved, wanted):
    content = build_trainer(copy.deepcopy(model), ema_decay=saved).state_dict()
    with pytest.raises(CheckpointError, match="does not fit this run: ema: it has"):
        build_trainer(model, ema_decay=wanted).load_state_dict(content)


def build_tiny(**more):
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 32 * 32, 5))
    return build_trainer(network, steps=30, **more)


def test_the_time_to_the_next_save_counts_from_the_end_of_the_last(monkeypatch):
    now, saved = 0.0, []
    monkeypatch.setattr(time, "perf_counter", lambda: now)
    trainer = build_tiny()

    class Slow(FixedBatches):
        def epoch(self, epoch, *, start=0):
            nonlocal now
            for batch in super().epoch(epoch):
                now += 2.0
                yield batch

    def save():
        nonlocal now
        now += 6.0
        saved.append(trainer.state.step)

    with StopRequest() as stop:
        trainer.train_epoch(Slow(18), NullLogger(), stop, save=save, save_seconds=7.0)
    assert saved == [4, 8, 12, 16]


def test_ranks_that_join_a_resumed_run_draw_numbers_of_their_own():
    saved = build_tiny().state_dict()
    drawn = []
    for rank in (0, 0, 1, 2, 2):
        joined = DistributedContext(TorchrunEnv(rank=rank))
        build_tiny(distributed=joined).load_state_dict(copy.deepcopy(saved))
        drawn.append(torch.rand(4).tolist())
    again, rank0, rank1, rank2, the_same = drawn
    assert again == rank0
    assert rank2 == the_same
    assert rank0 != rank1 != rank2 != rank0
