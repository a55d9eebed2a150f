from math import nan
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageColor

from helpers.drawings import overlaps, record_figures, texts_of
from helpers.finished_runs import log_run
from imgnet_mini.reporting.curves import draw_comparison, draw_curves
from imgnet_mini.reporting.run_view import read_run
from imgnet_mini.reporting.style import TRAIN, VALIDATION
from imgnet_mini.runs.records import EpochRecord, Phase

LONG = "a-run-with-a-rather-long-name-that-says-all-there-is-of-it-no"
PICTURES = ["accuracy_curve.png", "loss_curve.png", "lr_curve.png"]


def record(epoch: int, phase: Phase, top1: float = 10.0, loss: float = 2.0) -> EpochRecord:
    return EpochRecord(epoch, phase, loss, top1, 5 + top1, 0.1 / (1 + epoch), 300.0)


def course(epochs: int, phases: tuple[Phase, ...] = ("train", "val")) -> list[EpochRecord]:
    return [record(epoch, phase, top1=epoch % 90) for epoch in range(epochs) for phase in phases]


@pytest.mark.parametrize("epochs", [1, 2, 20, 300])
def test_three_curves_for_any_number_of_epochs(epochs: int, tmp_path: Path) -> None:
    draw_curves(course(epochs), tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == PICTURES
    for name in PICTURES:
        with Image.open(tmp_path / name) as image:
            assert image.width > 1000
            assert len(np.unique(np.asarray(image.convert("L")))) > 10  # not blank


@pytest.mark.parametrize("color", [TRAIN, VALIDATION])
def test_a_single_epoch_is_a_dot_in_the_color_of_each_phase(color: str, tmp_path: Path) -> None:
    draw_curves([record(0, "train", loss=2.0), record(0, "val", loss=3.0)], tmp_path)
    with Image.open(tmp_path / "loss_curve.png") as image:
        above_legend = np.asarray(image.convert("RGB"))[: int(0.85 * image.height)]
    assert (above_legend == ImageColor.getrgb(color)).all(2).sum() > 20


def test_run_without_validation_or_with_lost_numbers_is_drawn(tmp_path: Path) -> None:
    draw_curves([record(0, "train"), record(1, "train", top1=nan, loss=nan)], tmp_path)
    draw_curves([record(0, "train"), record(0, "val", top1=nan, loss=nan)], tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == PICTURES


@pytest.mark.parametrize("phases", [("train", "val"), ("train", "val", "ema")])
@pytest.mark.parametrize("epochs", [1, 2, 3, 20, 31, 90, 300, 12345])
def test_no_text_overlaps_another(epochs: int, phases: tuple[Phase, ...], tmp_path: Path) -> None:
    with record_figures() as figures:
        draw_curves(course(epochs, phases), tmp_path)
    assert len(figures) == 3
    for figure in figures:
        assert len(texts_of(figure)) >= 6
        assert overlaps(figure) == []


def test_averaged_weights_are_a_third_line_and_the_best_is_theirs(tmp_path: Path) -> None:
    records = [record(0, "train"), record(0, "val", 50.0), record(0, "ema", 20.0)]
    records += [record(1, "train"), record(1, "val", 10.0), record(1, "ema", 30.0)]
    with record_figures() as figures:
        draw_curves(records, tmp_path)
    loss, accuracy, lr = ([line.get_label() for line in figure.axes[0].lines] for figure in figures)
    assert loss == ["train", "validation", "EMA"]
    assert "best EMA top-1: 30.00 % (epoch 1)" in accuracy
    assert {"EMA top-1", "EMA top-5", "validation top-1"} <= set(accuracy)
    assert len(lr) == 1


@pytest.mark.parametrize(
    "names", [["a", "b"], [f"{LONG}-{n}" for n in range(3)], [*"abcdefghijkl"]]
)
def test_every_run_of_a_comparison_has_its_own_line_and_its_whole_name(
    names: list[str], tmp_path: Path
) -> None:
    runs = [
        read_run(log_run(tmp_path, name, epochs=number + 1), tmp_path)
        for number, name in enumerate(names)
    ]
    with record_figures() as figures:
        draw_comparison(runs, tmp_path / "here")
    pictures = sorted(path.name for path in (tmp_path / "here").iterdir())
    assert pictures == ["accuracy_curve.png", "loss_curve.png", "lr_curve.png"]
    for figure in figures:
        (axes,) = figure.axes
        looks = {(line.get_color(), line.get_linestyle()) for line in axes.get_lines()}
        assert len(looks) == len(names)
        texts = texts_of(figure)
        assert all(texts.count(name) == 1 for name in names)
        assert overlaps(figure) == []
