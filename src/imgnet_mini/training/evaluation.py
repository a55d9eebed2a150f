"""Loss, top-1 and top-5 of a network over a set of images, each counted once."""

import math
import time
from dataclasses import dataclass
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from imgnet_mini.data.folder import ImageFolder
from imgnet_mini.data.loaders import Loader
from imgnet_mini.distributed.context import SINGLE_PROCESS, DistributedContext
from imgnet_mini.distributed.rank_sync import RankSync
from imgnet_mini.runs.predictions import Predictions
from imgnet_mini.runs.records import Phase
from imgnet_mini.training.precision import Precision
from imgnet_mini.utils.progress import progress_bar
from imgnet_mini.utils.signals import StopRequest

TOP: Final = 5

_UNLOOKED_BATCHES: Final = 64


@dataclass(frozen=True)
class Metrics:
    """Means over images; top-1 and top-5 in percent."""

    loss: float
    top1: float
    top5: float
    images: int
    imgs_per_sec: float

    def to_text(self, lr: float) -> str:
        """What is shown beside a bar of training at a learning rate."""
        return (
            f"loss {self.loss:.3f}  top1 {self.top1:.2f}%  lr {lr:.2e}  "
            f"{self.imgs_per_sec:.0f} img/s"
        )


@dataclass(frozen=True)
class TopKPredictions:
    """The K likeliest classes of each of N images, best first: (N, K) int64, and (N, K) float32."""

    top: Tensor
    probabilities: Tensor


Validation = dict[Phase, tuple[Metrics, TopKPredictions]]
"""What was found of the network, and of its averaged weights where there are any."""


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
    """Run the network over every image of a loader, each on one rank; all ranks get all answers.

    An answer is the mean of the logits over the loader's `tta` views of an image.

    Raises:
        StopRequestedError: a signal has come.
        DataError: an image cannot be decoded.
    """
    model.eval()
    parts: list[Tensor] = []
    done = 0
    began = time.perf_counter()
    rank_sync = RankSync(distributed, stop, max_steps=_UNLOOKED_BATCHES)
    with torch.no_grad(), progress_bar(label, loader.images) as bar:
        for batch, (images, targets) in enumerate(loader.epoch(0), 1):
            with precision.autocast():
                logits = torch.stack([model(view) for view in loader.tta.views(images)]).mean(0)
            parts.append(_answer(logits.float(), targets, label_smoothing))
            done += len(targets) * distributed.world_size
            bar.show(min(done, loader.images))
            if rank_sync.should_sync() and batch < len(
                loader
            ):  # the last may be empty on some ranks
                rank_sync.sync()
            rank_sync.check()
        ours = torch.cat(parts).cpu() if parts else torch.empty(0, 0)  # blocking
    table = distributed.all_gather_rows(ours, loader.positions(), loader.images)
    return _count(table, time.perf_counter() - began)


def _answer(logits: Tensor, targets: Tensor, label_smoothing: float) -> Tensor:
    """A row for each of N images, from logits (N, C): loss, target, top classes, probabilities."""
    top = topk_classes(logits)
    losses = F.cross_entropy(logits, targets, label_smoothing=label_smoothing, reduction="none")
    probabilities = logits.softmax(1).gather(1, top)
    return torch.cat([losses[:, None], targets[:, None], top, probabilities], 1)


def _count(table: Tensor, seconds: float) -> tuple[Metrics, TopKPredictions]:
    """What rows of `_answer`, one for each image, add up to."""
    images = len(table)
    losses, targets, (top, probabilities) = (
        table[:, 0],
        table[:, 1].long(),
        table[:, 2:].chunk(2, 1),
    )
    top = top.long()
    top1, top5 = topk_correct(top, targets).tolist()
    metrics = Metrics(
        loss=math.fsum(losses.tolist()) / images,
        top1=100 * top1 / images,
        top5=100 * top5 / images,
        images=images,
        imgs_per_sec=images / seconds,
    )
    return metrics, TopKPredictions(top, probabilities.float())


def to_predictions(answers: TopKPredictions, images: ImageFolder) -> Predictions:
    """The same with the names of these images, which were evaluated in their order."""
    return Predictions(
        images=[images.relative_path(index) for index in range(len(images))],
        classes=images.classes,
        targets=images.targets,
        top=answers.top.numpy(),
        probabilities=answers.probabilities.double().numpy(),
    )


def topk_classes(logits: Tensor) -> Tensor:
    """The likeliest classes, (N, C) to (N, min(5, C)), best first."""
    return logits.topk(min(TOP, logits.shape[1]), dim=1).indices


def topk_correct(top: Tensor, targets: Tensor) -> Tensor:
    """How many targets come first, and how many are among the top classes: (2,) int64.

    targets: (N,), or (N, C) shares of classes, of which the largest counts.
    """
    if targets.ndim > 1:
        targets = targets.argmax(1)
    correct = top == targets.unsqueeze(1)
    return torch.stack([correct[:, 0].sum(), correct.sum()])
