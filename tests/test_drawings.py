from matplotlib.figure import Figure

from helpers.drawings import overlaps


def test_texts_that_cover_one_another_are_found_and_others_are_not():
    figure = Figure()
    figure.text(0.5, 0.5, "first")
    figure.text(0.51, 0.5, "second")
    figure.text(0.5, 0.9, "third")
    assert overlaps(figure) == [("first", "second")]
    hidden = Figure()
    hidden.text(0.5, 0.5, "first")
    hidden.text(0.5, 0.5, "second", visible=False)
    assert overlaps(hidden) == []
