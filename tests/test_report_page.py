"""The report page of runs that lack something."""

import math
import re
from pathlib import Path

import numpy as np
import pytest

from helpers.finished_runs import evaluation_result, log_run, predict
from helpers.pages import WebPage
from imgnet_mini.data.images import read_image
from imgnet_mini.reporting.confusion import count_confusions
from imgnet_mini.reporting.format import UNKNOWN
from imgnet_mini.reporting.page.pages import build_report_page
from imgnet_mini.reporting.run_view import read_run
from imgnet_mini.runs.predictions import Predictions


def build(
    predictions: Predictions, *, epochs: int = 2, lost: bool = False, ema: bool = False
) -> WebPage:
    paths = log_run(Path(), epochs=epochs, ema=ema)
    if lost:
        log = paths.train_log.read_text()
        paths.train_log.write_text(re.sub(r"(train|val),[^,]*,[^,]*", r"\1,nan,nan", log))
    evaluation_result(predictions, loss=math.nan).write(paths.metrics)
    page = build_report_page(
        read_run(paths, Path()),
        predictions,
        count_confusions(predictions),
        predictions.classes,
        val_dir=Path("val"),
        read_image=read_image,
    )
    assert page.shown == page.missing  # there are no image files
    Path("page.html").write_text(page.html, "utf-8")
    return WebPage(Path("page.html"))


def answer(first: list[int], targets: list[int], size: int) -> Predictions:
    top = np.array(first)[:, None]
    images = [f"{place}.png" for place in range(len(top))]
    classes = tuple(f"class {number}" for number in range(size))
    return Predictions(images, classes, np.array(targets), top, np.full(top.shape, 0.5))


@pytest.mark.parametrize("size", [2, 4, 5, 6, 30])
def test_any_number_of_classes_makes_a_page(size: int) -> None:
    page = build(predict([f"class {number}" for number in range(size)], 2))
    assert page.open == []
    assert f"{size} of {size}" in page.texts


def test_a_network_that_is_always_right_has_no_mistakes_to_show() -> None:
    page = build(answer([0, 1], [0, 1], 2))
    assert "None: all predictions are correct." in page.texts
    assert "Most confused pairs" not in page.texts


def test_a_network_that_is_always_wrong_has_no_right_answer_to_show() -> None:
    page = build(answer([1, 0], [0, 1], 2))
    assert "None: all predictions are wrong." in page.texts
    assert "Most confused pairs" in page.texts


def test_one_image_of_one_class_makes_a_page() -> None:
    page = build(answer([1], [0], 3), epochs=1)
    assert "No validation image of class 1" in page.texts


def test_unknown_values_are_a_dash_or_omitted() -> None:
    page = build(answer([0, 1], [0, 1], 2))
    assert UNKNOWN in page.texts  # the loss
    assert "torchvision" not in page.texts
    assert not {"None", "nan", "nan %"} & set(page.texts)


def test_values_that_are_not_finite_are_gaps() -> None:
    page = build(answer([0, 1], [0, 1], 2), lost=True)
    assert "nan" not in " ".join(page.values).lower()


def test_ema_weights_are_a_third_line_and_their_best_epoch_is_highlighted() -> None:
    page = build(answer([0, 1], [0, 1], 2), epochs=3, ema=True)
    html = Path("page.html").read_text("utf-8")
    assert {"EMA", "EMA top-1", "EMA top-5", "validation top-1"} <= {t.strip() for t in page.texts}
    assert "epoch 1 (best)" in html
    (row,) = re.findall(r'<tr class="best">.*</tr>', html)
    assert re.findall(r"<td[^>]*>([^<]*)", row)[:4] == ["1", "ema", "3.6667", "36.67 %"]
    assert len(re.findall(r'<circle class="marker ema"', html)) == 1
    assert "EMA weights" in html


def test_without_ema_weights_the_page_does_not_mention_them() -> None:
    build(answer([0, 1], [0, 1], 2))
    text = re.sub(r"<style>.*?</style>", "", Path("page.html").read_text("utf-8"), flags=re.DOTALL)
    assert "EMA" not in text
    assert "averaged" not in text
