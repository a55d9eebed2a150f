"""Batches from a pack: rows of a memory map, cropped here on a CPU, else on the device."""

from collections.abc import Iterator
from itertools import pairwise
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from imgnet_mini.config.settings import DataConfig
from imgnet_mini.data.batches import Batch, prefetch_map, thread_pool
from imgnet_mini.data.crops import CROP_NUMBERS, Crop, crop_image, squash_crop
from imgnet_mini.data.pack.format import PackedSplit
from imgnet_mini.data.rng import uniforms
from imgnet_mini.data.sampler import BatchKey, ResumableBatchSampler
from imgnet_mini.data.transforms import TrainCrop
from imgnet_mini.errors import ConfigError
from imgnet_mini.utils.console import format_bytes

_MARGIN: Final = 0.05
"""Share of the device's memory that stays free beside the pack and what training has taken."""


class PackSource:
    """Batches of a packed split. Threads serve: what they call lets go of Python's lock.

    crop: how training images are cut; None for rows that are as they are to be.
    """

    def __init__(
        self,
        order: ResumableBatchSampler,
        split: PackedSplit,
        crop: TrainCrop | None,
        data: DataConfig,
        *,
        device: torch.device,
    ) -> None:
        self._order = order
        self._split = split
        self._crop = crop
        self._threads = data.workers
        self._pinned = device.type == "cuda"
        self._crop_here = crop is not None and device.type == "cpu"
        self._pool = thread_pool(self._threads)
        wanted = data.pack_on_device if crop is not None else "off"
        self._resident = DeviceRows(split.pixels, device, wanted)

    def batches(self) -> Iterator[Batch]:
        """The batches of the order's epoch."""
        self._resident.before_epoch(at_full_size=self._order.at_full_size)
        if self._crop_here or not self._threads:
            # A CPU that trains has no core to spare: its threads share each batch instead.
            yield from map(self._load, self._order)
        else:
            yield from prefetch_map(self._load, self._order, self._pool, ahead=self._threads)

    def close(self) -> None:
        """End the threads."""
        self._pool.shutdown(cancel_futures=True)

    def _load(self, key: BatchKey) -> Batch:
        indices = torch.from_numpy(key.indices)
        targets = torch.from_numpy(self._split.images.targets[key.indices])
        if self._crop is None:
            images = self._rows(key.indices).permute(0, 3, 1, 2)
            return self._pin(Batch(images, targets, indices))
        crops = self._crops(key, self._crop)
        if self._crop_here:
            return Batch(self._cut(key.indices, crops, key.size), targets, indices)
        places = torch.tensor(crops, dtype=torch.float32)
        return self._pin(Batch(self._rows(key.indices), targets, indices, places))

    def _crops(self, key: BatchKey, crop: TrainCrop) -> list[Crop]:
        """Sampled in the image as it was, then squashed as it was."""
        numbers = uniforms(self._order.seed or 0, key.epoch, key.indices, CROP_NUMBERS).tolist()
        sizes = self._split.sizes[key.indices].tolist()
        side = self._split.pixels.shape[1]
        return [
            squash_crop(crop.sample(drawn, width, height), width, height, side)
            for drawn, (width, height) in zip(numbers, sizes, strict=True)
        ]

    def _rows(self, indices: NDArray[np.int64]) -> Tensor:
        if self._resident.tensor is not None:
            # Pinned and without a wait: a wait here would be one for the steps under way.
            where = torch.from_numpy(indices).pin_memory()
            where = where.to(self._resident.tensor.device, non_blocking=True)
            return self._resident.tensor.index_select(0, where)
        shape = (len(indices), *self._split.pixels.shape[1:])
        rows = torch.empty(shape, dtype=torch.uint8, pin_memory=self._pinned)
        # Clipping, which never happens, spares numpy a copy.
        np.take(self._split.pixels, indices, axis=0, out=rows.numpy(), mode="clip")
        return rows

    def _cut(self, indices: NDArray[np.int64], crops: list[Crop], size: int) -> Tensor:
        images = torch.empty(
            (len(indices), 3, size, size), dtype=torch.uint8, memory_format=torch.channels_last
        )

        def cut(first: int, last: int) -> None:
            for n in range(first, last):
                images[n].copy_(crop_image(self._split.pixels[indices[n]], crops[n], size))

        if self._threads < 2:
            cut(0, len(indices))
            return images
        bounds = np.linspace(0, len(indices), self._threads + 1).astype(int).tolist()
        for part in [self._pool.submit(cut, *pair) for pair in pairwise(bounds)]:
            part.result()
        return images

    def _pin(self, batch: Batch) -> Batch:
        if not self._pinned:
            return batch
        return batch.apply(lambda tensor: tensor if tensor.is_cuda else tensor.pin_memory())


class DeviceRows:
    """The rows of a pack in the device's own memory: when asked for, or once there is room.

    Whether there is room is seen, not guessed: after an epoch of images at their full size, with
    its validation, training holds all the memory that it will need.

    Raises:
        ConfigError: they were asked for, and there is no such memory.
    """

    def __init__(self, rows: NDArray[np.uint8], device: torch.device, wanted: str) -> None:
        self.tensor: Tensor | None = None
        self._rows = rows
        self._device = device
        if wanted == "on" and device.type != "cuda":
            raise ConfigError(f"--pack-on-device on needs CUDA, and this run is on {device.type}")
        self._wanted = wanted if device.type == "cuda" else "off"
        self._epochs = 0

    def before_epoch(self, *, at_full_size: bool = True) -> None:
        """Call before each epoch.

        at_full_size: whether no later epoch has larger images.

        Raises:
            ConfigError: they were asked for and do not fit.
        """
        if self.tensor is None and self._wanted != "off":
            free, total = torch.cuda.mem_get_info(self._device)
            if self._wanted == "on" and self._rows.nbytes > free:
                raise ConfigError(
                    f"--pack-on-device on: the pack takes {format_bytes(self._rows.nbytes)}, and "
                    f"{format_bytes(free)} of the device's memory are free: use auto or off"
                )
            if self._wanted == "on" or self._fits(free, total):
                self.tensor = torch.from_numpy(self._rows).to(self._device)
        self._epochs += at_full_size

    def _fits(self, free: int, total: int) -> bool:
        return self._epochs > 0 and self._rows.nbytes + _MARGIN * total <= free
