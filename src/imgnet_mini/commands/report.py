"""Draw and tabulate what a run has learnt, from its log and its predictions."""

import json
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from imgnet_mini.checkpoint.reader import file_sha256
from imgnet_mini.commands import evaluate
from imgnet_mini.config.flags import run_flags
from imgnet_mini.config.run_config import RunConfig
from imgnet_mini.data.classes import display_names, human_names
from imgnet_mini.data.images import read_image
from imgnet_mini.errors import DataError
from imgnet_mini.reporting.classification import (
    classify,
    write_classification_report,
)
from imgnet_mini.reporting.confusion import count_confusions, draw_confusion, write_confusion_csv
from imgnet_mini.reporting.curves import draw_curves
from imgnet_mini.reporting.diagram import draw_network
from imgnet_mini.reporting.page.report_page import build_report_page
from imgnet_mini.reporting.readme.json_file import read_json_if_there
from imgnet_mini.reporting.readme.run_view import read_run
from imgnet_mini.reporting.samples import draw_samples
from imgnet_mini.reporting.summary import summarise_model
from imgnet_mini.runs.cleanup import clean_reports
from imgnet_mini.runs.paths import RunPaths
from imgnet_mini.runs.predictions import Predictions, load_predictions
from imgnet_mini.runs.records import read_csv
from imgnet_mini.training.model import build_model
from imgnet_mini.utils.atomic_file import write_text
from imgnet_mini.utils.console import escape_line, print_lines


def run(overrides: RunConfig) -> None:
    """Write everything below `reports/<name>`, evaluating the best checkpoint first if need be.

    Raises:
        DataError: there is no run of this name, or no epoch of it is finished.
        CheckpointError: its checkpoint is missing or damaged.
    """
    config = evaluate.saved_settings(overrides)
    paths = config.run.paths()
    records = read_csv(paths.train_log) if paths.train_log.exists() else []
    if not records:
        raise DataError(
            f"{paths.train_log} holds no finished epoch; train first, with\n"
            f"  imgnet-mini train{run_flags(config.run)}"
        )
    clean_reports(paths)
    metrics = _current_metrics(paths)
    if metrics is None:
        evaluate.run(overrides)
        metrics = json.loads(paths.metrics.read_text("utf-8"))
    classes = tuple(metrics["classes"])
    names = display_names(classes)
    predictions = load_predictions(paths.predictions, classes)
    report_dir = paths.report_dir

    draw_curves(records, report_dir)
    write_classification_report(predictions, names, report_dir)
    classify(predictions, names).save(report_dir)
    confusions = count_confusions(predictions)
    write_confusion_csv(confusions, classes, report_dir)
    draw_confusion(confusions, names, report_dir)
    draw_samples(predictions, names, config.run.data_root / "val", report_dir, read_image)
    img_size = config.data.img_size
    network = build_model(
        config.model, classes=len(classes), img_size=img_size, seed=0, device=torch.device("cpu")
    )
    draw_network(network, config.model.arch, img_size, report_dir / "network.png")
    write_text(paths.model_summary, summarise_model(network, img_size))
    skipped = _skipped(paths)
    if skipped:
        write_text(
            paths.skipped_images, "".join(f"{escape_line(problem)}\n" for problem in skipped)
        )
        print_lines(
            f"{len(skipped)} broken image file(s) were left out; {paths.skipped_images} lists them"
        )
    _write_page(config, paths, predictions, confusions)
    print_lines(
        f"Report on {metrics['checkpoint']}: top-1 {metrics['top1']:.2f}%, "
        f"top-5 {metrics['top5']:.2f}% of {metrics['images']} images",
        f"Wrote {report_dir}; all of it on one page: {paths.page}",
        f"Next: imgnet-mini readme{run_flags(config.run)}",
    )


def _write_page(
    config: RunConfig, paths: RunPaths, predictions: Predictions, confusions: NDArray[np.int64]
) -> None:
    """Write `index.html`; images that are gone are named in it and counted here."""
    val_dir = config.run.data_root / "val"
    page = build_report_page(
        read_run(paths, paths.report_dir),
        predictions,
        confusions,
        human_names(predictions.classes),
        finder_dir=paths.finder_dir,
        val_dir=val_dir,
        read_image=read_image,
    )
    write_text(paths.page, page.html)
    if page.missing:
        print_lines(
            f"{page.missing} of the {page.shown} images shown cannot be read in {val_dir}; "
            "name their place with --data-root"
        )


def _skipped(paths: RunPaths) -> list[str]:
    """What was wrong with the files that the run went without."""
    return [str(problem) for problem in read_json_if_there(paths.environment).items("skipped")]


def _current_metrics(paths: RunPaths) -> dict[str, Any] | None:
    """What `evaluate` wrote last, unless the run's checkpoints have changed since."""
    try:
        metrics: dict[str, Any] = json.loads(paths.metrics.read_text("utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise DataError(f"{paths.metrics} cannot be read: {error}; remove it") from error
    digests = [file_sha256(path) for path in (paths.best, paths.checkpoint) if path.exists()]
    is_current = metrics.get("checkpoint_sha256") in digests and paths.predictions.exists()
    return metrics if is_current else None
