"""Depth, transparency and orientation of images, and files that libraries limit for nothing."""

import base64
import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageFile, ImageOps

from imgnet_mini.config.data_settings import EARLIER_DECODING, DataConfig, Decoding
from imgnet_mini.config.run_config import RunConfig
from imgnet_mini.data.images import (
    ImageError,
    decode,
    file_orientation,
    find_problem,
    image_size,
    read_image,
    read_pixels,
)
from imgnet_mini.data.pixels import to_pixels
from imgnet_mini.data.transforms import EvalCrop, TrainCrop
from imgnet_mini.errors import ConfigError

SIDES = (40, 36)
"""Height and width."""

ORIENTATION = 0x0112

ARITHMETIC_JPEG = base64.b64decode(
    "/9j/4AAQSkZJRgABAQAAAQABAAD/2wBDAAYEBQYFBAYGBQYHBwYIChAKCgkJChQODwwQFxQYGBcUFhYaHSUfGhsjHBYW"
    "ICwgIyYnKSopGR8tMC0oMCUoKSj/yQALCAAYACABAREA/8wABgAQEAX/2gAIAQEAAD8A/wDOHsW68QlQPFqw/9k="
)
"""32 x 24, gray 40 and 200, entropy coded by arithmetic: some builds of Pillow cannot decode it."""


def encoded(image, kind, **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


@pytest.fixture
def write(tmp_path):
    """`write(image, kind)` is the path of an image file."""

    def write(image, kind, **options):
        path = tmp_path / f"x.{kind.lower()}"
        content = image if isinstance(image, bytes) else encoded(image, kind, **options)
        path.write_bytes(content)
        return path

    return write


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(values, color, *chunks):
    """A PNG of 16 bits per channel, which Pillow cannot write in color."""
    height, width = values.shape[:2]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    header = struct.pack(">IIBBBBB", width, height, 16, color, 0, 0, 0)
    parts = [chunk(b"IHDR", header), *chunks, chunk(b"IDAT", zlib.compress(rows))]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts) + chunk(b"IEND", b"")


def insert(content, *chunks, before):
    """A PNG with more chunks in front of the first of a kind."""
    place = content.index(before) - 4
    return content[:place] + b"".join(chunks) + content[place:]


def ramp(largest, dtype=np.uint16):
    return np.linspace(0, largest, SIDES[0] * SIDES[1]).astype(dtype).reshape(SIDES)


def in_color(gray):
    return np.stack([gray.astype(np.uint8)] * 3, 2)


def assert_refused(path, reason, **settings):
    """The first look, the decoder and the reader of pictures agree."""
    decoding = Decoding(**settings)
    for read in (decode, read_pixels, read_image):
        with pytest.raises(ImageError, match=reason):
            read(path, decoding)
    assert reason in find_problem(path, decoding)


def assert_pixels(path, expected, **settings):
    decoding = Decoding(**settings)
    assert find_problem(path, decoding) is None
    assert np.array_equal(read_pixels(path, decoding), expected)
    assert np.array_equal(np.asarray(read_image(path, decoding)), expected)
    with Image.open(path) as image:
        assert np.array_equal(to_pixels(image, decoding), expected)


# Transparency


@pytest.fixture
def drawing():
    """Black ink on nothing: (H, W) alpha of 0 or 255, and the drawing on white."""
    alpha = np.zeros(SIDES, np.uint8)
    alpha[10:20, 5:30] = 255
    return alpha, in_color(255 - alpha)


def transparent(alpha, mode):
    """The drawing in a mode, and how to save it."""
    black = np.zeros_like(alpha)
    if mode in ("RGBA", "LA"):
        bands = [black] * (3 if mode == "RGBA" else 1)
        return Image.merge(mode, [Image.fromarray(band) for band in (*bands, alpha)]), {}
    if mode == "P":
        image = Image.fromarray((alpha == 0).astype(np.uint8)).convert("P")
        image.putpalette([0] * 6)
        return image, {"transparency": 1}
    gray = Image.fromarray((alpha == 0).astype(np.uint8))  # of the value 1
    if mode == "L":
        return gray, {"transparency": 1}
    return gray.convert("RGB"), {"transparency": (1, 1, 1)}


@pytest.mark.parametrize(
    ("mode", "kind"),
    [(mode, "PNG") for mode in ("RGBA", "LA", "P", "L", "RGB")]
    + [("RGBA", "WEBP"), ("P", "GIF"), ("RGBA", "TIFF")],
)
def test_a_black_drawing_on_nothing_is_drawn_on_white(write, drawing, mode, kind):
    alpha, on_white = drawing
    image, options = transparent(alpha, mode)
    options |= {"lossless": True, "exact": True} if kind == "WEBP" else {}
    path = write(image, kind, **options)
    assert_pixels(path, on_white)
    gray = np.where(alpha[..., None] > 0, 0, 128).astype(np.uint8).repeat(3, 2)
    assert_pixels(path, gray, background="#808080")
    hidden = read_pixels(path, Decoding(background="none"))
    assert hidden.max() <= 1  # all black, as the file hides it
    with Image.open(path) as opened:
        assert np.array_equal(hidden, opened.convert("RGBA").convert("RGB"))


