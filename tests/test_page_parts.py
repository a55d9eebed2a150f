import base64
import io
import re

import numpy as np
import pytest
from PIL import Image

from imgnet_mini.data.images import read_image
from imgnet_mini.reporting.page.matrix import matrix_picture
from imgnet_mini.reporting.page.render import percent, render_page
from imgnet_mini.reporting.page.thumbnails import PIXELS, make_thumbnails
from imgnet_mini.reporting.readme.markdown import NOTHING, duration


def opened(uri, kind):
    head, data = uri.split(",", 1)
    assert head == f"data:image/{kind};base64"
    return Image.open(io.BytesIO(base64.b64decode(data, validate=True)))


@pytest.mark.parametrize("size", [(10, 400), (400, 10), (1, 1), (500, 375)])
def test_a_thumbnail_is_a_small_square(tmp_path, size):
    Image.new("RGB", size, (200, 30, 30)).save(tmp_path / "a.png")
    thumbnail = opened(make_thumbnails(["a.png"], tmp_path, read_image)["a.png"], "jpeg")
    assert thumbnail.size == (PIXELS, PIXELS)
    assert np.abs(np.asarray(thumbnail).mean((0, 1)) - (200, 30, 30)).max() < 4


def test_a_thumbnail_carries_nothing_but_pixels(tmp_path):
    image = Image.new("RGB", (300, 300))
    exif = image.getexif()
    exif[0x010F] = "secret camera"
    image.save(tmp_path / "a.jpg", exif=exif, comment=b"secret comment", icc_profile=b"secret")
    thumbnail = opened(make_thumbnails(["a.jpg"], tmp_path, read_image)["a.jpg"], "jpeg")
    thumbnail.load()
    assert not set(thumbnail.info) & {"exif", "comment", "icc_profile"}


def test_files_that_are_gone_or_broken_have_no_thumbnail(tmp_path):
    Image.new("RGB", (9, 9)).save(tmp_path / "good.png")
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nrubbish")
    names = ["good.png", "gone.png", "broken.png"]
    assert set(make_thumbnails(names, tmp_path, read_image)) == {"good.png"}


@pytest.mark.parametrize("size", [2, 250, 251, 1000])
def test_a_single_error_is_seen_in_a_matrix_of_any_size(size):
    counts = np.diag(np.full(size, 50))
    without = np.asarray(opened(matrix_picture(counts), "png"))
    counts[size - 1, 0] = 1
    pixels = np.asarray(opened(matrix_picture(counts), "png"))
    assert pixels.shape[0] == pixels.shape[1] <= 250
    assert without[-1, 0, 3] == 0
    assert pixels[-1, 0, 3] > 60
    assert (pixels[..., 3].diagonal() == 255).sum() >= len(pixels) - 1


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, NOTHING), (0.04, "0.0 s"), (9.96, "10.0 s"), (59.4, "59 s"), (60, "1 min"),
        (61, "1 min 1 s"), (3600, "1 h"), (5000, "1 h 23 min"), (360000, "100 h"),
    ],
)  # fmt: skip
def test_a_duration_is_told_in_its_two_largest_units(seconds, text):
    assert duration(seconds) == text


def test_a_share_is_told_in_percent():
    assert [percent(0.1234), percent(1, 0), percent(None)] == ["12.3 %", "100 %", NOTHING]


def test_the_page_names_its_own_style_and_script_and_allows_nothing_else():
    comparison = {"names": ("a", "b"), "settings": (), "results": ()}
    html = render_page("compare.html.j2", comparison=comparison, reported=(), charts=[])
    (policy,) = re.findall(r'Content-Security-Policy" content="([^"]*)"', html)
    directives = dict(part.split(" ", 1) for part in policy.split("; "))
    assert directives.pop("default-src") == "&#39;none&#39;"
    assert directives.pop("img-src") == "data:"
    assert directives.pop("base-uri") == directives.pop("form-action") == "&#39;none&#39;"
    assert set(directives) == {"style-src", "script-src"}
    assert all(
        re.fullmatch(r"&#39;sha256-[\w+/]{43}=&#39;", value) for value in directives.values()
    )
    assert html.count("<script") == html.count("</script") == 1
    assert html.count("<style") == html.count("</style") == 1
    assert not re.search(r"\son\w+=|\sstyle=|https?:", html)
