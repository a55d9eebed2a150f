"""The loaders that imgnet-mini's are compared with, each as its own documentation builds it."""

import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader
from torchvision import transforms as v1
from torchvision.datasets import ImageFolder
from torchvision.io import decode_image
from torchvision.transforms import v2

from imgnet_mini.data.transforms import MEAN, STD, Normalize

CPU = torch.device("cpu")
MIN_CROP = 0.08
UNIT_MEAN = [value / 255 for value in MEAN]
UNIT_STD = [value / 255 for value in STD]

Epoch = Callable[[], Iterable[Tensor]]
"""Gives every image once: normalized batches, (N, 3, S, S) float32."""


@dataclass(frozen=True)
class Task:
    """What all loaders are to do: so many images below `root`, one folder per class."""

    root: Path
    images: int
    img_size: int
    batch_size: int
    workers: int

    def in_batches(self, dataset: Any, finish: Callable[[Tensor], Tensor] | None = None) -> Epoch:
        """Torch's own loader over what gives one image and its class at a time."""
        loader: DataLoader[Any] = DataLoader(
            dataset,
            self.batch_size,
            shuffle=True,
            drop_last=True,
            num_workers=self.workers,
            persistent_workers=self.workers > 0,
        )
        return lambda: (images if finish is None else finish(images) for images, _ in loader)


def build_v1(task: Task) -> Epoch:
    transform = v1.Compose(
        [
            v1.RandomResizedCrop(task.img_size, scale=(MIN_CROP, 1)),
            v1.RandomHorizontalFlip(),
            v1.ToTensor(),
            v1.Normalize(UNIT_MEAN, UNIT_STD),
        ]
    )
    return task.in_batches(ImageFolder(task.root, transform))


def build_albumentations(task: Task) -> Epoch:
    a, to_tensor = import_module("albumentations"), import_module("albumentations.pytorch")
    import_module("cv2").setNumThreads(0)
    change = a.Compose(
        [
            a.RandomResizedCrop((task.img_size, task.img_size), scale=(MIN_CROP, 1)),
            a.HorizontalFlip(),
            a.Normalize(UNIT_MEAN, UNIT_STD),
            to_tensor.ToTensorV2(),
        ]
    )
    return task.in_batches(ImageFolder(task.root, Albumented(change), loader=read_cv2))


class Albumented:
    """From pixels alone to pixels alone."""

    def __init__(self, change: Callable[..., dict[str, Tensor]]) -> None:
        self._change = change

    def __call__(self, pixels: Any) -> Tensor:
        return self._change(image=pixels)["image"]


def read_cv2(path: str) -> Any:
    cv2 = import_module("cv2")
    return cv2.cvtColor(cv2.imread(path), cv2.COLOR_BGR2RGB)


def build_timm(task: Task) -> Epoch:
    data = import_module("timm.data")
    prefetcher = data.create_loader(
        data.create_dataset("", root=str(task.root), is_training=True),
        input_size=(3, task.img_size, task.img_size),
        batch_size=task.batch_size,
        is_training=True,
        scale=(MIN_CROP, 1),
        color_jitter=None,
        num_workers=task.workers,
        persistent_workers=task.workers > 0,
        device=CPU,
    )
    normalize = Normalize(CPU)
    return lambda: (normalize(images) for images, _ in prefetcher.loader)


def build_v2(task: Task) -> Epoch:
    transform = v2.Compose(
        [v2.RandomResizedCrop(task.img_size, scale=(MIN_CROP, 1)), v2.RandomHorizontalFlip()]
    )
    dataset = ImageFolder(task.root, transform, loader=read_torchvision)
    return task.in_batches(dataset, Normalize(CPU))


def read_torchvision(path: str) -> Tensor:
    pixels: Tensor = decode_image(path, mode="RGB")
    return pixels


def build_dali(task: Task) -> Epoch:
    dali, fn = import_module("nvidia.dali"), import_module("nvidia.dali.fn")
    ahead = 2 if task.workers else 1
    pipe = dali.Pipeline(
        task.batch_size,
        num_threads=max(1, task.workers),
        device_id=None,
        seed=0,
        prefetch_queue_depth=ahead,
        exec_async=task.workers > 0,
        exec_pipelined=task.workers > 0,
    )
    with pipe:
        files, _ = fn.readers.file(file_root=str(task.root), random_shuffle=True)
        images = fn.decoders.image_random_crop(files, device="cpu", random_area=[MIN_CROP, 1.0])
        images = fn.resize(images, size=[task.img_size, task.img_size])
        pipe.set_outputs(fn.flip(images, horizontal=fn.random.coin_flip()))
    pipe.build()
    batches = task.images // task.batch_size
    normalize = Normalize(CPU)

    def epoch() -> Iterator[Tensor]:
        """Never more batches under way than the epoch has left: the next loader has its turn."""
        for _ in range(min(ahead, batches)):
            pipe.schedule_run()
        for batch in range(batches):
            (pixels,) = pipe.share_outputs()
            images = torch.from_numpy(np.asarray(pixels.as_tensor()))
            yield normalize(images.permute(0, 3, 1, 2))
            pipe.release_outputs()
            if batch + ahead < batches:
                pipe.schedule_run()

    return epoch


OTHERS: dict[str, tuple[str, Callable[[Task], Epoch]]] = {
    "torchvision v1": ("torchvision", build_v1),
    "albumentations": ("albumentations opencv-python-headless", build_albumentations),
    "timm": ("timm", build_timm),
    "torchvision v2": ("torchvision", build_v2),
    "dali": ("nvidia-dali-cuda120", build_dali),
}
"""Name to what pip installs for it, and how it is built; the first is the base of the ratios."""


@contextmanager
def quiet() -> Iterator[None]:
    """Others' warnings are not this project's to mend."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
