from math import nan
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from helpers.drawings import noting_figures, overlaps, texts_of
from imgnet_mini.reporting.curves import best_epoch, draw_curves
from imgnet_mini.runs.records import EpochRecord, Phase

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


@pytest.mark.parametrize("colour", [(0x1F, 0x77, 0xB4), (0xD9, 0x5F, 0x02)])
def test_single_epoch_is_a_dot_in_the_colour_of_each_phase(
    colour: tuple[int, int, int], tmp_path: Path
) -> None:
    draw_curves([record(0, "train", loss=2.0), record(0, "val", loss=3.0)], tmp_path)
    with Image.open(tmp_path / "loss_curve.png") as image:
        above_legend = np.asarray(image.convert("RGB"))[: int(0.85 * image.height)]
    assert (above_legend == colour).all(2).sum() > 20


def test_run_without_validation_or_with_lost_numbers_is_drawn(tmp_path: Path) -> None:
    draw_curves([record(0, "train"), record(1, "train", top1=nan, loss=nan)], tmp_path)
    draw_curves([record(0, "train"), record(0, "val", top1=nan, loss=nan)], tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == PICTURES


def test_best_is_the_first_of_the_highest_validation_top1() -> None:
    val = [record(epoch, "val", top1) for epoch, top1 in enumerate([nan, 20.0, 30.0, 30.0, 25.0])]
    best = best_epoch(val)
    assert best is not None
    assert best.epoch == 2
    assert best_epoch([]) is None


@pytest.mark.parametrize("phases", [("train", "val"), ("train", "val", "ema")])
@pytest.mark.parametrize("epochs", [1, 2, 3, 20, 31, 90, 300, 12345])
def test_no_text_covers_another(epochs: int, phases: tuple[Phase, ...], tmp_path: Path) -> None:
    with noting_figures() as figures:
        draw_curves(course(epochs, phases), tmp_path)
    assert len(figures) == 3
    for figure in figures:
        assert len(texts_of(figure)) >= 6
        assert overlaps(figure) == []


def test_averaged_weights_are_a_third_line_and_the_best_is_theirs(tmp_path: Path) -> None:
    records = [record(0, "train"), record(0, "val", 50.0), record(0, "ema", 20.0)]
    records += [record(1, "train"), record(1, "val", 10.0), record(1, "ema", 30.0)]
    with noting_figures() as figures:
        draw_curves(records, tmp_path)
    loss, accuracy, lr = ([line.get_label() for line in figure.axes[0].lines] for figure in figures)
    assert loss == ["train", "validation", "EMA"]
    assert "best EMA top-1: 30.00 % (epoch 1)" in accuracy
    assert {"EMA top-1", "EMA top-5", "validation top-1"} <= set(accuracy)
    assert len(lr) == 1
