"""A training step and its batches never make the host wait for the GPU; shown without one.

The step runs on the CPU, for real, and operations that would wait are counted; batches are made on
a CUDA device that is not there.
"""

import numpy as np
import pytest
import torch
from torch import nn

from helpers.fake_cuda import HostWaits, fake_cuda
from imgnet_mini.config.data_settings import DataConfig
from imgnet_mini.config.training_settings import OptimizerConfig, ScheduleConfig
from imgnet_mini.data.augment.registry import BatchAugment
from imgnet_mini.data.batches import Batch, DevicePrefetcher
from imgnet_mini.data.sampler import BatchKey
from imgnet_mini.data.transforms import Normalize, TestTimeAugmentation
from imgnet_mini.training.optim import build_loss, build_optimizer, build_scheduler
from imgnet_mini.training.precision import Precision
from imgnet_mini.training.step_undo import StepUndo
from imgnet_mini.training.trainer import Trainer

CUDA = torch.device("cuda")


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        *(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.1)),
        *(nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(64, 3)),
    )


def build_trainer(model, dtype, settings):
    optimizer = build_optimizer(settings, model, lr=0.05)
    scheduler = build_scheduler(ScheduleConfig(), optimizer, max_lr=0.05, total_steps=50)
    return Trainer(
        *(model, build_loss(settings), optimizer, scheduler, Precision("cpu", dtype)),
        total_steps=50,
        grad_accum_steps=2,
        clip_grad=settings.clip_grad,
        ema_decay=settings.ema_decay,
    )


ALL = OptimizerConfig(nesterov=True, norm_decay=False, clip_grad=0.5, ema_decay=0.99)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, None], ids=str)
@pytest.mark.parametrize(
    "settings",
    [OptimizerConfig(), ALL, OptimizerConfig(optimizer="adamw"), OptimizerConfig(optimizer="muon")],
    ids=["plain", "all", "adamw", "muon"],
)
@pytest.mark.parametrize("mixed", [False, True], ids=["classes", "probabilities"])
def test_a_step_with_its_backward_pass_never_waits(dtype, settings, mixed):
    trainer = build_trainer(network(), dtype, settings)
    targets = torch.arange(6) % 3
    if mixed:
        targets = nn.functional.one_hot(targets, 3).float()
    batch = torch.randn(6, 3, 8, 8), targets
    trainer.model.train()
    trainer.train_step([batch, batch])  # what is made once may wait
    with HostWaits() as waits:
        for _ in range(2):
            trainer.train_step([batch, batch])
    assert waits.found == []


def test_what_a_step_needs_to_be_undone_is_kept_without_waiting():
    trainer = build_trainer(network(), None, OptimizerConfig())
    undo = StepUndo(trainer.model, trainer._buffer, trainer._optimizer, trainer._distributed)
    undo.begin()
    with HostWaits() as waits:
        undo.begin()
    assert waits.found == []


@pytest.mark.parametrize(
    "wait",
    [
        lambda x: x.sum().item(),
        lambda x: bool(x.isfinite().all()),
        lambda x: x.nonzero(),
        lambda x: x[x > 0],
        lambda x: x.masked_fill_(x > 0, 1)[x > 0],
        lambda x: x + torch.tensor([1.0, 2.0]),
        lambda x: torch.equal(x, x),
    ],
)
def test_what_waits_is_seen_in_forward_and_backward(wait):
    with HostWaits() as waits:
        wait(torch.ones(2))
    assert waits.found
    weight = torch.ones(2, requires_grad=True)
    weight.register_hook(lambda gradient: (wait(gradient.clone()), gradient)[1])
    loss = (weight * 2).sum()
    with HostWaits() as waits:
        loss.backward()
    assert waits.found


@pytest.mark.parametrize("read", [torch.Tensor.tolist, torch.Tensor.cpu, torch.Tensor.numpy])
def test_a_read_that_the_cpu_does_not_dispatch_is_seen(read):
    with HostWaits() as waits:
        read(torch.ones(2))
    assert waits.found == [read.__name__]


AUGMENTED = [
    {},
    {"trivial_augment": True},
    {"use_class_style_aug": True},
    {"random_erasing": 0.5},
    {"mixup": 0.2},
    {"cutmix": 1.0},
]
AUGMENTED.append({name: value for settings in AUGMENTED for name, value in settings.items()})


def pinned_batch(*, packed):
    """Rows of a pack with their crops, or images of files, as workers give them."""
    key = BatchKey(0, np.arange(12), 32)
    if packed:
        crops = torch.tensor([[2.0, 3.0, 30.0, 20.0, 1.0]]).expand(12, 5).contiguous()
        batch = Batch(torch.zeros(12, 48, 48, 3, dtype=torch.uint8), torch.arange(12), key, crops)
    else:
        images = torch.empty((12, 3, 32, 32), dtype=torch.uint8, memory_format=torch.channels_last)
        batch = Batch(images, torch.arange(12), key)
    return batch.map_tensors(lambda tensor: tensor.pin_memory())


@pytest.mark.parametrize("packed", [False, True], ids=["files", "pack"])
@pytest.mark.parametrize("settings", AUGMENTED, ids=lambda chosen: " ".join(chosen) or "none")
def test_batches_are_augmented_without_waits_and_tf32_and_are_channels_last(settings, packed):
    with fake_cuda() as cuda:
        augment = BatchAugment(DataConfig(**settings), classes=12, seed=0, device=CUDA)
        prefetch = DevicePrefetcher(CUDA)
        augment(prefetch(pinned_batch(packed=packed)))  # what is made once may wait
        cuda.waits.clear()
        for _ in range(2):
            images, targets = augment(prefetch(pinned_batch(packed=packed)))
    assert images.is_cuda
    assert targets.is_cuda
    assert images.is_contiguous(memory_format=torch.channels_last)
    assert cuda.waits == []
    assert cuda.products == []


@pytest.mark.parametrize("tta", list(TestTimeAugmentation))
def test_each_view_of_an_evaluation_is_channels_last_and_never_waits(tta):
    side = tta.source_size(32)
    images = torch.zeros(2, side, side, 3, dtype=torch.uint8).permute(0, 3, 1, 2)
    batch = Batch(images, torch.arange(2), BatchKey(0, np.arange(2), side))
    with fake_cuda() as cuda:
        normalize, prefetch = Normalize(CUDA), DevicePrefetcher(CUDA)
        for _ in range(2):  # what is made once may wait
            cuda.waits.clear()
            on_device = prefetch(batch.map_tensors(lambda tensor: tensor.pin_memory()))
            views = list(tta.views(normalize(on_device.images)))
    assert cuda.waits == []
    assert len(views) == {"center": 1, "hflip": 2, "ten-crop": 10}[tta]
    for view in views:
        assert view.is_cuda
        assert view.shape == (2, 3, 32, 32)
        assert view.is_contiguous(memory_format=torch.channels_last)
