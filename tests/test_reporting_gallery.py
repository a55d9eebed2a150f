import numpy as np
import pytest
from matplotlib.text import Text
from PIL import Image

from imgnet_mini.reporting.gallery import Entry, draw_gallery, thumbnail
from imgnet_mini.reporting.style import DPI, RIGHT, WRONG, to_png_quickly


def entry(number, *, true="cat", predicted="dog", is_right=False):
    image = thumbnail(Image.new("RGB", (50, 40), (number, 0, 0)))
    return Entry(image, true, predicted, 0.25, is_right)


def texts(figure):
    return [text for text in figure.findobj(Text) if text.get_text()]


@pytest.mark.parametrize("images", [1, 3, 4, 5, 8])
def test_every_image_is_drawn_with_two_lines_of_its_own(images):
    figure = draw_gallery([entry(20 * number) for number in range(1, images + 1)])
    labels = texts(figure)
    assert len(labels) == 2 * images
    assert len({label.get_position() for label in labels}) == 2 * images
    (picture,) = figure.axes[0].images
    reds = set(np.asarray(picture.get_array())[..., 0].ravel().tolist())
    assert reds == {255} | {20 * number for number in range(1, images + 1)}


def test_labels_say_what_is_true_and_what_was_said():
    figure = draw_gallery([entry(1), entry(2, true="$x$", predicted="$x$", is_right=True)])
    assert [(label.get_text(), label.get_color()) for label in texts(figure)][1::2] == [
        ("✗ 25 % dog", WRONG),
        ("✓ 25 % $x$", RIGHT),
    ]
    assert not any(label.get_parse_math() for label in texts(figure))


def test_no_label_runs_into_the_next_image_or_out_of_the_picture():
    name = "a very long name of a class, longer than its image is wide"
    figure = draw_gallery([entry(1, true=name, predicted=name) for _ in range(8)])
    to_png_quickly(figure)
    boxes = [label.get_window_extent() for label in texts(figure)]
    for number, box in enumerate(boxes):
        assert not any(box.overlaps(other) for other in boxes[:number])
        assert box.x1 <= figure.get_figwidth() * DPI
        assert box.y1 <= figure.get_figheight() * DPI


def test_the_same_entries_are_the_same_bytes():
    entries = [entry(number, true="金魚") for number in range(3)]
    assert to_png_quickly(draw_gallery(entries)) == to_png_quickly(draw_gallery(entries))
