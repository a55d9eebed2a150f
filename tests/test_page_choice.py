import numpy as np

from imgnet_mini.reporting.confusion import count_confusions
from imgnet_mini.reporting.page.choice import (
    confident_hits,
    confident_mistakes,
    count_ranks,
    hardest,
    worst_confusions,
)
from imgnet_mini.runs.predictions import Predictions


def make(targets, top, first):
    """Three classes; the likeliest has the probability `first`, the second one half the rest."""
    first = np.array(first)
    probabilities = np.stack([first, (1 - first) / 2], 1)
    images = [f"{place}.png" for place in range(len(targets))]
    return Predictions(images, ("a", "b", "c"), np.array(targets), np.array(top), probabilities)


MIXED = make(
    [0, 0, 0, 1, 1, 2],
    [[0, 1], [1, 2], [1, 0], [1, 0], [0, 2], [2, 0]],
    [0.5, 0.9, 0.7, 0.6, 0.8, 0.99],
)


def test_the_surest_mistakes_come_first():
    assert confident_mistakes(MIXED, 9) == [1, 4, 2]
    assert confident_mistakes(MIXED, 2) == [1, 4]


def test_hits_are_of_as_many_classes_as_there_are():
    given = make([0, 0, 0, 1], [[0, 1]] * 3 + [[1, 0]], [0.9, 0.95, 0.8, 0.4])
    assert confident_hits(given, 2) == [1, 3]
    assert confident_hits(given, 9) == [1, 3, 0, 2]


def test_hardest_is_the_least_that_the_true_class_can_have():
    # Image 1 lacks its class: at most 0.05; image 4 lacks it too: 0.1; image 2 gave it 0.15.
    assert hardest(MIXED, 9) == [1, 4, 2]
    assert hardest(MIXED, 9, leave_out=[4]) == [1, 2]


def test_ranks_count_every_image_once():
    assert count_ranks(MIXED) == [3, 1, 2]


def test_a_pair_shows_its_surest_mistake_beside_a_recognised_image_of_the_other_class():
    first, second = worst_confusions(MIXED, count_confusions(MIXED), 5)
    assert (first.true, first.predicted, first.count, first.images) == (0, 1, 2, 3)
    assert (first.mistaken, first.other) == (1, 3)
    assert (second.true, second.predicted, second.mistaken, second.other) == (1, 0, 4, 0)


def test_a_pair_whose_other_class_has_no_image_has_no_second_picture():
    given = make([0], [[1, 0]], [0.9])
    (pair,) = worst_confusions(given, count_confusions(given), 5)
    assert pair.other is None
