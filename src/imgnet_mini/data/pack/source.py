"""Batches from a pack: rows of a memory map, cropped in threads on a CPU, else on the device."""

from collections.abc import Iterator
from itertools import pairwise
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from imgnet_mini.config.data_settings import DataConfig
from imgnet_mini.data.batches import Batch, BatchSource, prefetch_map, send_array, thread_pool
from imgnet_mini.data.crops import CROP_NUMBERS, Crop, crop_image, scale_crop
from imgnet_mini.data.pack.format import PackedSplit
from imgnet_mini.data.rng import uniforms
from imgnet_mini.data.sampler import BatchKey, ResumableBatchSampler
from imgnet_mini.data.transforms import TrainCrop
from imgnet_mini.errors import ConfigError
from imgnet_mini.utils.console import format_bytes, print_warning

_MARGIN: Final = 0.05
"""Share of the device memory to leave free."""


class PackSource(BatchSource):
    """Batches of a packed split, loaded by threads: numpy and torch release the GIL.

    crop: random crop of training images; None for rows to be used whole.
    """

    def __init__(
        self,
        sampler: ResumableBatchSampler,
        split: PackedSplit,
        crop: TrainCrop | None,
        data: DataConfig,
        *,
        device: torch.device,
    ) -> None:
        self._sampler = sampler
        self._split = split
        self._crop = crop
        self._threads = data.workers
        self._pinned = device.type == "cuda"
        self._crop_on_host = crop is not None and device.type == "cpu"
        self._pool = thread_pool(self._threads)
        mode = data.pack_on_device if crop is not None else "off"
        ahead = sampler.max_micro_batch * (data.workers + 1)  # batches gathered on the device
        self._device_rows = DeviceRows(split.pixels, device, mode, rows_ahead=ahead)

    def batches(self) -> Iterator[Batch]:
        """Yield the batches of the current epoch of the sampler."""
        self._device_rows.before_epoch()
        if self._crop_on_host or not self._threads:
            # On a CPU, training uses all cores: the threads share each batch instead.
            yield from map(self._load, self._sampler)
        else:
            yield from prefetch_map(self._load, self._sampler, self._pool, ahead=self._threads)
        if self._sampler.is_full_size and self._sampler.start < len(self._sampler):
            self._device_rows.full_size_seen = True

    @property
    def can_free_memory(self) -> bool:
        """Return whether the rows are on the device and not required to be there."""
        return self._device_rows.can_release

    def free_memory(self) -> bool:
        """Move the rows back to host memory for good; return whether that freed device memory."""
        return self._device_rows.release()

    def close(self) -> None:
        """Stop the threads."""
        self._pool.shutdown(cancel_futures=True)

    def _load(self, key: BatchKey) -> Batch:
        targets = torch.from_numpy(self._split.images.targets[key.indices])
        if self._crop is None:
            images = self._rows(key.indices).permute(0, 3, 1, 2)
            return self._pin(Batch(images, targets, key))
        crops = self._sample_crops(key, self._crop)
        if self._crop_on_host:
            return Batch(self._crop_images(key.indices, crops, key.size), targets, key)
        boxes = torch.tensor(crops, dtype=torch.float32)
        return self._pin(Batch(self._rows(key.indices), targets, key, boxes))

    def _sample_crops(self, key: BatchKey, crop: TrainCrop) -> list[Crop]:
        """Sample crops of the original images; scale them to the rows."""
        numbers = uniforms(self._sampler.seed or 0, key.epoch, key.indices, CROP_NUMBERS).tolist()
        sizes = self._split.sizes[key.indices].tolist()
        side = self._split.pixels.shape[1]
        return [
            scale_crop(crop.sample(drawn, width, height), crop.frame(width, height), (side, side))
            for drawn, (width, height) in zip(numbers, sizes, strict=True)
        ]

    def _rows(self, indices: NDArray[np.int64]) -> Tensor:
        resident = self._device_rows.tensor
        if resident is not None:
            return resident.index_select(0, send_array(indices, resident.device))
        shape = (len(indices), *self._split.pixels.shape[1:])
        rows = torch.empty(shape, dtype=torch.uint8, pin_memory=self._pinned)
        # All indices are valid; mode="clip" saves a copy inside numpy.
        np.take(self._split.pixels, indices, axis=0, out=rows.numpy(), mode="clip")
        return rows

    def _crop_images(self, indices: NDArray[np.int64], crops: list[Crop], size: int) -> Tensor:
        images = torch.empty(
            (len(indices), 3, size, size), dtype=torch.uint8, memory_format=torch.channels_last
        )

        def crop_range(first: int, last: int) -> None:
            for n in range(first, last):
                images[n].copy_(crop_image(self._split.pixels[indices[n]], crops[n], size))

        if self._threads < 2:
            crop_range(0, len(indices))
            return images
        bounds = np.linspace(0, len(indices), self._threads + 1).astype(int).tolist()
        for future in [self._pool.submit(crop_range, *pair) for pair in pairwise(bounds)]:
            future.result()
        return images

    def _pin(self, batch: Batch) -> Batch:
        if not self._pinned:
            return batch
        return batch.map_tensors(lambda tensor: tensor if tensor.is_cuda else tensor.pin_memory())


