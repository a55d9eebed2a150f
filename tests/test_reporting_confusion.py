import csv
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from helpers.drawings import overlaps, record_figures, texts_of
from helpers.pages import open_data_uri
from imgnet_mini.reporting.confusion import confusion_image, draw_confusion, write_confusion_csv


def pixels(counts: NDArray[np.int64], report_dir: Path) -> NDArray[np.uint8]:
    draw_confusion(counts, [f"class {index}" for index in range(len(counts))], report_dir)
    with Image.open(report_dir / "confusion_matrix.png") as image:
        return np.asarray(image.convert("RGB"))


def test_table_reads_back_with_folders_on_both_sides(tmp_path: Path) -> None:
    counts = np.random.default_rng(0).integers(0, 9, (3, 3))
    classes = ["n01", "with, comma", "金魚"]
    write_confusion_csv(counts, classes, tmp_path)
    with (tmp_path / "confusion_matrix.csv").open(encoding="utf-8", newline="") as file:
        header, *rows = csv.reader(file)
    assert header[1:] == classes
    assert [row[0] for row in rows] == classes
    np.testing.assert_array_equal(np.array([row[1:] for row in rows], int), counts)


@pytest.mark.parametrize("size", [2, 20, 21, 60, 61, 327, 328, 1000])
def test_single_error_is_visible_for_any_number_of_classes(size: int, tmp_path: Path) -> None:
    counts = np.diag(np.full(size, 50))
    without = pixels(counts, tmp_path)
    counts[size - 1, 0] = 1
    with_one = pixels(counts, tmp_path)
    changed = with_one[(without != with_one).any(2)]
    assert len(changed) >= 9
    assert changed.min() < 150  # far from white


def test_the_color_is_the_share_of_the_row_not_the_count(tmp_path: Path) -> None:
    small, large = np.array([[1, 1], [0, 2]]), np.array([[50, 50], [0, 2]])
    first, second = pixels(small, tmp_path), pixels(large, tmp_path)
    assert first.shape == second.shape
    differing = (first != second).any(2)
    assert 0 < differing.mean() < 0.01  # the numbers alone


def test_class_without_images_is_left_white(tmp_path: Path) -> None:
    full, empty = np.diag([3, 1]), np.diag([3, 0])
    assert (pixels(empty, tmp_path) == 255).sum() > 1.1 * (pixels(full, tmp_path) == 255).sum()


def test_names_may_hold_anything(tmp_path: Path) -> None:
    names = ["$x$ $\\frac{", "<b>|`", "W" * 255, "金魚", "a\nb\x1b[31m", ""]
    draw_confusion(np.eye(6, dtype=np.int64), names, tmp_path)
    with Image.open(tmp_path / "confusion_matrix.png") as image:
        assert max(image.size) < 2000


@pytest.mark.parametrize("size", [2, 10, 20, 60, 100, 1000])
@pytest.mark.parametrize("name", ["cat", "n01440764 (a fish with a rather long name)"])
def test_no_text_overlaps_another(size: int, name: str, tmp_path: Path) -> None:
    counts = np.random.default_rng(0).poisson(4 / size, (size, size))
    np.fill_diagonal(counts, 99999)
    with record_figures() as figures:
        draw_confusion(counts, [name] * size, tmp_path)
    assert len(texts_of(figures[0])) >= (size * (size + 2) if size <= 20 else 20)
    assert overlaps(figures[0]) == []


@pytest.mark.parametrize("size", [2, 250, 251, 1000])
def test_a_single_error_is_visible_in_the_pages_image_of_any_size(size: int) -> None:
    counts = np.diag(np.full(size, 50))
    without = np.asarray(open_data_uri(confusion_image(counts), "png"))
    counts[size - 1, 0] = 1
    pixels = np.asarray(open_data_uri(confusion_image(counts), "png"))
    assert pixels.shape[0] == pixels.shape[1] <= 250
    assert without[-1, 0, 3] == 0
    assert pixels[-1, 0, 3] > 60
    assert (pixels[..., 3].diagonal() == 255).sum() >= len(pixels) - 1
