import csv
import json
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import ArrayLike
from sklearn.metrics import accuracy_score, confusion_matrix, precision_recall_fscore_support

from imgnet_mini.reporting.classification import (
    ClassScore,
    ConfusedPair,
    classify,
    write_classification_report,
)
from imgnet_mini.reporting.confusion import count_confusions
from imgnet_mini.runs.predictions import Predictions


def predictions(targets: ArrayLike, predicted: ArrayLike, size: int) -> Predictions:
    true = np.asarray(targets, np.int64)
    top = np.asarray(predicted, np.int64)[:, None]
    classes = tuple(f"c{index:04d}" for index in range(size))
    images = [f"{classes[target]}/{place}.jpg" for place, target in enumerate(true)]
    return Predictions(images, classes, true, top, np.ones(top.shape))


def random_predictions(size: int, images: int) -> Predictions:
    generator = np.random.default_rng(size)
    targets = generator.integers(0, size, images)
    guesses = generator.integers(0, size, images)
    return predictions(targets, np.where(generator.random(images) < 0.5, targets, guesses), size)


def names_of(given: Predictions) -> list[str]:
    return [f"{folder} (name)" for folder in given.classes]


@pytest.mark.parametrize(("size", "images"), [(2, 9), (10, 200), (100, 150)])
def test_numbers_are_those_of_scikit_learn(size: int, images: int) -> None:
    given = random_predictions(size, images)
    predicted = given.top[:, 0]
    result = classify(given, names_of(given))
    assert result.accuracy == accuracy_score(given.targets, predicted)
    for average, ours in (("macro", result.macro), ("weighted", result.weighted)):
        theirs = precision_recall_fscore_support(
            given.targets, predicted, labels=range(size), average=average, zero_division=0
        )
        assert (ours.precision, ours.recall, ours.f1) == theirs[:3]
    expected = confusion_matrix(given.targets, predicted, labels=range(size))
    np.testing.assert_array_equal(count_confusions(given), expected)


def test_report_lists_every_class_and_the_accuracy(tmp_path: Path) -> None:
    given = random_predictions(30, 60)
    write_classification_report(given, names_of(given), tmp_path)
    text = (tmp_path / "classification_report.txt").read_text("utf-8")
    assert all(text.count(name) == 1 for name in names_of(given))
    accuracy = next(line.split() for line in text.splitlines() if line.strip().startswith("acc"))
    assert float(accuracy[1]) == pytest.approx((given.top[:, 0] == given.targets).mean(), abs=1e-4)


def test_a_thousand_classes_with_one_image_each_raise_no_warning(tmp_path: Path) -> None:
    given = predictions(np.arange(1000), np.arange(1000)[::-1], 1000)
    assert classify(given, names_of(given)).accuracy == 0
    write_classification_report(given, names_of(given), tmp_path)


def test_class_without_images_has_no_accuracy_and_is_neither_best_nor_worst(
    tmp_path: Path,
) -> None:
    given = predictions([0, 0, 2], [0, 1, 2], 3)
    result = classify(given, ["a", "b", "c"])
    assert result.classes[1] == ClassScore("c0001", "b", images=0, correct=0, accuracy=None)
    assert [score.name for score in result.best] == ["c", "a"]
    assert [score.name for score in result.worst] == ["a", "c"]
    result.save(tmp_path)
    with (tmp_path / "class_accuracy.csv").open(encoding="utf-8", newline="") as file:
        assert [row["accuracy"] for row in csv.DictReader(file)] == ["0.5", "", "1.0"]


def test_best_and_worst_are_ten_each_and_ties_keep_the_class_order() -> None:
    targets = np.repeat(np.arange(30), 2)
    predicted = targets.copy()
    predicted[::2] = np.where(targets[::2] < 12, 29, targets[::2])  # half wrong for classes 0 to 11
    result = classify(predictions(targets, predicted, 30), [str(index) for index in range(30)])
    assert [score.name for score in result.worst] == [str(index) for index in range(10)]
    assert [score.name for score in result.best] == [str(index) for index in range(12, 22)]


def test_confused_pairs_are_the_most_frequent_twenty_and_ties_keep_the_class_order() -> None:
    targets = [5, 5, 3, 3, 3, *range(25)]
    predicted = [6, 6, 4, 4, 4, *[(index + 1) % 25 for index in range(25)]]
    result = classify(predictions(targets, predicted, 25), [str(index) for index in range(25)])
    assert len(result.confused) == 20
    assert result.confused[:3] == (
        ConfusedPair("3", "4", 4),
        ConfusedPair("5", "6", 3),
        ConfusedPair("0", "1", 1),
    )


def test_network_without_errors_has_no_confused_pairs() -> None:
    assert classify(predictions([0, 1], [0, 1], 2), ["a", "b"]).confused == ()


def test_names_may_hold_anything(tmp_path: Path) -> None:
    names = ["macro avg", "a,|\n`<b>\x1b[31m", '金 "quoted"']
    given = predictions([0, 1, 2], [0, 0, 2], 3)
    write_classification_report(given, names, tmp_path)
    result = classify(given, names)
    result.save(tmp_path)
    assert "\x1b" not in (tmp_path / "classification_report.txt").read_text("utf-8")
    with (tmp_path / "class_accuracy.csv").open(encoding="utf-8", newline="") as file:
        assert [row["name"] for row in csv.DictReader(file)] == names
    with (tmp_path / "confused_pairs.csv").open(encoding="utf-8", newline="") as file:
        assert list(csv.DictReader(file)) == [
            {"true": names[1], "predicted": names[0], "count": "1"}
        ]


def test_saved_report_holds_the_same_numbers(tmp_path: Path) -> None:
    given = random_predictions(10, 100)
    result = classify(given, names_of(given))
    result.save(tmp_path)
    saved = json.loads((tmp_path / "report.json").read_text("utf-8"))
    assert sorted(saved) == [
        "accuracy",
        "best",
        "confused",
        "images",
        "macro",
        "weighted",
        "worst",
    ]
    assert saved["accuracy"] == result.accuracy
    assert saved["macro"]["f1"] == result.macro.f1
    assert saved["best"][0]["folder"] == result.best[0].folder
    assert saved["confused"][0]["count"] == result.confused[0].count
