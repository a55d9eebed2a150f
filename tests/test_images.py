import io
import pickle
import random
from contextlib import nullcontext, suppress

import numpy as np
import pytest
from PIL import Image

from imgnet_mini.data.images import (
    MAX_PIXELS,
    ImageError,
    decode,
    find_problem,
    read_image,
    read_pixels,
)
from imgnet_mini.errors import DataError

SIDES = (40, 36)
"""Height and width."""

STRIP_OFFSETS = 273
"""The TIFF tag that says where the pixels are."""


@pytest.fixture
def pixels():
    return np.random.default_rng(0).integers(0, 256, (*SIDES, 3), dtype=np.uint8)


@pytest.fixture
def picture(pixels):
    return Image.fromarray(pixels)


def encoded(image, kind, **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def written(path, content):
    path.write_bytes(content)
    return path


def assert_refused(path, message=""):
    """All ways to look at a file refuse it; errors name it."""
    for read in (read_image, read_pixels):
        with pytest.raises(DataError) as error:
            read(path)
        assert str(path) in str(error.value)
        assert message in str(error.value)
    assert find_problem(path) is not None


def assert_read(path, expected):
    assert find_problem(path) is None
    image = read_image(path)
    assert image.mode == "RGB"
    assert np.array_equal(np.asarray(image), expected)
    assert_decoded(path, expected)


def assert_decoded(path, expected):
    ours, complaint = decode(path)
    assert complaint is None
    assert (ours.dtype, ours.flags.writeable) == (np.uint8, True)
    assert np.array_equal(ours, expected)
    assert np.array_equal(read_pixels(path), expected)


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "PPM", "WEBP"])
def test_lossless_formats_give_their_pixels(tmp_path, picture, pixels, kind):
    options = {"lossless": True} if kind == "WEBP" else {}
    assert_read(written(tmp_path / "x.any", encoded(picture, kind, **options)), pixels)


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"progressive": True},
        {"quality": 100, "subsampling": "4:4:4"},
        {"subsampling": "4:2:2"},
        {"subsampling": "4:2:0", "optimize": True},
        {"keep_rgb": True},
        {"restart_marker_blocks": 2},
    ],
    ids=str,
)
def test_a_jpeg_is_decoded_as_pillow_does(tmp_path, picture, mode, options):
    image = picture.resize((77, 51)).convert(mode)
    path = written(tmp_path / "x.JPEG", encoded(image, "JPEG", **options))
    assert_read(path, np.asarray(Image.open(path).convert("RGB")))


def test_a_jpeg_whose_colours_are_sampled_at_a_quarter_of_its_lines_is_decoded(tmp_path, picture):
    content = bytearray(encoded(picture.resize((32, 32)), "JPEG", subsampling="4:2:0"))
    # A block of 16 x 16 pixels has as many values as one of 8 x 32, and there are as many.
    content[content.index(b"\xff\xc0") + 11] = 0x14
    path = written(tmp_path / "x.JPEG", content)
    assert_read(path, np.asarray(Image.open(path)))


def test_a_jpeg_with_damage_inside_gives_what_pillow_reads_and_a_complaint(tmp_path, picture):
    content = bytearray(encoded(picture.resize((160, 160)), "JPEG"))
    half = len(content) // 2
    content[half : half + 8] = b"\xff\xd0\x12\x34\x56\x78\x9a\xbc"
    path = written(tmp_path / "x.JPEG", content)
    ours, complaint = decode(path)
    assert "Corrupt JPEG data" in complaint
    assert np.array_equal(ours, np.asarray(read_image(path)))
    assert np.array_equal(read_pixels(path), ours)


def test_the_name_does_not_tell_the_format(tmp_path, picture, pixels):
    assert_read(written(tmp_path / "n01440764_1.JPEG", encoded(picture, "PNG")), pixels)


def test_grey_becomes_three_equal_channels(tmp_path, pixels):
    grey = pixels[..., 0]
    expected = np.stack([grey] * 3, axis=2)
    assert_read(written(tmp_path / "l.png", encoded(Image.fromarray(grey), "PNG")), expected)


def test_a_palette_gives_its_colours(tmp_path, picture):
    palette = picture.quantize(256)
    expected = np.asarray(palette.convert("RGB"))
    assert_read(written(tmp_path / "p.png", encoded(palette, "PNG")), expected)


def test_one_bit_becomes_black_and_white(tmp_path, pixels):
    bits = pixels[..., 0] > 127
    expected = np.stack([bits * np.uint8(255)] * 3, axis=2)
    assert_read(written(tmp_path / "1.png", encoded(Image.fromarray(bits), "PNG")), expected)


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bit_grey_is_scaled_and_not_clipped(tmp_path, kind):
    values = np.linspace(0, 65535, SIDES[0] * SIDES[1]).astype(np.uint16).reshape(SIDES)
    expected = np.stack([(values >> 8).astype(np.uint8)] * 3, axis=2)
    assert_read(written(tmp_path / "16.png", encoded(Image.fromarray(values), kind)), expected)


def test_floating_point_pixels_are_refused(tmp_path):
    image = Image.fromarray(np.ones(SIDES, np.float32))
    assert_refused(written(tmp_path / "f.tif", encoded(image, "TIFF")), "8 or 16 bits")


def test_cmyk_becomes_the_colour_that_it_prints(tmp_path):
    red = Image.new("CMYK", SIDES, (0, 255, 255, 0))
    path = written(tmp_path / "cmyk.jpg", encoded(red, "JPEG", quality=100))
    assert find_problem(path) is None
    assert np.allclose(np.asarray(read_image(path))[20, 20], (255, 0, 0), atol=6)
    assert_decoded(path, np.asarray(read_image(path)))


