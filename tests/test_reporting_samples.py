from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from helpers.drawings import noting_figures, overlaps, texts_of
from imgnet_mini.data.images import read_image
from imgnet_mini.reporting.samples import choose_samples, draw_samples
from imgnet_mini.runs.predictions import Predictions


def make(targets: list[int], right: list[bool], size: int) -> Predictions:
    true = np.array(targets, np.int64)
    top = np.where(right, true, (true + 1) % size)[:, None]
    classes = tuple(f"c{index}" for index in range(size))
    images = [f"c{target}/{place}.png" for place, target in enumerate(targets)]
    return Predictions(images, classes, true, top, np.full(top.shape, 0.75))


def write_images(predictions: Predictions, val_dir: Path, mode: str = "RGB") -> None:
    for image in predictions.images:
        (val_dir / image).parent.mkdir(parents=True, exist_ok=True)
        Image.new(mode, (40, 25)).save(val_dir / image)


def test_half_are_wrong_where_there_are_enough() -> None:
    targets = [index % 50 for index in range(200)]
    right = [index % 4 != 0 for index in range(200)]
    chosen = choose_samples(make(targets, right, 50), 24)
    assert len(set(chosen)) == 24
    assert sum(right[index] for index in chosen) == 12


@pytest.mark.parametrize(("wrong", "expected"), [(0, 24), (3, 21), (60, 12), (97, 3), (100, 0)])
def test_shortage_of_one_kind_is_filled_with_the_other(wrong: int, expected: int) -> None:
    right = [index >= wrong for index in range(100)]
    chosen = choose_samples(make([index % 10 for index in range(100)], right, 10), 24)
    assert len(set(chosen)) == 24
    assert sum(right[index] for index in chosen) == expected


def test_samples_come_from_different_classes_where_there_are_enough() -> None:
    targets = sorted([*range(1000)] * 4)
    right = [index % 4 < 2 for index in range(4000)]
    chosen = choose_samples(make(targets, right, 1000), 24)
    classes = [targets[index] for index in chosen]
    assert len(set(classes)) == 24
    assert classes == sorted(classes)
    assert max(classes) - min(classes) > 900


def test_choice_is_always_the_same() -> None:
    given = make([index % 7 for index in range(70)], [index % 3 == 0 for index in range(70)], 7)
    assert choose_samples(given, 24) == choose_samples(given, 24)


@pytest.mark.parametrize("images", [1, 5, 7, 40])
def test_grid_for_any_number_of_images(images: int, tmp_path: Path) -> None:
    given = make([index % 3 for index in range(images)], [True] * images, 3)
    write_images(given, tmp_path / "val")
    draw_samples(
        given, ["$x$ $\\frac{", "W" * 255, "金魚\n"], tmp_path / "val", tmp_path, read_image
    )
    with Image.open(tmp_path / "samples.png") as image:
        assert image.width <= 2000


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "LA", "1"])
def test_images_of_any_mode_are_drawn(mode: str, tmp_path: Path) -> None:
    given = make([0, 1], [True, False], 2)
    write_images(given, tmp_path / "val", mode)
    draw_samples(given, ["a", "b"], tmp_path / "val", tmp_path, read_image)
    assert (tmp_path / "samples.png").exists()


@pytest.mark.parametrize("content", [None, b"\x89PNG\r\n\x1a\nrubbish"])
def test_an_image_that_is_gone_or_broken_is_named_in_its_place(
    content: bytes | None, tmp_path: Path
) -> None:
    given = make([0, 1], [True, False], 2)
    write_images(given, tmp_path / "val")
    path = tmp_path / "val" / given.images[1]
    path.unlink() if content is None else path.write_bytes(content)
    with noting_figures() as figures:
        draw_samples(given, ["a", "b"], tmp_path / "val", tmp_path, read_image)
    texts = texts_of(figures[0])
    assert texts.count("1.png") == 1
    assert "0.png" not in texts


@pytest.mark.parametrize("size", [2, 10, 100, 1000])
def test_no_text_covers_another(size: int, tmp_path: Path) -> None:
    given = make([*range(size)], [place % 2 == 0 for place in range(size)], size)
    names = [f"n{number:08d} (a bird with a rather long name)" for number in range(size)]
    with noting_figures() as figures:
        draw_samples(given, names, tmp_path / "val", tmp_path, read_image)
    assert len(texts_of(figures[0])) >= 4 * min(size, 24)
    assert overlaps(figures[0]) == []