def test_half_transparent_pixels_are_mixed(write):
    image = Image.new("RGBA", SIDES, (0, 0, 0, 51))
    assert_pixels(write(image, "PNG"), np.full((*SIDES[::-1], 3), 204, np.uint8))


def test_a_gray_image_of_16_bits_with_one_transparent_value_is_drawn_on_white(write):
    values = ramp(65535)
    path = write(png(values, 0, chunk(b"tRNS", struct.pack(">H", int(values[0, 0])))), "PNG")
    expected = in_color(values >> 8)
    assert_pixels(path, expected, background="none")
    expected[values == values[0, 0]] = 255
    assert_pixels(path, expected)


def test_opaque_images_with_an_alpha_channel_keep_their_bits(write):
    pixels = np.random.default_rng(0).integers(0, 256, (*SIDES, 3), dtype=np.uint8)
    image = Image.fromarray(np.dstack([pixels, np.full(SIDES, 255, np.uint8)]))
    for background in ("white", "black", "none"):
        assert_pixels(write(image, "PNG"), pixels, background=background)


@pytest.mark.parametrize("color", ["whiteish", "#12345", "#00000080", ""])
def test_a_background_that_is_no_color_is_refused(color):
    with pytest.raises(ConfigError, match=r"background: must be a color such as white"):
        RunConfig().override({"data": {"background": color}})


# Bits


@pytest.mark.parametrize(
    ("largest", "bits"), [(255, 8), (1023, 10), (4095, 12), (16383, 14)], ids=str
)
@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PPM"])
def test_16_bit_images_of_fewer_bits_need_their_number(write, largest, bits, kind):
    values = ramp(largest)
    path = write(Image.fromarray(values), kind)
    reason = f"16-bit values without a known range, the largest {largest}: name the bits"
    assert_refused(path, reason)
    assert_refused(path, f"such as --bit-depth {bits}, or save it with 8")
    assert_pixels(path, in_color(values >> (bits - 8)), bit_depth=bits)
    assert_pixels(path, in_color(values >> 8), bit_depth=16)
    assert_pixels(path, in_color(values >> 8), **EARLIER_DECODING.model_dump())


def test_a_black_image_of_16_bits_is_black_with_any_number(write):
    path = write(Image.fromarray(ramp(0)), "PNG")
    for bits in (None, 12, 16):
        assert_pixels(path, in_color(ramp(0)), bit_depth=bits)


def test_values_beyond_the_bits_are_refused(write):
    path = write(Image.fromarray(ramp(65535)), "PNG")
    assert_refused(path, "values from 0 to 65535, which are not of 12 bits", bit_depth=12)


@pytest.mark.parametrize("largest", [255, 65535, 2**20 - 1])
def test_32_bit_integers_need_the_number_of_their_bits(write, largest):
    values = ramp(largest, np.int32)
    path = write(Image.fromarray(values), "TIFF")
    bits = largest.bit_length()
    assert_refused(path, f"32-bit values without a known range, the largest {largest}")
    assert_pixels(path, in_color(values >> (bits - 8)), bit_depth=bits)


def test_the_largest_value_that_a_file_names_is_believed(write):
    values = ramp(4095)
    content = b"P5\n36 40\n4095\n" + values.astype(">u2").tobytes()
    expected = in_color(np.round(values / 4095 * 65535).astype(int) >> 8)
    for bits in (None, 12, 16):
        assert_pixels(write(content, "PPM"), expected, bit_depth=bits)


def test_a_tiff_of_12_bits_is_of_12_bits(write):
    values = ramp(4095).reshape(-1).astype(int)
    first, second = values[::2], values[1::2]
    packed = np.stack([first >> 4, (first & 15) << 4 | second >> 8, second & 255], 1)
    tags = [
        *[(256, 36), (257, 40), (258, 12), (259, 1), (262, 1)],
        *[(273, 8), (277, 1), (278, 40), (279, packed.size)],
    ]
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    folder = struct.pack("<H", len(tags)) + entries + bytes(4)
    content = b"II*\0" + struct.pack("<I", 8 + packed.size)
    content += packed.astype(np.uint8).tobytes() + folder
    assert_pixels(write(content, "TIFF"), in_color(ramp(4095) >> 4))


@pytest.mark.parametrize("color", [2, 6, 4], ids=["RGB", "RGBA", "LA"])
def test_color_images_of_16_bits_whose_upper_8_are_nearly_empty_are_refused(write, color):
    bands = {2: 3, 6: 4, 4: 2}[color]
    path = write(png(np.stack([ramp(4095)] * bands, 2), color), "PNG")
    assert_refused(path, "16-bit values without a known range, the largest 4095")
    assert_refused(path, "only the upper 8 can be read", bit_depth=12)
    decode(path, Decoding(bit_depth=16))
    full = write(png(np.stack([ramp(65535)] * bands, 2), color), "PNG")
    expected = in_color(ramp(65535) >> 8)
    assert_pixels(full, expected, background="none")


