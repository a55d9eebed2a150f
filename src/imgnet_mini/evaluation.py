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
from imgnet_mini.precision import Precision
from imgnet_mini.predictions import Predictions
from imgnet_mini.progress import show_bar
from imgnet_mini.signals import StopRequest

TOP: Final = 5


@dataclass(frozen=True)
class Metrics:
    """Means over images; top-1 and top-5 in percent."""

    loss: float
    top1: float
    top5: float
    images: int
    imgs_per_sec: float


@dataclass(frozen=True)
class Answers:
    """The K likeliest classes of each of N images, best first: (N, K) int64, and (N, K) float32."""

    top: Tensor
    probabilities: Tensor


def evaluate(
    model: nn.Module,
    loader: Loader,
    precision: Precision,
    stop: StopRequest,
    *,
    label_smoothing: float,
    tta: bool = False,
    label: str = "evaluate",
) -> tuple[Metrics, Answers]:
    """Run the network over every image of a loader.

    tta: use the mean of the logits of the image and of its mirror image.

    Raises:
        StopRequestedError: a signal has come.
        DataError: an image cannot be decoded.
    """
    model.eval()
    losses, hits, tops, probabilities = [], [], [], []
    done = 0
    began = time.perf_counter()
    with torch.no_grad(), show_bar(label, loader.images) as bar:
        for images, targets in loader.epoch(0):
            with precision.autocast():
                logits = model(images)
                if tta:
                    logits = (logits + model(images.flip(3))) / 2
            logits = logits.float()
            top = top_classes(logits)
            losses.append(
                F.cross_entropy(logits, targets, label_smoothing=label_smoothing, reduction="sum")
            )
            hits.append(count_hits(top, targets))
            tops.append(top)
            probabilities.append(logits.softmax(1).gather(1, top))
            done += len(targets)
            bar.show(done)
            stop.check()
        top1, top5 = torch.stack(hits).sum(0).tolist()  # blocking
        loss_sum = math.fsum(torch.stack(losses).tolist())
    metrics = Metrics(
        loss=loss_sum / done,
        top1=100 * top1 / done,
        top5=100 * top5 / done,
        images=done,
        imgs_per_sec=done / (time.perf_counter() - began),
    )
    return metrics, Answers(torch.cat(tops).cpu(), torch.cat(probabilities).cpu())


def to_predictions(answers: Answers, images: ImageFolder) -> Predictions:
    """The same with the names of these images, which were evaluated in their order."""
    return Predictions(
        images=[images.relative(index) for index in range(len(images))],
        classes=images.classes,
        targets=images.targets,
        top=answers.top.numpy(),
        probabilities=answers.probabilities.double().numpy(),
    )


def top_classes(logits: Tensor) -> Tensor:
    """The likeliest classes, (N, C) to (N, min(5, C)), best first."""
    return logits.topk(min(TOP, logits.shape[1]), dim=1).indices


def count_hits(top: Tensor, targets: Tensor) -> Tensor:
    """How many targets come first, and how many are among the top classes: (2,) int64."""
    correct = top == targets.unsqueeze(1)
    return torch.stack([correct[:, 0].sum(), correct.sum()])
