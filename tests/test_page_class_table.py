import numpy as np

from imgnet_mini.reporting.confusion import count_confusions
from imgnet_mini.reporting.page.class_table import tabulate_classes
from imgnet_mini.runs.predictions import Predictions


def tabulate(targets, answers):
    top = np.array(answers)[:, None]
    images = [f"{place}.png" for place in range(len(top))]
    predictions = Predictions(images, ("a", "b", "c\n"), np.array(targets), top, np.ones(top.shape))
    return tabulate_classes(predictions, count_confusions(predictions), ["A", "B", "C"])


def test_a_row_of_the_table_tells_of_one_class():
    first, second, third = tabulate([0, 0, 0, 1, 1, 2], [0, 1, 1, 1, 0, 2])
    assert (first.name, first.images, first.correct) == ("A", 3, 1)
    assert (first.recall, first.precision) == (1 / 3, 1 / 2)
    assert (first.taken_for, first.taken) == ("B", 2)
    assert (second.recall, second.precision) == (1 / 2, 1 / 3)
    assert (third.recall, third.precision, third.f1, third.taken_for) == (1, 1, 1, None)
    assert third.folder == r"c\n"


def test_what_was_never_counted_is_unknown_and_not_zero():
    first, second, third = tabulate([0], [1])
    assert (first.recall, first.precision) == (0, None)
    assert (second.recall, second.precision) == (None, 0)
    assert (third.recall, third.precision) == (None, None)
