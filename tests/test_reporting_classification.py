import csv
import json
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import ArrayLike
from sklearn.metrics import (
    accuracy_score,
    balanced_accuracy_score,
    classification_report,
    confusion_matrix,
    precision_recall_fscore_support,
)

from imgnet_mini.reporting.class_report import ClassReport, ClassScore, ConfusedPair
from imgnet_mini.reporting.classification import (
    ClassRow,
    format_classification_report,
    score_classes,
    summarize_classes,
    tabulate_classes,
    write_class_tables,
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


def score(given: Predictions, names: list[str]) -> tuple[ClassScore, ...]:
    return score_classes(given.classes, names, count_confusions(given))


def summarize(given: Predictions, names: list[str]) -> ClassReport:
    return summarize_classes(given, score(given, names), count_confusions(given))


def names_of(given: Predictions) -> list[str]:
    return [f"{folder} (name)" for folder in given.classes]


@pytest.mark.parametrize(("size", "images"), [(2, 9), (10, 200), (100, 150)])
def test_numbers_are_those_of_scikit_learn(size: int, images: int) -> None:
    given = random_predictions(size, images)
    predicted = given.top[:, 0]
    result = summarize(given, names_of(given))
    assert result.accuracy == accuracy_score(given.targets, predicted)
    for average, ours in (("macro", result.macro), ("weighted", result.weighted)):
        theirs = precision_recall_fscore_support(
            given.targets,
            predicted,
            labels=np.unique(given.targets),
            average=average,
            zero_division=0,
        )
        assert (ours.precision, ours.recall, ours.f1) == theirs[:3]
    expected = confusion_matrix(given.targets, predicted, labels=range(size))
    np.testing.assert_array_equal(count_confusions(given), expected)


def text_report(given: Predictions, names: list[str]) -> str:
    counts = count_confusions(given)
    return format_classification_report(
        tabulate_classes(given, counts, names), summarize(given, names)
    )


def test_the_text_is_that_of_scikit_learn_where_everything_is_defined() -> None:
    given = random_predictions(10, 200)
    theirs = classification_report(
        given.targets, given.top[:, 0], target_names=names_of(given), digits=4
    )
    balanced = 100 * balanced_accuracy_score(given.targets, given.top[:, 0])
    more = f"\nBalanced top-1, the mean recall: {balanced:.2f} %\n"
    assert text_report(given, names_of(given)) == theirs + more


def test_report_lists_every_class_and_the_accuracy() -> None:
    given = random_predictions(30, 60)
    text = text_report(given, names_of(given))
    assert all(text.count(name) == 1 for name in names_of(given))
    accuracy = next(line.split() for line in text.splitlines() if line.strip().startswith("acc"))
    assert float(accuracy[1]) == pytest.approx((given.top[:, 0] == given.targets).mean(), abs=1e-4)


def test_a_thousand_classes_with_one_image_each_raise_no_warning() -> None:
    given = predictions(np.arange(1000), np.arange(1000)[::-1], 1000)
    assert summarize(given, names_of(given)).accuracy == 0
    assert text_report(given, names_of(given)).count(" 0.0000 ") > 1000


def test_averages_are_over_the_classes_that_have_images() -> None:
    perfect = predictions([0, 0, 2], [0, 0, 2], 4)
    result = summarize(perfect, names_of(perfect))
    assert (result.macro.precision, result.macro.recall, result.macro.f1) == (1, 1, 1)
    assert (result.classes, result.with_images, result.never_predicted) == (4, 2, 0)
    text = text_report(perfect, names_of(perfect))
    assert "c0001 (name) - - - 0" in " ".join(text.split())
    assert text.endswith("Averages are over the 2 of 4 classes that have validation images.\n")


def test_a_class_that_is_never_predicted_is_told_from_one_without_images() -> None:
    given = predictions([0, 0, 1, 2], [0, 0, 0, 3], 4)
    result = summarize(given, names_of(given))
    assert (result.with_images, result.never_predicted) == (3, 2)
    assert result.macro.precision == pytest.approx((2 / 3 + 0 + 0) / 3)
    assert result.macro.recall == pytest.approx((1 + 0 + 0) / 3)
    text = " ".join(text_report(given, names_of(given)).split())
    assert "c0001 (name) - 0.0000 0.0000 1" in text
    assert "c0003 (name) 0.0000 - - 0" in text
    assert "2 classes are never predicted, and the precision" in text


def test_class_without_images_has_no_accuracy_and_is_neither_best_nor_worst(
    tmp_path: Path,
) -> None:
    given = predictions([0, 0, 2], [0, 1, 2], 3)
    result = summarize(given, ["a", "b", "c"])
    scores = score(given, ["a", "b", "c"])
    assert scores[1] == ClassScore(folder="c0001", name="b", images=0, correct=0, accuracy=None)
    assert [best.name for best in result.best] == ["c", "a"]
    assert [worst.name for worst in result.worst] == ["a", "c"]
    write_class_tables(scores, result, tmp_path)
    with (tmp_path / "class_accuracy.csv").open(encoding="utf-8", newline="") as file:
        assert [row["accuracy"] for row in csv.DictReader(file)] == ["0.5", "", "1.0"]


def test_best_and_worst_are_ten_each_and_ties_keep_the_class_order() -> None:
    targets = np.repeat(np.arange(30), 2)
    predicted = targets.copy()
    predicted[::2] = np.where(targets[::2] < 12, 29, targets[::2])  # half wrong for classes 0 to 11
    result = summarize(predictions(targets, predicted, 30), [str(index) for index in range(30)])
    assert [worst.name for worst in result.worst] == [str(index) for index in range(10)]
    assert [best.name for best in result.best] == [str(index) for index in range(12, 22)]


def test_confused_pairs_are_the_most_frequent_twenty_and_ties_keep_the_class_order() -> None:
    targets = [5, 5, 3, 3, 3, *range(25)]
    predicted = [6, 6, 4, 4, 4, *[(index + 1) % 25 for index in range(25)]]
    result = summarize(predictions(targets, predicted, 25), [str(index) for index in range(25)])
    assert len(result.confused) == 20
    assert result.confused[:3] == (
        ConfusedPair(true="3", predicted="4", count=4),
        ConfusedPair(true="5", predicted="6", count=3),
        ConfusedPair(true="0", predicted="1", count=1),
    )


def test_network_without_errors_has_no_confused_pairs() -> None:
    assert summarize(predictions([0, 1], [0, 1], 2), ["a", "b"]).confused == ()


def test_names_may_hold_anything(tmp_path: Path) -> None:
    names = ["macro avg", "a,|\n`<b>\x1b[31m", '金 "quoted"']
    given = predictions([0, 1, 2], [0, 0, 2], 3)
    assert "\x1b" not in text_report(given, names)
    write_class_tables(score(given, names), summarize(given, names), tmp_path)
    with (tmp_path / "class_accuracy.csv").open(encoding="utf-8", newline="") as file:
        assert [row["name"] for row in csv.DictReader(file)] == names
    with (tmp_path / "confused_pairs.csv").open(encoding="utf-8", newline="") as file:
        assert list(csv.DictReader(file)) == [
            {"true": names[1], "predicted": names[0], "count": "1"}
        ]


def test_the_report_file_reads_back(tmp_path: Path) -> None:
    given = random_predictions(10, 100)
    result = summarize(given, names_of(given))
    result.write(tmp_path / "report.json")
    saved = json.loads((tmp_path / "report.json").read_text("utf-8"))
    assert sorted(saved) == [
        *("accuracy", "best", "classes", "confused", "images", "macro", "never_predicted"),
        *("weighted", "with_images", "worst"),
    ]
    assert ClassReport.read(tmp_path / "report.json") == result


def test_the_overall_rows_are_those_of_scikit_learn() -> None:
    given = random_predictions(10, 100)
    theirs = classification_report(
        given.targets, given.top[:, 0], output_dict=True, zero_division=0
    )
    accuracy, *averages = summarize(given, names_of(given)).overall
    assert (accuracy.name, accuracy.f1, accuracy.images) == ("accuracy", theirs["accuracy"], 100)
    assert accuracy.precision is accuracy.recall is None
    for row in averages:
        expected = theirs[row.name]
        found = (row.precision, row.recall, row.f1, row.images)
        assert found == pytest.approx([*expected.values()])


def tabulate(targets: list[int], predicted: list[int]) -> list[ClassRow]:
    top = np.array(predicted)[:, None]
    images = [f"{place}.png" for place in range(len(top))]
    given = Predictions(images, ("a", "b", "c\n"), np.array(targets), top, np.ones(top.shape))
    return tabulate_classes(given, count_confusions(given), ["A", "B", "C"])


def test_a_row_of_the_pages_table_describes_one_class() -> None:
    first, second, third = tabulate([0, 0, 0, 1, 1, 2], [0, 1, 1, 1, 0, 2])
    assert (first.name, first.images, first.correct) == ("A", 3, 1)
    assert (first.recall, first.precision) == (1 / 3, 1 / 2)
    assert (first.confused_with, first.confusions) == ("B", 2)
    assert (second.recall, second.precision) == (1 / 2, 1 / 3)
    assert (third.recall, third.precision, third.f1, third.confused_with) == (1, 1, 1, None)
    assert third.folder == r"c\n"


def test_undefined_recall_and_precision_are_unknown_and_not_zero() -> None:
    first, second, third = tabulate([0], [1])
    assert (first.recall, first.precision) == (0, None)
    assert (second.recall, second.precision) == (None, 0)
    assert (third.recall, third.precision) == (None, None)
    assert (first.f1, second.f1, third.f1) == (0, None, None)
