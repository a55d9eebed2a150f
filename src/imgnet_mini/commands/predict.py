"""predict: print the most likely classes of images."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch

from imgnet_mini.config.fields import available_cpus
from imgnet_mini.config.run_config import RunConfig
from imgnet_mini.data.batches import load_batches
from imgnet_mini.data.classes import display_names, imagenet_classes
from imgnet_mini.data.folder import describe_left_out, find_inference_images
from imgnet_mini.data.images import ImageError, file_orientation
from imgnet_mini.data.pixels import UPRIGHT
from imgnet_mini.data.transforms import eval_resize
from imgnet_mini.data.walk import LeftOut
from imgnet_mini.errors import ConfigError, FailedImagesError
from imgnet_mini.inference.model import InferenceModel, Prediction, load_inference_model
from imgnet_mini.training.device import choose_device
from imgnet_mini.utils.atomic_file import check_writable
from imgnet_mini.utils.console import escape_line, print_lines, print_warning, write_stdout
from imgnet_mini.utils.csv_file import table_text
from imgnet_mini.utils.progress import progress_bar
from imgnet_mini.utils.signals import StopRequest

if TYPE_CHECKING:
    from imgnet_mini.inference.explain import HeatMapWriter

Form = Literal["text", "json", "csv"]

FilePrediction = tuple[Path, Prediction]


def run(
    overrides: RunConfig,
    places: Sequence[Path],
    *,
    checkpoint: str = "best",
    top_k: int | None = None,
    form: Form = "text",
    explain: Path | None = None,
) -> None:
    """Print the most likely classes of each image, then the images that could not be read.

    places: image files and folders.
    top_k: number of classes; by default 5, or all if there are fewer.
    explain: folder for a picture per image, with a heat map of its most likely class.

    Raises:
        DataError: a place does not exist, or is a folder without images.
        CheckpointError: see `load_inference_model`.
        ConfigError: see `load_inference_model`; `top_k` exceeds the number of classes; the network
            has no heat maps.
        FailedImagesError: some images could not be read; the others are printed.
    """
    left_out = LeftOut()
    files = find_inference_images(places, left_out)
    ignored = describe_left_out(left_out, hidden=False)
    if ignored:
        print_warning(f"Note: ignored files: {ignored}")
    model = load_inference_model(overrides, checkpoint, choose_device(overrides.runtime))
    count = model.check_top_k(top_k)
    _warn_of_turned(model, files)
    writer = None if explain is None else _open_writer(model, explain)
    predictions, failed = _predict(model, files, count, overrides.data.batch_size, writer)
    if form == "json":
        write_stdout(json.dumps(_to_document(model, predictions, failed), indent=2) + "\n")
    elif form == "csv":
        write_stdout(_to_table(predictions, count))
    else:
        _show(model, predictions)
    if writer is not None:
        print_warning(f"Wrote {len(predictions)} pictures to {explain}")
    if failed:
        print_warning(
            *(f"{escape_line(str(error.path))}: {escape_line(error.reason)}" for error in failed)
        )
        raise FailedImagesError(
            f"{len(failed)} of {len(files)} images could not be read; they are listed above"
        )


def _warn_of_turned(model: InferenceModel, files: Sequence[Path]) -> None:
    """Name images that are stored sideways, if the model takes images as they are stored."""
    if model.decoding.exif_orientation:
        return
    turned = [file for file in files if file_orientation(file) != UPRIGHT]
    if turned:
        print_warning(
            f"Note: {len(turned)} of {len(files)} images have an EXIF orientation and are used as "
            "stored, as the model's training did: --exif-orientation turns them upright. First: "
            f"{escape_line(str(turned[0]))}"
        )


def _open_writer(model: InferenceModel, folder: Path) -> "HeatMapWriter":
    from imgnet_mini.inference.explain import HeatMapWriter  # noqa: PLC0415 - matplotlib

    check_writable(folder)
    try:
        return HeatMapWriter(model, folder)
    except ConfigError as error:
        raise ConfigError(f"--explain: {error}") from error


def _predict(
    model: InferenceModel,
    files: Sequence[Path],
    top_k: int,
    batch_size: int,
    writer: "HeatMapWriter | None",
) -> tuple[list[FilePrediction], list[ImageError]]:
    predictions: list[FilePrediction] = []
    failed: list[ImageError] = []
    batches = load_batches(files, model.crop.load, batch_size=batch_size, threads=available_cpus())

    def message(signal_name: str) -> str:
        done = len(predictions) + len(failed)
        return f"stopped by {signal_name} after {done} of {len(files)} images; nothing was printed"

    with StopRequest(message) as stop, progress_bar("predict", len(files)) as bar:
        for batch in batches:
            failed += batch.broken
            if batch.images:
                images = torch.stack(batch.images)
                found = model.predict(images, top_k=top_k)
                predictions += zip(batch.files, found, strict=True)
                if writer is not None:
                    writer.write(batch.files, images, [one.indices[0] for one in found])
            bar.show(len(predictions) + len(failed))
            stop.check()
    return predictions, failed


def _show(model: InferenceModel, predictions: Sequence[FilePrediction]) -> None:
    names = display_names(model.classes)
    if not model.has_class_names:
        guess = "ImageNet's" if model.classes == imagenet_classes() else "numbered from 0"
        print_warning(
            f"Note: {model.path} has no class names; its {len(names)} outputs are assumed to be "
            f"{guess}"
        )
    for file, found in predictions:
        print_lines(escape_line(str(file)))
        for index, probability in zip(found.indices, found.probabilities, strict=True):
            print_lines(f"  {100 * probability:6.2f} %  {escape_line(names[index])}")


def _to_document(
    model: InferenceModel, predictions: Sequence[FilePrediction], failed: Sequence[ImageError]
) -> dict[str, Any]:
    return {
        "checkpoint": str(model.path),
        "checkpoint_sha256": model.sha256,
        "epoch": model.epoch,
        "arch": model.arch,
        "img_size": model.img_size,
        "fit": model.decoding.fit,
        "resize": eval_resize(model.img_size, model.decoding.fit),
        "images": [
            {"image": str(file), "predictions": [*_to_entries(found)]}
            for file, found in predictions
        ],
        "failed": [{"image": str(error.path), "reason": error.reason} for error in failed],
    }


def _to_entries(found: Prediction) -> Iterator[dict[str, Any]]:
    columns = (found.classes, found.names, found.probabilities)
    for folder, name, probability in zip(*columns, strict=True):
        yield {"class": folder, "name": name, "probability": round(probability, 6)}


def _to_table(predictions: Sequence[FilePrediction], top_k: int) -> str:
    """Return a CSV with the columns of evaluate's predictions.csv, and human names."""
    header = ["image"]
    for rank in range(1, top_k + 1):
        header += [f"pred{rank}", f"name{rank}", f"prob{rank}"]
    rows = []
    for file, found in predictions:
        row = [str(file)]
        columns = (found.classes, found.names, found.probabilities)
        for folder, name, probability in zip(*columns, strict=True):
            row += [folder, name, f"{probability:.6f}"]
        rows.append(row)
    return table_text(header, rows)
