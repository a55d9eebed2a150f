"""A check before a progressive run that images of the full size fit in GPU memory."""

from bisect import bisect_left
from collections.abc import Iterator

import torch

from imgnet_mini.config.run_config import RunConfig
from imgnet_mini.data.sampler import ProgressiveResize, build_progressive_resize
from imgnet_mini.errors import ConfigError
from imgnet_mini.training.compilation import flag_without_graphs
from imgnet_mini.training.device import is_out_of_memory
from imgnet_mini.training.setup import Setup
from imgnet_mini.training.train_state import random_state, set_random_state

_SIDE_STEP = 32
"""Pixels between the image sizes that are tried."""


def check_full_size(config: RunConfig, setup: Setup) -> None:
    """Run forward and backward at the full size of a progressive run on a GPU, without a trace.

    Otherwise memory would run out only when images reach that size, hours later.

    Raises:
        ConfigError: out of memory; names a batch size and an image size that were tried and fit.
    """
    data, distributed = config.data, setup.distributed
    sizes = build_progressive_resize(data, config.schedule.epochs)
    micro_batches = distributed.world_size * data.grad_accum_steps
    images = data.batch_size // micro_batches
    if setup.device.type != "cuda" or sizes.size_at(0) == sizes.last:
        return
    if _fits(setup, images, sizes.last):
        return
    reached = next(epoch for epoch in range(sizes.epochs) if sizes.size_at(epoch) == sizes.last)
    message = (
        f"out of memory at --batch-size {data.batch_size} and {sizes.last} px, which --progressive "
        f"{data.progressive} reaches in epoch {reached} of {sizes.epochs}: "
    )
    if distributed.world_size > 1:  # the ranks could not agree on what to try
        raise ConfigError(f"{message}try twice the --grad-accum-steps, or half the --batch-size")
    fitting = [*_fitting_batches(config, setup, images), *_fitting_size(setup, images, sizes)]
    raise ConfigError(
        f"{message}{'; or '.join(fitting)} (tried, and enough)"
        if fitting
        else f"{message}not even 2 images fit; choose a smaller --arch or --img-size"
    )


def _fitting_batches(config: RunConfig, setup: Setup, images: int) -> Iterator[str]:
    """Yield flags for the largest micro-batch that fits, of those from halving."""
    data, size = config.data, config.data.img_size
    steps = data.grad_accum_steps
    while images >= 4:  # batch norm may need 2 images
        images //= 2
        steps *= 2
        if _fits(setup, images, size):
            if data.batch_size % steps == 0:
                yield f"use --grad-accum-steps {steps}{flag_without_graphs(config.runtime)}"
            yield f"use --batch-size {images * data.grad_accum_steps}"
            return


def _fitting_size(setup: Setup, images: int, sizes: ProgressiveResize) -> Iterator[str]:
    """Yield flags for the largest image size that fits the batch."""
    candidates = range(sizes.first + _SIDE_STEP, sizes.last, _SIDE_STEP)
    fitting = bisect_left(candidates, True, key=lambda side: not _fits(setup, images, side))
    if fitting:
        side = candidates[fitting - 1]
        yield f"use --img-size {side} --progressive {sizes.first}:{side}"


def _fits(setup: Setup, images: int, size: int) -> bool:
    """Return whether forward and backward of so many images fit; restore what they change."""
    buffers = [(buffer, buffer.clone()) for buffer in setup.model.buffers()]
    rng = random_state()
    try:
        _run_step(setup, images, size)
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        return False
    finally:
        setup.model.zero_grad(set_to_none=True)
        for buffer, saved in buffers:
            buffer.copy_(saved)
        set_random_state([rng], 0, fallback=0)
        torch.cuda.empty_cache()
    return True


def _run_step(setup: Setup, count: int, size: int) -> None:
    weights = list(setup.model.parameters())
    # In place of the optimizer's state and the averaged weights, which do not exist yet.
    reserved = [torch.empty_like(weight) for weight in weights for _ in range(3)]
    device = weights[0].device
    images = torch.zeros((count, 3, size, size), device=device)
    images = images.contiguous(memory_format=torch.channels_last)
    setup.model.train()
    with setup.precision.autocast():
        logits = setup.model(images)
        loss = setup.criterion(logits, torch.zeros(count, dtype=torch.int64, device=device))
    loss.backward()
    del reserved
