"""Write the report of a run: plots, tables and a page."""

from collections.abc import Sequence
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from imgnet_mini.checkpoint.reader import file_sha256
from imgnet_mini.commands import evaluate
from imgnet_mini.config.run_config import RunConfig, run_flags
from imgnet_mini.data.classes import display_names, human_names
from imgnet_mini.data.images import read_image
from imgnet_mini.data.layout import val_folder
from imgnet_mini.errors import CheckpointError, ConfigError, DataError
from imgnet_mini.inference.explain import draw_heat_maps
from imgnet_mini.inference.model import load_inference_model
from imgnet_mini.inference.settings import saved_settings
from imgnet_mini.reporting.class_report import ClassReport
from imgnet_mini.reporting.classification import (
    format_classification_report,
    score_classes,
    summarize_classes,
    tabulate_classes,
    write_class_tables,
)
from imgnet_mini.reporting.confusion import count_confusions, draw_confusion, write_confusion_csv
from imgnet_mini.reporting.curves import draw_curves
from imgnet_mini.reporting.diagram import draw_network
from imgnet_mini.reporting.examples import (
    ReadImage,
    choose_mixed,
    make_example,
    read_thumbnails,
)
from imgnet_mini.reporting.gallery import REPORT, draw_gallery
from imgnet_mini.reporting.page.pages import build_report_page
from imgnet_mini.reporting.run_view import read_run
from imgnet_mini.reporting.style import save_png
from imgnet_mini.reporting.summary import summarize_model
from imgnet_mini.runs.paths import RunPaths, describe_runs
from imgnet_mini.runs.predictions import Predictions, load_predictions
from imgnet_mini.runs.records import read_csv
from imgnet_mini.runs.results import EvaluationResult, RunEnvironment
from imgnet_mini.training.device import choose_device
from imgnet_mini.training.model import build_model
from imgnet_mini.utils.atomic_file import write_text
from imgnet_mini.utils.console import escape_line, print_lines

_SAMPLES = 24
_BATCH = 8
"""Images whose heat maps are made at once."""


def run(overrides: RunConfig) -> None:
    """Write everything in `reports/<name>`; evaluate the best checkpoint first if needed.

    Raises:
        DataError: the run does not exist, has no finished epoch, or one of its files is damaged.
        CheckpointError: its checkpoint is missing or damaged.
    """
    config = saved_settings(overrides)
    paths = config.run.paths()
    records = read_csv(paths.train_log) if paths.train_log.exists() else []
    if not records:
        if paths.has_checkpoint():
            raise DataError(
                f"{paths.train_log} holds no finished epoch; continue with\n"
                f"  imgnet-mini resume{run_flags(config.run)}"
            )
        raise DataError(
            f"there is no run {paths.name}: {paths.train_log} does not exist. "
            f"{describe_runs(paths.output_dir)}. Give another --name or --output-dir, or train it "
            "first"
        )
    paths.clean_reports()
    result = _read_current_result(paths)
    if result is None:
        evaluate.run(overrides)
        result = EvaluationResult.read(paths.metrics)
    predictions = load_predictions(paths.predictions, result.classes)
    counts = count_confusions(predictions)

    draw_curves(records, paths.report_dir)
    report = _write_class_results(paths, predictions, counts)
    _draw_samples(config, paths, predictions)
    _describe_network(config, paths, classes=len(result.classes))
    _list_skipped_images(paths)
    _write_page(config, paths, result, predictions, counts)
    print_lines(
        f"Report on {result.checkpoint}: top-1 {result.top1:.2f}%, balanced top-1 "
        f"{report.balanced_top1:.2f}%, top-5 {result.top5:.2f}% of {result.images} images",
        f"Wrote {paths.report_dir}; everything on one page: {paths.page}",
        f"Next: imgnet-mini readme{run_flags(config.run)}",
    )


def _read_current_result(paths: RunPaths) -> EvaluationResult | None:
    """Return the last result of `evaluate`; None if the run's checkpoints have changed since."""
    result = EvaluationResult.read_if_exists(paths.metrics)
    if result is None or not paths.predictions.exists():
        return None
    digests = [file_sha256(path) for path in (paths.best, paths.checkpoint) if path.exists()]
    return result if result.checkpoint_sha256 in digests else None


