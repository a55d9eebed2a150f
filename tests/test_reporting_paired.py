"""The paired test of two evaluations."""

import dataclasses
import math

import numpy as np
import pytest
from scipy.stats import binomtest, multinomial, norm

from imgnet_mini.reporting.paired import PairedDifference, compare_predictions
from imgnet_mini.runs.predictions import Predictions


def evaluation(correct: list[bool]) -> Predictions:
    """Images of class 0 of 2, of which these are correct."""
    top = np.where(correct, 0, 1)[:, None]
    images = [f"a/{number}.png" for number in range(len(correct))]
    targets = np.zeros(len(correct), np.int64)
    return Predictions(images, ("a", "b"), targets, top, np.ones(top.shape))


def reordered(given: Predictions, order: list[int]) -> Predictions:
    parts = {name: getattr(given, name)[order] for name in ("targets", "top", "probabilities")}
    return dataclasses.replace(given, images=[given.images[index] for index in order], **parts)


def test_the_difference_counts_images_that_only_one_has_right() -> None:
    first = evaluation([True, True, False, False, True])
    second = evaluation([True, False, True, True, True])
    assert compare_predictions(first, second) == PairedDifference(5, gained=2, lost=1)
    shuffled = reordered(second, [4, 2, 0, 1, 3])
    assert compare_predictions(first, shuffled) == PairedDifference(5, gained=2, lost=1)
    assert PairedDifference(5, gained=2, lost=1).points == pytest.approx(20)


def test_other_images_classes_or_labels_are_not_compared() -> None:
    first = evaluation([True, False, True])
    assert compare_predictions(first, evaluation([True, False])) is None
    assert compare_predictions(first, dataclasses.replace(first, classes=("a", "c"))) is None
    relabelled = dataclasses.replace(first, targets=np.array([0, 1, 0]))
    assert compare_predictions(first, relabelled) is None


def test_the_interval_is_that_of_the_adjusted_table() -> None:
    """Wald's interval of the mean of -1, 0 and 1, one for each image, after adding two images."""
    found = PairedDifference(200, gained=30, lost=14)
    values = np.repeat([1.0, 0.0, -1.0], [61, 2 * 156 + 2, 29])  # halves count as wholes here
    mean, deviation = values.mean(), values.std() / math.sqrt(202)
    quantile = norm.ppf(0.975)
    expected = 100 * (mean - quantile * deviation), 100 * (mean + quantile * deviation)
    assert found.interval == pytest.approx(expected, rel=1e-5)
    assert found.interval_text == f"{expected[0]:+.2f} to {expected[1]:+.2f}"


@pytest.mark.parametrize("images", [200, 4000])
@pytest.mark.parametrize("lost", [0, 5, 20, 60])
def test_noise_is_told_as_by_the_exact_test_of_mcnemar(images: int, lost: int) -> None:
    for gained in range(100):
        found = PairedDifference(images, gained=gained, lost=lost)
        both = gained + lost
        exact = binomtest(gained, both).pvalue if both else 1.0
        if not 0.01 < exact < 0.1:  # it is the more cautious one by a little
            assert found.is_noise == (exact > 0.05)
        assert found.is_noise or exact < 0.1


@pytest.mark.parametrize(
    ("gained", "lost"), [(0.1, 0.1), (0.02, 0.02), (0.3, 0.1), (0.25, 0.0), (0.6, 0.05)]
)
def test_the_interval_holds_the_true_difference_in_95_of_100_cases(
    gained: float, lost: float
) -> None:
    """Exact: over all tables of 80 images, weighted by their probability."""
    images, truth = 80, 100 * (gained - lost)
    covered = 0.0
    for plus in range(images + 1):
        minus = np.arange(images + 1 - plus)
        counts = np.stack([np.full_like(minus, plus), minus, images - plus - minus], 1)
        weights = multinomial.pmf(counts, images, [gained, lost, 1 - gained - lost])
        for lower, weight in zip(minus.tolist(), weights.tolist(), strict=True):
            low, high = PairedDifference(images, gained=plus, lost=lower).interval
            covered += weight * (low <= truth <= high)
    assert covered >= 0.94


def test_equal_answers_are_noise() -> None:
    found = PairedDifference(50, gained=0, lost=0)
    low, high = found.interval
    assert (found.points, found.is_noise) == (0, True)
    assert low == -high < 0