class DeviceRows:
    """Rows of a pack in GPU memory: on request, or once they fit.

    Free memory is measured after batches at full image size and the validation that follows them,
    when training has allocated all that it needs.

    rows: (N, S, S, 3) uint8.
    mode: `--pack-on-device`: "on", "off" or "auto".
    rows_ahead: rows in the batches that are gathered on the device at any time.

    Raises:
        ConfigError: mode is "on" and the device is not a GPU.
    """

    def __init__(
        self, rows: NDArray[np.uint8], device: torch.device, mode: str, *, rows_ahead: int = 0
    ) -> None:
        self.tensor: Tensor | None = None
        self.full_size_seen = False
        """True once this process has trained on images of the full size."""
        self._rows = rows
        self._device = device
        if mode == "on" and device.type != "cuda":
            raise ConfigError(
                f"--pack-on-device on requires CUDA, and this run uses {device.type}: use auto"
            )
        self._mode = mode if device.type == "cuda" else "off"
        self._bytes_ahead = rows_ahead * rows.nbytes // max(1, len(rows))

    def before_epoch(self) -> None:
        """Move the rows to the device if they are to be there. Call before each epoch.

        Raises:
            ConfigError: mode is "on" and the rows do not fit.
        """
        if self.tensor is not None or self._mode == "off":
            return
        needed = self._rows.nbytes + self._bytes_ahead
        free, total = torch.cuda.mem_get_info(self._device)
        if self._mode == "on" and needed > free:
            raise ConfigError(
                f"--pack-on-device on: the pack needs {format_bytes(needed)} of device memory, "
                f"and {format_bytes(free)} are free: use auto or off"
            )
        fits = self.full_size_seen and needed + _MARGIN * total <= free
        if self._mode == "on" or fits:
            try:
                self.tensor = torch.from_numpy(self._rows).to(self._device)
            except torch.OutOfMemoryError:  # another program has taken what was free
                if self._mode == "on":
                    raise
                self._give_up()

    @property
    def can_release(self) -> bool:
        """Return whether the rows are on the device; those of mode "on" stay."""
        return self.tensor is not None and self._mode == "auto"

    def release(self) -> bool:
        """Free the device memory for good; return whether there was any to free."""
        if not self.can_release:
            return False
        self._give_up()
        return True

    def _give_up(self) -> None:
        self.tensor, self._mode = None, "off"
        torch.cuda.empty_cache()
        print_warning(
            "Note: GPU memory ran out. The pack is read from host memory from here on, as with "
            "--pack-on-device off"
        )
