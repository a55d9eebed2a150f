"""PNG files of validation images with their predictions."""

import numpy as np
import pytest
from matplotlib.text import Text
from PIL import Image, ImageOps

from helpers.drawings import overlaps, texts_of
from imgnet_mini.reporting.examples import Example, PredictedClass
from imgnet_mini.reporting.gallery import REPORT, TENSORBOARD, draw_gallery
from imgnet_mini.reporting.style import CORRECT, DPI, WRONG, save_png, to_png_fast

LAYOUTS = pytest.mark.parametrize("layout", [REPORT, TENSORBOARD], ids=["report", "tensorboard"])


def example(
    layout, number=1, *, true="cat", predicted="dog", is_correct=False, mode="RGB", readable=True
):
    side = (layout.side, layout.side)
    color = {"RGB": (number, 0, 0)}.get(mode, 0)
    thumbnail = ImageOps.fit(Image.new(mode, (50, 40), color).convert("RGB"), side)
    predictions = (PredictedClass(predicted, 0.25, is_correct),)
    return Example(f"cat/{number}.png", thumbnail if readable else None, true, predictions)


def texts(figure):
    return [text for text in figure.findobj(Text) if text.get_text()]


@LAYOUTS
@pytest.mark.parametrize("images", [1, 3, 4, 5, 8, 24])
def test_every_image_is_drawn_below_its_two_lines(images, layout):
    figure = draw_gallery([example(layout, 10 * n) for n in range(1, images + 1)], layout)
    labels = texts(figure)
    assert len(labels) == 2 * images
    assert len({label.get_position() for label in labels}) == 2 * images
    (picture,) = figure.images
    reds = set(np.asarray(picture.get_array())[..., 0].ravel().tolist())
    assert reds == {255} | {10 * number for number in range(1, images + 1)}


def test_labels_name_the_true_and_the_predicted_class():
    first = example(TENSORBOARD)
    second = example(TENSORBOARD, true="$x$", predicted="$x$", is_correct=True)
    figure = draw_gallery([first, second], TENSORBOARD)
    labels = [(label.get_text(), label.get_color()) for label in texts(figure)]
    assert [text for text, _ in labels[::2]] == ["cat", "$x$"]
    assert labels[1::2] == [("✗ 25 % dog", WRONG), ("✓ 25 % $x$", CORRECT)]
    assert not any(label.get_parse_math() for label in texts(figure))


@LAYOUTS
@pytest.mark.parametrize("readable", [True, False])
def test_no_text_overlaps_another_or_leaves_the_figure(layout, readable):
    name = "a very long name of a class, longer than its image is wide"
    shown = [example(layout, n, true=name, predicted=name, readable=readable) for n in range(24)]
    figure = draw_gallery(shown, layout)
    to_png_fast(figure)
    assert overlaps(figure) == []
    for label in texts(figure):
        box = label.get_window_extent()
        assert 0 <= box.x0 <= box.x1 <= figure.get_figwidth() * DPI
        assert 0 <= box.y0 <= box.y1 <= figure.get_figheight() * DPI


def test_an_unreadable_image_is_replaced_by_its_file_name():
    figure = draw_gallery([example(REPORT, 0), example(REPORT, 1, readable=False)], REPORT)
    assert texts_of(figure).count("1.png") == 1
    assert "0.png" not in texts_of(figure)


@pytest.mark.parametrize("name", ["$x$ $\\frac{", "W" * 255, "金魚\n"])
def test_any_name_can_be_drawn(name, tmp_path):
    shown = [example(REPORT, n, true=name, predicted=name) for n in range(7)]
    save_png(draw_gallery(shown, REPORT), tmp_path / "samples.png")
    with Image.open(tmp_path / "samples.png") as image:
        assert image.width <= 2000


def test_the_same_examples_give_the_same_bytes():
    shown = [example(TENSORBOARD, number, true="金魚") for number in range(3)]
    assert to_png_fast(draw_gallery(shown, TENSORBOARD)) == to_png_fast(
        draw_gallery(shown, TENSORBOARD)
    )
