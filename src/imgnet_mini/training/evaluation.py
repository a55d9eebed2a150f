"""Loss, top-1 and top-5 of a network over a set of images."""

import math
import time
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import chain, islice, repeat
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from imgnet_mini.data.folder import ImageFolder
from imgnet_mini.data.loaders import Loader
from imgnet_mini.distributed.context import SINGLE_PROCESS, DistributedContext
from imgnet_mini.distributed.rank_sync import RankSync
from imgnet_mini.runs.predictions import Predictions, balanced_top1
from imgnet_mini.runs.records import Phase
from imgnet_mini.training.device import exact_float32
from imgnet_mini.training.precision import Precision
from imgnet_mini.utils.progress import progress_bar
from imgnet_mini.utils.signals import StopRequest

TOP: Final = 5

_MAX_UNSYNCED_BATCHES: Final = 64


@dataclass(frozen=True)
class Metrics:
    """Means over images; top-1 and top-5 in percent.

    balanced_top1: mean over the classes that have images of their top-1, in percent; NaN in
        training.
    """

    loss: float
    top1: float
    top5: float
    images: int
    imgs_per_sec: float
    balanced_top1: float = math.nan

    def to_text(self, lr: float) -> str:
        """Return the text beside a progress bar."""
        return (
            f"loss {self.loss:.3f}  top1 {self.top1:.2f}%  lr {lr:.2e}  "
            f"{self.imgs_per_sec:.0f} img/s"
        )


@dataclass(frozen=True)
class TopKPredictions:
    """The K most likely classes of N images, best first, (N, K) int64, and (N, K) float32."""

    top: Tensor
    probabilities: Tensor


Validation = dict[Phase, tuple[Metrics, TopKPredictions]]
"""Results of the network, and of its averaged weights if any."""


def evaluate(
    model: nn.Module,
    loader: Loader,
    precision: Precision,
    stop: StopRequest,
    *,
    label_smoothing: float,
    label: str = "evaluate",
    distributed: DistributedContext = SINGLE_PROCESS,
) -> tuple[Metrics, TopKPredictions]:
    """Evaluate each image once, on one of the ranks, and return all results on all ranks.

    Logits are averaged over the loader's `tta` views of an image. Averages, losses and ranks are
    computed in float32.

    Raises:
        StopRequestedError: a signal was received.
        DataError: an image cannot be decoded.
    """
    model.eval()
    rows: list[Tensor] = []
    began = time.perf_counter()
    rank_sync = RankSync(distributed, stop, max_steps=_MAX_UNSYNCED_BATCHES)
    # A rank may have images in fewer batches than others, or in none: all sync equally often.
    batches = chain(loader.epoch(0), repeat(None))
    with (
        torch.no_grad(),
        nullcontext() if precision.dtype else exact_float32(),
        progress_bar(label, loader.images) as bar,
    ):
        for number, batch in enumerate(islice(batches, len(loader)), 1):
            if batch is not None:
                images, targets = batch
                with precision.autocast():
                    views = [model(view).float() for view in loader.tta.views(images)]
                rows.append(_to_rows(torch.stack(views).mean(0), targets, label_smoothing))
            bar.show(min(number * loader.images_per_step, loader.images))
            if rank_sync.should_sync():
                rank_sync.sync()
            rank_sync.check()
        local = torch.cat(rows).cpu() if rows else torch.empty(0, 0)  # blocking
    table = distributed.all_gather_rows(local, loader.positions(), loader.images)
    return _from_rows(table, time.perf_counter() - began)


def _to_rows(logits: Tensor, targets: Tensor, label_smoothing: float) -> Tensor:
    """Return a row per image, from logits (N, C): loss, target, top classes, probabilities."""
    top = topk_classes(logits)
    losses = F.cross_entropy(logits, targets, label_smoothing=label_smoothing, reduction="none")
    probabilities = logits.softmax(1).gather(1, top)
    return torch.cat([losses[:, None], targets[:, None], top, probabilities], 1)


def _from_rows(table: Tensor, seconds: float) -> tuple[Metrics, TopKPredictions]:
    images = len(table)
    losses, targets = table[:, 0], table[:, 1].long()
    top, probabilities = table[:, 2:].chunk(2, 1)
    top = top.long()
    is_true = top == targets[:, None]
    top1, top5 = int(is_true[:, 0].sum()), int(is_true.sum())
    metrics = Metrics(
        loss=math.fsum(losses.tolist()) / images,
        top1=100 * top1 / images,
        top5=100 * top5 / images,
        images=images,
        imgs_per_sec=images / seconds,
        balanced_top1=balanced_top1(targets.numpy(), top[:, 0].numpy()),
    )
    return metrics, TopKPredictions(top, probabilities.float())


def to_predictions(predictions: TopKPredictions, images: ImageFolder) -> Predictions:
    """Return predictions with the names of the images, which were evaluated in this order."""
    return Predictions(
        images=[images.relative_path(index) for index in range(len(images))],
        classes=images.classes,
        targets=images.targets,
        top=predictions.top.numpy(),
        probabilities=predictions.probabilities.double().numpy(),
    )


def topk_classes(logits: Tensor, k: int = TOP) -> Tensor:
    """Return the most likely classes, best first: logits (N, C) to (N, min(k, C)) int64.

    Of equal logits, the class with the lower index comes first, as in `argmax`.
    """
    # torch.topk returns equal values in any order, which differs between devices and sizes.
    return logits.sort(dim=1, descending=True, stable=True).indices[:, :k]


def topk_correct(logits: Tensor, targets: Tensor) -> Tensor:
    """Count top-1 and top-5 hits in the order of `topk_classes`, without sorting: (2,) int64.

    logits: (N, C); those of a class that are NaN are no hit.
    targets: (N,), or (N, C) class probabilities, of which the first of the largest counts.
    """
    if targets.ndim > 1:
        targets = targets.argmax(1)
    own = logits.gather(1, targets[:, None])
    classes = torch.arange(logits.shape[1], device=logits.device)
    is_before = ~(logits <= own) | ((logits == own) & (classes < targets[:, None]))
    ranks = is_before.sum(1)
    return torch.stack([(ranks == 0).sum(), (ranks < TOP).sum()])
