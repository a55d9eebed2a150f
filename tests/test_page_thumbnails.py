import numpy as np
import pytest
from PIL import Image

from helpers.pages import open_data_uri
from imgnet_mini.data.images import read_image
from imgnet_mini.reporting.page.thumbnails import PIXELS, make_thumbnails


@pytest.mark.parametrize("size", [(10, 400), (400, 10), (1, 1), (500, 375)])
def test_a_thumbnail_is_a_small_square(tmp_path, size):
    Image.new("RGB", size, (200, 30, 30)).save(tmp_path / "a.png")
    thumbnail = open_data_uri(make_thumbnails(["a.png"], tmp_path, read_image)["a.png"], "jpeg")
    assert thumbnail.size == (PIXELS, PIXELS)
    assert np.abs(np.asarray(thumbnail).mean((0, 1)) - (200, 30, 30)).max() < 4


def test_a_thumbnail_carries_nothing_but_pixels(tmp_path):
    image = Image.new("RGB", (300, 300))
    exif = image.getexif()
    exif[0x010F] = "secret camera"
    image.save(tmp_path / "a.jpg", exif=exif, comment=b"secret comment", icc_profile=b"secret")
    thumbnail = open_data_uri(make_thumbnails(["a.jpg"], tmp_path, read_image)["a.jpg"], "jpeg")
    thumbnail.load()
    assert not set(thumbnail.info) & {"exif", "comment", "icc_profile"}


def test_files_that_are_gone_or_broken_have_no_thumbnail(tmp_path):
    Image.new("RGB", (9, 9)).save(tmp_path / "good.png")
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nrubbish")
    names = ["good.png", "gone.png", "broken.png"]
    assert set(make_thumbnails(names, tmp_path, read_image)) == {"good.png"}
