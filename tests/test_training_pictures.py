import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image

from imgnet_mini.data.folder import find_images
from imgnet_mini.training.evaluation import TopKPredictions
from imgnet_mini.training.pictures import TrainingPictures
from imgnet_mini.training.run import _is_shown


@pytest.fixture
def val(make_folder):
    return find_images(make_folder(Path("data"), train=1, val=4, classes=3) / "val")


def answers(*labels):
    top = torch.tensor(labels)[:, None]
    return TopKPredictions(top, torch.full(top.shape, 0.5))


def written(monkeypatch, draw):
    """The texts of the figure that is drawn."""
    savefig, found = Figure.savefig, []

    def noting(figure, *args, **kwargs):
        savefig(figure, *args, **kwargs)
        found.extend(text.get_text() for text in figure.findobj(Text) if text.get_text())

    with monkeypatch.context() as patch:
        patch.setattr(Figure, "savefig", noting)
        draw()
    return found


@pytest.mark.parametrize(
    ("epochs", "shown"),
    [(1, [0]), (3, [0, 1, 2]), (5, [0, 1, 3, 4]), (8, [0, 1, 3, 7]), (20, [0, 1, 3, 7, 15, 19])],
)
def test_pictures_grow_rare_and_come_at_the_end(epochs, shown):
    assert [epoch for epoch in range(epochs) if _is_shown(epoch, epochs)] == shown


def test_samples_are_always_the_same_and_say_what_was_answered(val, monkeypatch):
    pictures = TrainingPictures(val)
    first = written(monkeypatch, lambda: pictures.draw_samples(answers(*[0] * 12)))
    # 8 of 12 images, 4 of each class, from the first to the last
    assert first[::2] == [f"class_{n:02d}" for n in (0, 0, 0, 1, 1, 1, 2, 2)]
    assert first[1::2] == ["✓ 50 % class_00"] * 3 + ["✗ 50 % class_00"] * 5
    targets = val.targets.tolist()
    again = written(monkeypatch, lambda: TrainingPictures(val).draw_samples(answers(*targets)))
    assert again[::2] == first[::2]
    assert all(text.startswith("✓") for text in again[1::2])


def test_what_cannot_be_read_is_passed_over(val):
    pictures = TrainingPictures(val)
    for index in range(len(val)):
        val.path(index).write_bytes(b"<html>")
    assert pictures.draw_samples(answers(*[0] * 12)) is None


def test_the_confusion_matrix_is_a_picture_of_all_answers(val, monkeypatch):
    pictures, said = TrainingPictures(val), answers(*[0] * 12)
    labels = written(monkeypatch, lambda: pictures.draw_confusions(said))
    assert labels.count("4") == 3
    assert {"class_00", "class_01", "class_02"} <= set(labels)
    with Image.open(io.BytesIO(pictures.draw_confusions(said))) as image:
        assert min(image.size) > 100


def test_a_matrix_of_too_many_classes_is_left_out(val):
    many = replace(val, classes=tuple(f"{number}" for number in range(100_000)))
    assert TrainingPictures(many).draw_confusions(answers(*[0] * 12)) is None


def test_drawing_draws_no_random_numbers(val):
    torch.manual_seed(0)
    np.random.seed(0)
    before = torch.get_rng_state(), np.random.get_state()[1].tolist()
    pictures = TrainingPictures(val)
    pictures.draw_samples(answers(*[1] * 12))
    pictures.draw_confusions(answers(*[1] * 12))
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.random.get_state()[1].tolist() == before[1]
