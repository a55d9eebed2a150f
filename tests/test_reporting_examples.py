"""Which images are shown, and their thumbnails."""

import numpy as np
import pytest
from PIL import Image

from helpers.pages import open_data_uri
from imgnet_mini.data.images import read_image
from imgnet_mini.reporting.examples import (
    choose_confident_hits,
    choose_confident_mistakes,
    choose_confusion,
    choose_hardest,
    choose_mixed,
    choose_spread,
    count_ranks,
    make_example,
    read_thumbnails,
)
from imgnet_mini.runs.predictions import Predictions

SIDE = 176


def predictions_of(targets, top, first):
    """Three classes; the likeliest has the probability `first`, the second one half the rest."""
    first = np.array(first)
    probabilities = np.stack([first, (1 - first) / 2], 1)
    images = [f"{place}.png" for place in range(len(targets))]
    return Predictions(images, ("a", "b", "c"), np.array(targets), np.array(top), probabilities)


MIXED = predictions_of(
    [0, 0, 0, 1, 1, 2],
    [[0, 1], [1, 2], [1, 0], [1, 0], [0, 2], [2, 0]],
    [0.5, 0.9, 0.7, 0.6, 0.8, 0.99],
)


def test_the_most_confident_mistakes_come_first():
    assert choose_confident_mistakes(MIXED, 9) == [1, 4, 2]
    assert choose_confident_mistakes(MIXED, 2) == [1, 4]


def test_confident_hits_cover_as_many_classes_as_possible():
    given = predictions_of([0, 0, 0, 1], [[0, 1]] * 3 + [[1, 0]], [0.9, 0.95, 0.8, 0.4])
    assert choose_confident_hits(given, 2) == [1, 3]
    assert choose_confident_hits(given, 9) == [1, 3, 0, 2]


def test_the_hardest_images_have_the_lowest_possible_probability_of_the_true_class():
    # Image 1 lacks its class: at most 0.05; image 4 lacks it too: 0.1; image 2 gave it 0.15.
    assert choose_hardest(MIXED, 9) == [1, 4, 2]
    assert choose_hardest(MIXED, 9, exclude=[4]) == [1, 2]


def test_ranks_count_every_image_once():
    assert count_ranks(MIXED) == [3, 1, 2]


def test_a_confusion_shows_its_most_confident_mistake_and_a_correct_image_of_the_other_class():
    assert choose_confusion(MIXED, 0, 1) == (1, 3)
    assert choose_confusion(MIXED, 1, 0) == (4, 0)


def test_a_confusion_with_a_class_without_images_has_no_second_image():
    assert choose_confusion(predictions_of([0], [[1, 0]], [0.9]), 0, 1) == (0, None)


@pytest.mark.parametrize(
    ("count", "classes"), [(2, [0, 3]), (4, [0, 1, 2, 3]), (6, [0, 0, 1, 1, 2, 3])]
)
def test_spread_images_cover_as_many_classes_as_possible(count, classes):
    targets = np.repeat(np.arange(4), 5)
    chosen = choose_spread(np.arange(20), targets, count)
    assert len(set(chosen)) == count
    assert sorted(targets[chosen].tolist()) == classes


def predictions_with(targets: list[int], right: list[bool], size: int) -> Predictions:
    true = np.array(targets, np.int64)
    top = np.where(right, true, (true + 1) % size)[:, None]
    classes = tuple(f"c{index}" for index in range(size))
    images = [f"c{target}/{place}.png" for place, target in enumerate(targets)]
    return Predictions(images, classes, true, top, np.full(top.shape, 0.75))


def test_half_of_the_samples_are_wrong_predictions_if_there_are_enough() -> None:
    targets = [index % 50 for index in range(200)]
    right = [index % 4 != 0 for index in range(200)]
    chosen = choose_mixed(predictions_with(targets, right, 50), 24)
    assert len(set(chosen)) == 24
    assert sum(right[index] for index in chosen) == 12


@pytest.mark.parametrize(("wrong", "expected"), [(0, 24), (3, 21), (60, 12), (97, 3), (100, 0)])
def test_too_few_of_one_kind_are_filled_up_with_the_other(wrong: int, expected: int) -> None:
    right = [index >= wrong for index in range(100)]
    chosen = choose_mixed(predictions_with([index % 10 for index in range(100)], right, 10), 24)
    assert len(set(chosen)) == 24
    assert sum(right[index] for index in chosen) == expected


def test_samples_come_from_different_classes_if_there_are_enough() -> None:
    targets = sorted([*range(1000)] * 4)
    right = [index % 4 < 2 for index in range(4000)]
    chosen = choose_mixed(predictions_with(targets, right, 1000), 24)
    classes = [targets[index] for index in chosen]
    assert len(set(classes)) == 24
    assert classes == sorted(classes)
    assert max(classes) - min(classes) > 900


def test_the_choice_of_samples_is_deterministic() -> None:
    given = predictions_with(
        [index % 7 for index in range(70)], [index % 3 == 0 for index in range(70)], 7
    )
    assert choose_mixed(given, 24) == choose_mixed(given, 24)


def example_of(folder, file):
    thumbnails = read_thumbnails([file], folder, read_image, SIDE)
    given = Predictions([file], ("a",), np.zeros(1, int), np.zeros((1, 1), int), np.ones((1, 1)))
    return make_example(given, 0, ["A"], thumbnails)


@pytest.mark.parametrize("size", [(10, 400), (400, 10), (1, 1), (500, 375)])
def test_a_thumbnail_is_a_small_square(tmp_path, size):
    Image.new("RGB", size, (200, 30, 30)).save(tmp_path / "a.png")
    thumbnail = open_data_uri(example_of(tmp_path, "a.png").data_uri, "jpeg")
    assert thumbnail.size == (SIDE, SIDE)
    assert np.abs(np.asarray(thumbnail).mean((0, 1)) - (200, 30, 30)).max() < 4


def test_a_thumbnail_holds_pixels_and_no_metadata(tmp_path):
    image = Image.new("RGB", (300, 300))
    exif = image.getexif()
    exif[0x010F] = "secret camera"
    image.save(tmp_path / "a.jpg", exif=exif, comment=b"secret comment", icc_profile=b"secret")
    thumbnail = open_data_uri(example_of(tmp_path, "a.jpg").data_uri, "jpeg")
    thumbnail.load()
    assert not set(thumbnail.info) & {"exif", "comment", "icc_profile"}


def test_missing_and_broken_files_have_no_thumbnail(tmp_path):
    Image.new("RGB", (9, 9)).save(tmp_path / "good.png")
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nrubbish")
    names = ["good.png", "gone.png", "broken.png"]
    assert set(read_thumbnails(names, tmp_path, read_image, SIDE)) == {"good.png"}


def test_an_example_holds_the_likeliest_classes_best_first(tmp_path):
    example = make_example(MIXED, 1, ["A", "B", "C"], {})
    assert example.thumbnail is example.data_uri is None
    assert (example.file, example.true) == ("1.png", "A")
    assert [(p.name, p.is_true) for p in example.predictions] == [("B", False), ("C", False)]
    assert example.top1.probability == 0.9
    assert not example.has_true_class
    assert make_example(MIXED, 2, ["A", "B", "C"], {}).has_true_class