def _write_class_results(
    paths: RunPaths, predictions: Predictions, counts: NDArray[np.int64]
) -> ClassReport:
    folder, names = paths.report_dir, display_names(predictions.classes)
    scores = score_classes(predictions.classes, names, counts)
    report = summarize_classes(predictions, scores, counts)
    rows = tabulate_classes(predictions, counts, names)
    write_text(folder / "classification_report.txt", format_classification_report(rows, report))
    write_class_tables(scores, report, folder)
    report.write(paths.class_report)
    write_confusion_csv(counts, predictions.classes, folder)
    draw_confusion(counts, names, folder)
    return report


def _draw_samples(config: RunConfig, paths: RunPaths, predictions: Predictions) -> None:
    indices = choose_mixed(predictions, _SAMPLES)
    files = [predictions.images[index] for index in indices]
    val = val_folder(config.run.data_root, config.data.hold_out)
    thumbnails = read_thumbnails(files, val, _reader(config), REPORT.side)
    names = display_names(predictions.classes)
    examples = [make_example(predictions, index, names, thumbnails) for index in indices]
    save_png(draw_gallery(examples, REPORT), paths.report_dir / "samples.png", fast=True)


def _reader(config: RunConfig) -> ReadImage:
    """Return the function that decodes images as for the network."""
    return partial(read_image, decoding=config.data.decoding)


def _describe_network(config: RunConfig, paths: RunPaths, *, classes: int) -> None:
    img_size = config.data.img_size
    network = build_model(
        config.model, classes=classes, img_size=img_size, seed=0, device=torch.device("cpu")
    )
    draw_network(network, config.model.arch, img_size, paths.report_dir / "network.png")
    write_text(paths.model_summary, summarize_model(network, img_size))


def _list_skipped_images(paths: RunPaths) -> None:
    environment = RunEnvironment.read_if_exists(paths.environment)
    skipped = environment.skipped if environment else ()
    if skipped:
        lines = [f"{escape_line(problem)}\n" for problem in skipped]
        write_text(paths.skipped_images, "".join(lines))
        print_lines(f"{len(skipped)} broken image file(s) were skipped: {paths.skipped_images}")


def _write_page(
    config: RunConfig,
    paths: RunPaths,
    result: EvaluationResult,
    predictions: Predictions,
    counts: NDArray[np.int64],
) -> None:
    val_dir = val_folder(config.run.data_root, config.data.hold_out)
    page = build_report_page(
        read_run(paths, paths.report_dir),
        predictions,
        counts,
        human_names(predictions.classes),
        val_dir=val_dir,
        read_image=_reader(config),
        draw_heat_maps=partial(_draw_heat_maps, config, paths, result),
    )
    write_text(paths.page, page.html)
    if page.missing:
        print_lines(
            f"{page.missing} of the {page.shown} images shown cannot be read in {val_dir}; "
            "give their folder with --data-root"
        )


def _draw_heat_maps(
    config: RunConfig,
    paths: RunPaths,
    result: EvaluationResult,
    files: Sequence[str],
    classes: Sequence[int],
) -> dict[str, Image.Image]:
    """Return images with a heat map of a class by file name; none if the network has no such maps.

    Where ten crops were evaluated, the maps are those of the center crop.
    """
    is_best = paths.best.exists() and file_sha256(paths.best) == result.checkpoint_sha256
    config = config.override({"data": {"eval_size": result.img_size}})
    val_dir = val_folder(config.run.data_root, config.data.hold_out)
    is_flipped = result.views == "hflip"
    drawn: dict[str, Image.Image] = {}
    try:
        device = choose_device(config.runtime)
        model = load_inference_model(config, "best" if is_best else "last", device)
        for start in range(0, len(files), _BATCH):
            part = slice(start, start + _BATCH)
            found = [val_dir / file for file in files[part]]
            pixels = torch.stack([model.crop.load(path) for path in found])
            pictures = draw_heat_maps(model, found, pixels, classes[part], hflip=is_flipped)
            drawn |= zip(files[part], pictures, strict=True)
    except (CheckpointError, ConfigError, DataError) as error:
        print_lines(f"Note: no heat maps of the mistakes: {error}")
    return drawn
