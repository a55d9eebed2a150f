import os
from pathlib import Path

import pytest
import torch

from imgnet_mini.data.batches import load_batches
from imgnet_mini.data.folder import find_inference_images
from imgnet_mini.data.images import ImageError
from imgnet_mini.errors import DataError


def numbered(path):
    """A load that makes (1,) tensors of the names, and takes those of letters for broken."""
    if not path.name.isdigit():
        raise ImageError(path, "it is no number")
    return torch.tensor([int(path.name)])


def load(names, *, batch_size, threads=3):
    return list(
        load_batches(list(map(Path, names)), numbered, batch_size=batch_size, threads=threads)
    )


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("batch_size", [1, 4, 7, 100])
def test_every_file_comes_once_and_in_order(batch_size, threads):
    names = [f"{number}" if number % 5 else f"x{number}" for number in range(23)]
    batches = load(names, batch_size=batch_size, threads=threads)
    assert len(batches) == -(-23 // batch_size)
    assert [str(file) for batch in batches for file in batch.files] == [
        name for name in names if name.isdigit()
    ]
    for batch in batches:
        assert [int(image) for image in batch.images] == [int(file.name) for file in batch.files]
        assert len(batch.files) + len(batch.broken) <= batch_size
    assert [error.path.name for batch in batches for error in batch.broken] == names[::5]


def test_no_files_are_no_batches():
    assert load([], batch_size=4) == []


def test_an_error_that_is_not_the_images_ends_it():
    with pytest.raises(ZeroDivisionError):
        list(load_batches([Path("a")], lambda _: 1 / 0, batch_size=1, threads=1))


def test_little_more_than_a_batch_is_held_ahead():
    begun = []

    def noting(path):
        begun.append(path)
        return torch.zeros(1)

    batches = load_batches([Path("0")] * 100, noting, batch_size=4, threads=2)
    next(batches)
    batches.close()
    assert 4 <= len(begun) <= 10


def test_files_are_taken_as_they_are_named_and_folders_are_searched(tmp_path):
    for name in ("b/2.png", "b/a/1.JPEG", "a.webp", "c.txt", ".hidden/3.png", "b/.4.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    found = ["a.webp", "b/2.png", "b/a/1.JPEG"]
    assert find_inference_images([tmp_path]) == [tmp_path / name for name in found]
    places = [tmp_path / "c.txt", tmp_path / "b" / "a", tmp_path / "c.txt"]
    assert find_inference_images(places) == [places[0], tmp_path / "b/a/1.JPEG", places[2]]


@pytest.mark.parametrize(
    ("place", "words"),
    [
        ("nowhere", "nowhere: no such image or folder"),
        ("empty", "empty contains no images"),
        ("n" * 300, "File name too long"),
        ("pipe", "pipe: no such image or folder"),
    ],
)
def test_what_is_no_image_and_no_folder_is_named(tmp_path, place, words):
    (tmp_path / "empty").mkdir()
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe")
    with pytest.raises(DataError, match=words):
        find_inference_images([tmp_path / place])


def test_links_to_folders_are_not_followed(tmp_path):
    (tmp_path / "1.png").touch()
    (tmp_path / "loop").symlink_to(tmp_path)
    assert find_inference_images([tmp_path]) == [tmp_path / "1.png"]