def test_a_moving_picture_gives_its_first_frame(tmp_path):
    frames = [Image.new("RGB", SIDES, colour) for colour in ("red", "blue")]
    content = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    path = written(tmp_path / "x.gif", content)
    assert_read(path, np.asarray(Image.new("RGB", SIDES, "red")))


def test_trailing_bytes_do_no_harm(tmp_path, picture):
    for kind in ("JPEG", "PNG"):
        path = written(tmp_path / kind, encoded(picture, kind) + b"\r\n<!-- proxy -->" + bytes(40))
        assert_read(path, np.asarray(Image.open(io.BytesIO(encoded(picture, kind)))))


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("keep", [lambda n: n // 2, lambda n: n - 20, lambda n: n - 2, lambda n: 3])
def test_a_jpeg_that_ends_early_is_refused(tmp_path, picture, progressive, keep):
    content = encoded(picture.resize((160, 160)), "JPEG", progressive=progressive)
    assert_refused(written(tmp_path / "cut.JPEG", content[: keep(len(content))]))


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "BMP", "TIFF", "PPM", "GIF"])
def test_other_formats_that_end_half_way_are_refused(tmp_path, picture, kind):
    content = encoded(picture, kind)
    assert_refused(written(tmp_path / "cut.jpg", content[: len(content) // 2]))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x00" * 4096,
        b"<!DOCTYPE html><html><body>404 Not Found</body></html>",
        b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
        np.random.default_rng(0).bytes(4096),
        b"\xff\xd8\xff",
        b"\x89PNG\r\n\x1a\n",
    ],
    ids=["empty", "zeros", "html", "lfs pointer", "noise", "jpeg start", "png start"],
)
def test_what_is_no_image_is_refused(tmp_path, content):
    assert_refused(written(tmp_path / "x.jpg", content))


def test_an_empty_file_is_called_empty(tmp_path):
    path = written(tmp_path / "x.jpg", b"")
    assert find_problem(path) == "the file is empty"
    with pytest.raises(DataError, match="the file is empty"):
        decode(path)


def test_a_file_that_cannot_be_opened_is_named(tmp_path):
    (tmp_path / "folder.jpg").mkdir()
    for path in (tmp_path / "absent.jpg", tmp_path / "folder.jpg"):
        assert_refused(path)


def test_a_format_that_starts_another_program_is_refused(tmp_path, picture):
    content = encoded(picture, "EPS")
    assert Image.open(io.BytesIO(content)).format == "EPS"
    assert_refused(written(tmp_path / "x.jpg", content), "not an image")


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_an_image_above_the_cap_is_refused_by_its_header(tmp_path, picture, monkeypatch, kind):
    path = written(tmp_path / "x.jpg", encoded(picture, kind))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 500)
    monkeypatch.setattr("imgnet_mini.data.images.MAX_PIXELS", 1000)
    message = r"^cannot decode .*x\.jpg: .*1440 pixels.* 1000 pixels; make it smaller$"
    for read in (read_image, read_pixels):
        with pytest.raises(DataError, match=message):
            read(path)
    assert "1440 pixels" in find_problem(path)


def test_pillow_has_the_same_cap():
    assert MAX_PIXELS == 2 * Image.MAX_IMAGE_PIXELS


def test_an_error_comes_out_of_a_worker_as_it_was(tmp_path):
    error = pickle.loads(pickle.dumps(ImageError(tmp_path / "x.jpg", "not an image")))
    assert (error.path, error.reason) == (tmp_path / "x.jpg", "not an image")
    assert str(error) == f"cannot decode {tmp_path / 'x.jpg'}: not an image"


def test_a_hole_in_the_middle_of_a_png_is_found_when_it_is_decoded(tmp_path, picture):
    content = encoded(picture, "PNG")
    half = len(content) // 2
    path = written(tmp_path / "x.png", content[:half] + content[half + half // 4 :])
    assert find_problem(path) is None
    for read in (read_image, read_pixels):
        with pytest.raises(DataError, match=r"cannot decode .*x\.png"):
            read(path)


@pytest.mark.filterwarnings("ignore")  # Pillow's own, about what it skips in damaged headers
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM"])
def test_damage_is_refused_or_decoded_and_never_another_error(tmp_path, picture, kind):
    content = encoded(picture, kind)
    chance = random.Random(0)
    for _ in range(100):
        damaged = bytearray(content)
        for _ in range(4):
            # The headers: at the front, or at the end for TIFF.
            place = chance.randrange(min(200, len(content))) * chance.choice([1, -1])
            damaged[place] = chance.randrange(256)
        path = written(tmp_path / "x", damaged)
        image = None
        with suppress(DataError):
            image = read_image(path)
            assert image.mode == "RGB"
            assert find_problem(path) is None
        with suppress(DataError) if image is None else nullcontext():
            assert np.array_equal(read_pixels(path), np.asarray(image))


@pytest.mark.parametrize("kind", [2, 5, 7, 11], ids=["text", "fraction", "bytes", "float"])
def test_a_tiff_whose_header_has_a_value_of_the_wrong_type_is_refused(tmp_path, picture, kind):
    content = bytearray(encoded(picture, "TIFF"))
    start = int.from_bytes(content[4:8], "little")
    for entry in range(start + 2, start + 2 + 12 * content[start], 12):
        if int.from_bytes(content[entry : entry + 2], "little") == STRIP_OFFSETS:
            content[entry + 2] = kind
    assert_refused(written(tmp_path / "x.tif", content))
