"""Training steps that `gpu.py` compares with: a bare loop, a plain script, and timm's."""

import time
from collections.abc import Callable, Iterator
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
import torchvision
from step import MAX_LR, TOTAL_STEPS
from torch import Tensor, nn
from torch.optim.lr_scheduler import OneCycleLR
from torch.utils.data import DataLoader
from torchvision import transforms

Step = Callable[[], None]
"""One training step."""


class NotMeasuredError(Exception):
    """A case that this machine cannot measure, and why."""


def images_per_second(step: Step, batch_size: int, *, seconds: float, warm_up: int = 3) -> float:
    """Measure a step, after some that choose kernels and start workers."""
    for _ in range(warm_up):
        step()
    synchronize()
    began = time.perf_counter()
    steps = 0
    while steps == 0 or time.perf_counter() - began < seconds:
        step()
        steps += 1
    synchronize()
    return steps * batch_size / (time.perf_counter() - began)


def synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def fixed_batch(size: int, count: int, device: torch.device) -> tuple[Tensor, Tensor]:
    images = torch.randn(count, 3, size, size, device=device)
    return images.to(memory_format=torch.channels_last), torch.arange(count, device=device) % 2


def bare_step(model: nn.Module, images: Tensor, targets: Tensor, dtype: torch.dtype | None) -> Step:
    """Autocast, channels last, fused SGD, OneCycleLR, and nothing else."""
    kind = images.device.type
    model = model.to(images.device).to(memory_format=torch.channels_last).train()
    optimizer = torch.optim.SGD(
        model.parameters(), MAX_LR, momentum=0.9, weight_decay=1e-4, fused=True
    )
    scheduler = OneCycleLR(optimizer, MAX_LR, total_steps=TOTAL_STEPS)
    criterion = nn.CrossEntropyLoss(label_smoothing=0.1)
    scaler = torch.amp.GradScaler(kind, enabled=dtype is torch.float16)

    def step() -> None:
        with torch.autocast(kind, dtype, enabled=dtype is not None):
            loss = criterion(model(images), targets)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad(set_to_none=True)
        scheduler.step()

    return step


def timm_step(arch: str, images: Tensor, targets: Tensor, dtype: torch.dtype | None) -> Step:
    """As timm's train.py takes it with --amp --channels-last: its network, loss, optimizer, scaler.

    Raises:
        NotMeasuredError: timm is not installed, or has no such network.
    """
    if find_spec("timm") is None:
        raise NotMeasuredError("timm is not installed")
    timm, loss, optim, utils = map(import_module, ("timm", "timm.loss", "timm.optim", "timm.utils"))
    if not timm.is_model(arch):
        raise NotMeasuredError(f"timm has no {arch}")
    kind = images.device.type
    model = timm.create_model(arch, num_classes=2)
    model = model.to(images.device, memory_format=torch.channels_last).train()
    optimizer = optim.create_optimizer_v2(
        model, opt="sgd", lr=MAX_LR, weight_decay=1e-4, momentum=0.9
    )
    criterion = loss.LabelSmoothingCrossEntropy(smoothing=0.1)
    scaler = utils.NativeScaler(device=kind) if dtype is torch.float16 else None

    def step() -> None:
        with torch.autocast(kind, dtype, enabled=dtype is not None):
            value = criterion(model(images), targets)
        if scaler is None:
            value.backward()
            optimizer.step()
        else:
            scaler(value, optimizer, parameters=model.parameters())
        optimizer.zero_grad()

    return step


class PlainScript:
    """A common training script: PIL loader, contiguous images, autocast, `.item()` each step."""

    def __init__(
        self,
        folder: Path,
        model: nn.Module,
        *,
        size: int,
        batch_size: int,
        workers: int,
        device: torch.device,
        dtype: torch.dtype | None,
    ) -> None:
        crop = [transforms.RandomResizedCrop(size), transforms.RandomHorizontalFlip()]
        normalize = transforms.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
        images = torchvision.datasets.ImageFolder(
            str(folder), transforms.Compose([*crop, transforms.ToTensor(), normalize])
        )
        self._loader: DataLoader[Any] = DataLoader(
            images,
            batch_size,
            shuffle=True,
            num_workers=workers,
            pin_memory=device.type == "cuda",
            drop_last=True,
            persistent_workers=workers > 0,
        )
        self._batches = self._endless()
        self._device = device
        self._model = model.to(device).train()
        self._optimizer = torch.optim.SGD(
            model.parameters(), MAX_LR, momentum=0.9, weight_decay=1e-4
        )
        self._scheduler = OneCycleLR(self._optimizer, MAX_LR, total_steps=TOTAL_STEPS)
        self._criterion = nn.CrossEntropyLoss(label_smoothing=0.1)
        self._dtype = dtype
        self._scaler = torch.amp.GradScaler(device.type, enabled=dtype is torch.float16)
        self._loss = self._correct = 0.0

    def _endless(self) -> Iterator[tuple[Tensor, Tensor]]:
        while True:
            yield from self._loader

    def __call__(self) -> None:
        images, targets = (tensor.to(self._device) for tensor in next(self._batches))
        self._optimizer.zero_grad()
        with torch.autocast(self._device.type, self._dtype, enabled=self._dtype is not None):
            logits = self._model(images)
            loss = self._criterion(logits, targets)
        self._scaler.scale(loss).backward()
        self._scaler.step(self._optimizer)
        self._scaler.update()
        self._scheduler.step()
        self._loss += loss.item()
        self._correct += (logits.argmax(1) == targets).sum().item()