def test_color_images_of_a_ppm_with_more_than_8_bits(write):
    values = np.stack([ramp(4095)] * 3, 2).astype(">u2").tobytes()
    assert_refused(write(b"P6\n36 40\n65535\n" + values, "PPM"), "16-bit values without a known")
    known = write(b"P6\n36 40\n4095\n" + values, "PPM")
    assert_pixels(known, in_color(np.round(ramp(4095) / 4095 * 255)), bit_depth=12)


def test_the_bits_do_not_touch_images_of_8(write):
    image = Image.fromarray(in_color(ramp(63)))
    for kind in ("PNG", "BMP", "TIFF", "PPM"):
        assert_pixels(write(image, kind), np.asarray(image), bit_depth=12)


# Orientation


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_images_are_turned_as_their_orientation_says(write, kind, orientation):
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 64, 3), np.uint8))
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    path = write(picture, kind, exif=exif)
    with Image.open(path) as image:
        upright = np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    assert_pixels(path, upright)
    assert file_orientation(path) == orientation
    stored = read_pixels(path, Decoding(exif_orientation=False))
    if kind != "TIFF":  # which Pillow always turns
        with Image.open(path) as image:
            assert np.array_equal(stored, np.asarray(image.convert("RGB")))
    else:
        assert np.array_equal(stored, upright)


def test_a_jpeg_that_names_its_orientation_in_xmp_only_is_turned(write):
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><a tiff:Orientation="6"/></x:xmpmeta>'
    path = write(Image.new("RGB", (48, 32)), "JPEG", xmp=xmp)
    assert read_pixels(path).shape == (48, 32, 3)
    assert read_pixels(path, EARLIER_DECODING).shape == (32, 48, 3)


@pytest.mark.parametrize("value", [0, 9, 65535])
@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_an_orientation_that_does_not_exist_turns_nothing(write, kind, value):
    exif = Image.Exif()
    exif[ORIENTATION] = value
    path = write(Image.new("RGB", (48, 32)), kind, exif=exif)
    assert read_pixels(path).shape == (32, 48, 3)


def test_damaged_tags_turn_nothing_and_refuse_nothing(write):
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    content = exif.tobytes()
    for place in range(len(content)):
        damaged = content[:place] + b"\xff" * (len(content) - place)
        path = write(Image.new("RGB", (48, 32)), "JPEG", exif=damaged)
        assert read_pixels(path).size == 48 * 32 * 3
        assert find_problem(path) is None


@pytest.mark.parametrize("turn", [True, False])
def test_both_crops_take_the_orientation_of_the_settings(write, turn):
    exif = Image.Exif()
    exif[ORIENTATION] = 3
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
    path = write(Image.fromarray(pixels), "PNG", exif=exif)
    expected = pixels[::-1, ::-1] if turn else pixels
    data = DataConfig(exif_orientation=turn, crop_scale_min=1, img_size=32)
    for crop in (TrainCrop(data), EvalCrop(32, resize=32, decoding=data.decoding)):
        cropped = crop.load(path, [0.5] * 23, 32).permute(1, 2, 0).numpy()
        assert np.array_equal(cropped, expected)


# Limits of libraries


@pytest.mark.parametrize(
    ("kind", "before"),
    [
        *[(b"zTXt", b"IDAT"), (b"iTXt", b"IDAT"), (b"iCCP", b"IDAT")],
        *[(b"zTXt", b"IEND"), (b"iTXt", b"IEND")],
    ],
)
def test_a_sound_png_with_a_long_text_or_profile_is_read(write, before, kind):
    long = zlib.compress(bytes(2_000_000))
    text = {b"zTXt": b"a\0\0", b"iTXt": b"a\0\1\0\0\0", b"iCCP": b"a\0\0"}[kind] + long
    pixels = in_color(ramp(255))
    content = insert(encoded(Image.fromarray(pixels), "PNG"), chunk(kind, text), before=before)
    path = write(content, "PNG")
    with (
        pytest.raises(ValueError, match="MAX_TEXT_CHUNK"),
        Image.open(io.BytesIO(content)) as image,
    ):
        image.load()
    assert find_problem(path) is None
    assert np.array_equal(read_pixels(path), pixels)
    assert image_size(path) == SIDES[::-1]
    assert file_orientation(path) == 1


def test_an_image_is_read_by_one_decoder_wherever_it_is_needed(write, monkeypatch):
    def refuse(*_):
        raise OSError("decoder jpeg cannot decode arithmetic coding")

    path = write(ARITHMETIC_JPEG, "JPEG")
    monkeypatch.setattr(ImageFile.ImageFile, "load", refuse)  # as in builds of Pillow without it
    assert find_problem(path) is None
    expected = in_color(np.repeat([[40] * 16 + [200] * 16], 24, 0))
    assert np.abs(read_pixels(path).astype(int) - expected).max() < 3
    assert np.array_equal(np.asarray(read_image(path)), read_pixels(path))
