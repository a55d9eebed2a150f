"""Say what images show, with the network of a checkpoint and nothing else."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch

from imgnet_mini.config.fields import available_cpus
from imgnet_mini.config.run_config import RunConfig
from imgnet_mini.data.classes import display_names, human_names, imagenet_classes
from imgnet_mini.data.images import ImageError
from imgnet_mini.data.inference_images import find_inference_images, load_batches
from imgnet_mini.data.transforms import EvalCrop, Normalize, eval_resize
from imgnet_mini.errors import ConfigError, FailedImagesError, StoppedError
from imgnet_mini.inference.model import InferenceModel, load_inference_model
from imgnet_mini.training.device import choose_device
from imgnet_mini.training.torch_errors import translate_torch_errors
from imgnet_mini.utils.console import escape_line, print_lines, print_warning, write_stdout
from imgnet_mini.utils.csv_file import table_text
from imgnet_mini.utils.progress import progress_bar
from imgnet_mini.utils.signals import StopRequest, StopRequestedError

Form = Literal["text", "json", "csv"]

_TOP = 5


class Prediction(NamedTuple):
    """The likeliest classes of one image, best first, with their probabilities."""

    file: Path
    classes: list[int]
    probabilities: list[float]


def run(
    overrides: RunConfig,
    places: Sequence[Path],
    *,
    checkpoint: str = "best",
    top_k: int | None = None,
    form: Form = "text",
) -> None:
    """Print the likeliest classes of each image, then name the images that cannot be read.

    places: image files, and folders of them.
    top_k: how many classes; unset: five, or all where there are fewer.

    Raises:
        DataError: a place is not there, or is a folder without images.
        CheckpointError, ConfigError: see `load_inference_model`; `top_k` exceeds the classes.
        FailedImagesError: some images cannot be read; the others are printed.
    """
    files = find_inference_images(places)
    device = choose_device(overrides.runtime)
    trained = load_inference_model(overrides, checkpoint, device)
    count = _count(top_k, trained)
    predictions, broken = _predict(trained, files, count, overrides.data.batch_size, device)
    if form == "json":
        write_stdout(json.dumps(_document(trained, predictions, broken), indent=2) + "\n")
    elif form == "csv":
        write_stdout(_table(trained, predictions, count))
    else:
        _show(trained, predictions)
    if broken:
        print_warning(
            *(f"{escape_line(str(error.path))}: {escape_line(error.reason)}" for error in broken)
        )
        raise FailedImagesError(
            f"{len(broken)} of {len(files)} images could not be read; they are named above"
        )


def _count(top_k: int | None, trained: InferenceModel) -> int:
    classes = len(trained.classes)
    if top_k is not None and top_k > classes:
        raise ConfigError(
            f"--top-k {top_k}: the network of {trained.path} knows {classes} classes; use --top-k "
            f"{classes} or less"
        )
    return top_k or min(_TOP, classes)


def _predict(
    trained: InferenceModel,
    files: Sequence[Path],
    count: int,
    batch_size: int,
    device: torch.device,
) -> tuple[list[Prediction], list[ImageError]]:
    predictions: list[Prediction] = []
    broken: list[ImageError] = []
    normalize, load = Normalize(device), EvalCrop(trained.img_size).load
    batches = load_batches(files, load, batch_size=batch_size, threads=available_cpus())
    with (
        torch.no_grad(),
        translate_torch_errors(batch_size),
        StopRequest() as stop,
        progress_bar("predict", len(files)) as bar,
    ):
        try:
            for batch in batches:
                broken += batch.broken
                if batch.images:
                    logits = trained.model(normalize(torch.stack(batch.images).to(device))).float()
                    top = logits.topk(count).indices
                    probabilities = logits.softmax(1).gather(1, top)
                    answers = zip(batch.files, top.tolist(), probabilities.tolist(), strict=True)
                    predictions += (Prediction(*answer) for answer in answers)
                bar.show(len(predictions) + len(broken))
                stop.check()
        except StopRequestedError as error:
            done = len(predictions) + len(broken)
            raise StoppedError(
                f"stopped by {error} after {done} of {len(files)} images; nothing was printed",
                error.signal_number,
            ) from error
    return predictions, broken


def _show(trained: InferenceModel, predictions: Sequence[Prediction]) -> None:
    names = display_names(trained.classes)
    if not trained.names_known:
        meaning = "ImageNet's" if trained.classes == imagenet_classes() else "numbered from 0"
        print_warning(
            f"Note: {trained.path} names no classes; its {len(names)} outputs are taken to be "
            f"{meaning}"
        )
    for file, classes, probabilities in predictions:
        print_lines(escape_line(str(file)))
        for label, probability in zip(classes, probabilities, strict=True):
            print_lines(f"  {100 * probability:6.2f} %  {escape_line(names[label])}")


def _document(
    trained: InferenceModel, predictions: Sequence[Prediction], broken: Sequence[ImageError]
) -> dict[str, Any]:
    names = human_names(trained.classes)
    return {
        "checkpoint": str(trained.path),
        "checkpoint_sha256": trained.sha256,
        "epoch": trained.epoch,
        "arch": trained.arch,
        "img_size": trained.img_size,
        "resize": eval_resize(trained.img_size),
        "images": [
            {
                "image": str(file),
                "predictions": [
                    {
                        "class": trained.classes[label],
                        "name": names[label],
                        "probability": round(probability, 6),
                    }
                    for label, probability in zip(classes, probabilities, strict=True)
                ],
            }
            for file, classes, probabilities in predictions
        ],
        "failed": [{"image": str(error.path), "reason": error.reason} for error in broken],
    }


def _table(trained: InferenceModel, predictions: Sequence[Prediction], count: int) -> str:
    """Columns as those of `evaluate`'s predictions.csv, and the human names."""
    names = human_names(trained.classes)
    header = ["image"]
    for rank in range(1, count + 1):
        header += [f"pred{rank}", f"name{rank}", f"prob{rank}"]
    rows = []
    for file, classes, probabilities in predictions:
        row = [str(file)]
        for label, probability in zip(classes, probabilities, strict=True):
            row += [trained.classes[label], names[label], f"{probability:.6f}"]
        rows.append(row)
    return table_text(header, rows)
