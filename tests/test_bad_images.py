"""Images and folders as they should not be: what training, `check` and the decoder make of them.

The rows E1 to E12 are those of the reliability list; each test's name begins with its row.
"""

import io
import os
import re
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from conftest import SMALL, write_folder
from helpers.mutations import mutate_images, peak_bytes
from helpers.packs import DATA, build, jpeg, opened
from imgnet_mini.config.data_settings import Decoding
from imgnet_mini.config.run_config import RunConfig
from imgnet_mini.data.folder import fingerprint
from imgnet_mini.data.images import MAX_PIXELS, decode, find_problem, read_pixels
from imgnet_mini.data.loaders import build_eval_loader, build_train_loader
from imgnet_mini.data.splits import open_splits
from imgnet_mini.data.tree import find_splits
from imgnet_mini.errors import DataError

posix = pytest.mark.skipif(os.name != "posix", reason="Windows has no such links and names")

BAD = DATA / "train" / "class_01" / "bad.jpg"
PLACE = "train/class_01/bad.jpg"
SHORT = (*SMALL, "--epochs", 2)


def encoded(image, kind, **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


@pytest.fixture
def picture():
    """Smooth, so that lossy formats keep its colours: (40, 60, 3)."""
    down, across = np.mgrid[0:40, 0:60]
    channels = [80 + 2 * down, 60 + 2 * across, 200 - down - across]
    return Image.fromarray(np.stack(channels, 2).astype(np.uint8))


def choose(*, skip_bad=False, **settings):
    config = RunConfig().override(
        {
            "run": {"data_root": DATA},
            "data": {"img_size": 32, "batch_size": 4, "workers": 0, "skip_bad": skip_bad},
        }
    )
    return open_splits(config.run, config.data, **settings)


def assert_stops_or_is_left_out(cli, reason):
    """A bad file is listed by `check`, stops a training by name, and is left out where asked."""
    assert cli("check", "--data-root", DATA) == 4
    assert f"{BAD}: " in cli.out
    assert reason in cli.out
    assert cli.says("1 image(s) that cannot be decoded")
    with pytest.raises(DataError, match=f"{BAD}: .*{re.escape(reason)}") as error:
        choose()
    for cure in ("imgnet-mini check", "--skip-bad"):
        assert cure in str(error.value)
    images = choose(skip_bad=True)
    assert list(images.skipped) == [PLACE]
    assert reason in images.skipped[PLACE]
    assert (len(images.train), len(images.val)) == (24, 9)
    assert "1 broken image file(s) left out, 1 of train/ and 0 of val/" in images.notes[-1]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "the file is empty"),
        (jpeg()[:200], ""),
        (b"<!DOCTYPE html><html><body>404 Not Found</body></html>", "not an image"),
        (np.random.default_rng(0).bytes(4096), "not an image"),
    ],
    ids=["zero bytes", "header only", "html", "random bytes"],
)
def test_e1_what_is_no_image_is_named_with_the_reason(cli, data, content, reason):
    BAD.write_bytes(content)
    assert_stops_or_is_left_out(cli, reason)


@posix
def test_e1_a_dangling_link_is_named_with_the_reason(cli, data):
    BAD.symlink_to("nowhere")
    assert_stops_or_is_left_out(cli, "No such file")


def test_e1_a_macos_twin_is_passed_over_and_a_folder_named_like_an_image_is_a_folder(cli, data):
    BAD.with_name("._bad.jpg").write_bytes(b"\x00\x05\x16\x07")
    BAD.mkdir()
    assert cli("check", "--data-root", DATA) == 0, cli.out
    assert "Ignored files: 1 hidden" in cli.out
    assert len(choose().train) == 24


@pytest.mark.parametrize("keep", [0.5, -20, -2])
def test_e2_a_jpeg_that_ends_early_is_named(cli, data, keep):
    content = jpeg()
    BAD.write_bytes(content[: int(len(content) * keep) if keep > 0 else keep])
    assert_stops_or_is_left_out(cli, "")


@pytest.mark.parametrize(
    ("dtype", "kind", "low", "high"),
    [
        (np.uint16, "PNG", 0, 65535),
        (np.uint16, "TIFF", 0, 65535),
        (np.int32, "TIFF", 0, 65535),
        (np.int32, "TIFF", 0, 65536),
        (np.int32, "TIFF", -1, 65535),
        (np.float32, "TIFF", 0, 1),
    ],
)
def test_e3_deep_grey_is_scaled_or_refused(cli, data, dtype, kind, low, high):
    ramp = np.linspace(low, high, 48 * 48).reshape(48, 48).astype(dtype)
    BAD.write_bytes(encoded(Image.fromarray(ramp), kind))
    if dtype is not np.uint16:
        assert_stops_or_is_left_out(cli, "without a known range")
    else:
        assert abs(read_pixels(BAD).mean() - 127.5) < 1


@pytest.mark.parametrize(
    ("mode", "kind", "options"),
    [
        ("CMYK", "JPEG", {"quality": 95}),
        ("CMYK", "TIFF", {}),
        ("L", "PNG", {}),
        ("L", "JPEG", {}),
        ("LA", "PNG", {}),
        ("1", "PNG", {}),
        ("P", "PNG", {}),
        ("P", "PNG", {"transparency": 3}),
        ("RGBA", "PNG", {}),
        ("RGBA", "WEBP", {"lossless": True}),
    ],
)
def test_e4_every_colour_mode_becomes_rgb_of_the_same_mean(tmp_path, picture, mode, kind, options):
    path = tmp_path / "x.jpg"
    path.write_bytes(encoded(picture.convert(mode), kind, **options))
    grey = mode in ("L", "LA", "1")
    expected = np.asarray(picture.convert("L").convert("RGB") if grey else picture)
    pixels = read_pixels(path)
    assert pixels.shape == (40, 60, 3)
    assert np.abs(pixels.mean((0, 1)) - expected.mean((0, 1))).max() < 2
    assert find_problem(path) is None


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "TIFF"])
def test_e5_of_moving_pictures_and_many_pages_the_first_is_taken(cli, data, kind):
    frames = [Image.new("RGB", (40, 40), colour) for colour in ("red", "blue")]
    path = BAD.with_suffix(f".{kind.lower()}")
    options = {"lossless": True} if kind == "WEBP" else {}
    path.write_bytes(encoded(frames[0], kind, save_all=True, append_images=frames[1:], **options))
    assert np.array_equal(read_pixels(path), np.asarray(frames[0]))
    assert cli("check", "--data-root", DATA) == 0
    assert "Decoded 34 of 34 images" in cli.out


def test_e5_files_of_other_extensions_are_counted_wherever_images_are_looked_for(cli, data):
    for number in range(12):
        (BAD.parent / f"{number}.HEIC").write_bytes(b"x")
    assert cli("check", "--data-root", DATA) == 0
    assert "Ignored files: 12 .heic" in cli.out
    first = (BAD.parent / "0.HEIC").relative_to(DATA).as_posix()
    assert choose().notes == (f"Note: ignored files: 12 .heic ({first})",)
    assert cli("prepare", "--data-root", DATA, "--img-size", 32) == 0
    assert "Ignored files: 12 .heic" in cli.out


@pytest.mark.parametrize("turn", [True, False])
def test_e6_exif_orientation_is_used_or_not_alike_in_files_and_packs(data, picture, turn):
    exif = Image.Exif()
    exif[0x0112] = 6
    side = picture.resize((48, 48))
    upright = side.transpose(Image.Transpose.ROTATE_270) if turn else side
    for name, image, options in (("plain", upright, {}), ("turned", side, {"exif": exif})):
        for split in ("train", "val"):
            content = encoded(image, "PNG", **options)
            (DATA / split / "class_01" / f"{name}.png").write_bytes(content)
    build(pack_size=48, decoding=Decoding(exif_orientation=turn))
    for split in (opened().train, opened().val):
        rows = {split.images.relative_path(n): split.pixels[n] for n in range(len(split.images))}
        assert np.array_equal(rows["class_01/plain.png"], rows["class_01/turned.png"])
    turned = decode(BAD.with_name("turned.png"), Decoding(exif_orientation=turn))[0]
    assert np.array_equal(turned, np.asarray(upright))


def damaged_exif(picture, kind):
    """An image that Pillow reads with a warning about its EXIF."""
    if kind == "TIFF":  # a description that is longer than the file
        content = encoded(picture, "TIFF", description="x" * 40)
        entry = b"\x0e\x01\x02\x00\x29\x00\x00\x00"
        assert entry in content
        return content.replace(entry, b"\x0e\x01\x02\x00\x29\x00\x00\x01")
    exif = b"Exif\x00\x00II*\x00\x08\x00\x00\x00\x63\x00" + b"\xff" * 30
    return encoded(picture.convert("CMYK"), "JPEG", exif=exif)


@pytest.mark.parametrize("kind", ["JPEG", "TIFF"])
def test_e6_a_broken_exif_is_neither_an_error_nor_a_warning(tmp_path, picture, kind):
    path = tmp_path / "x.jpg"
    path.write_bytes(damaged_exif(picture, kind))
    with pytest.warns(UserWarning, match=r"(?i)exif|tag"), Image.open(path) as image:
        image.convert("RGB")
    # In a process of its own: pytest undoes the filter that the package sets when it is imported.
    code = (
        "import sys; from pathlib import Path; from imgnet_mini.data.images import decode\n"
        "print(decode(Path(sys.argv[1]))[0].shape)"
    )
    for strictness in ("error", "always"):
        command = [sys.executable, "-W", strictness, "-c", code, str(path)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        assert (done.stdout, done.stderr) == ("(40, 60, 3)\n", "")


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "BMP", "GIF", "TIFF"])
def test_e7_another_format_named_jpg_is_read(data, picture, kind):
    BAD.write_bytes(encoded(picture, kind))
    assert find_problem(BAD) is None
    assert read_pixels(BAD).shape == (40, 60, 3)


PSD = (
    *(b"8BPS", b"\x00\x01", bytes(6), b"\x00\x03", b"\x00\x00\x00\x01" * 2, b"\x00\x08"),
    *(b"\x00\x03", bytes(4), bytes(4), bytes(4), bytes(2), bytes(3)),
)


@pytest.mark.parametrize("kind", ["EPS", "PSD"])
def test_e7_formats_that_start_programs_or_are_none_of_ours_are_refused(cli, data, picture, kind):
    BAD.write_bytes(b"".join(PSD) if kind == "PSD" else encoded(picture, "EPS"))
    assert Image.open(io.BytesIO(BAD.read_bytes())).format == kind
    assert_stops_or_is_left_out(cli, "not an image")


@pytest.mark.parametrize(
    ("width", "height"), [(20_000, 20_000), (12_000, 10_000), (10_000, 8_000), (7_072, 7_071)]
)
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF"])
def test_e8_above_the_cap_an_image_is_refused_before_it_takes_memory(
    cli, data, kind, width, height
):
    mode, options = {
        "PNG": ("1", {}),
        "JPEG": ("L", {"quality": 1}),
        "TIFF": ("1", {"compression": "group4"}),
    }[kind]
    assert width * height > MAX_PIXELS
    BAD.write_bytes(encoded(Image.new(mode, (width, height)), kind, **options))
    assert BAD.stat().st_size < 7_000_000
    before = peak_bytes()
    assert_stops_or_is_left_out(
        cli, f"({width * height} pixels) exceeds limit of {MAX_PIXELS} pixels"
    )
    assert peak_bytes() - before < 50_000_000


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")  # pytest undoes ours
def test_e8_an_image_of_the_cap_is_decoded(tmp_path):
    path = tmp_path / "x.png"
    Image.new("1", (10_000, 5_000)).save(path)
    assert find_problem(path) is None
    assert read_pixels(path).shape == (5_000, 10_000, 3)


SIZES = [(1, 1), (1, 5000), (5000, 1), (65000, 4), (4, 65000), (2, 3)]


@pytest.mark.parametrize("packed", [False, True])
def test_e8_tiny_images_and_strips_are_cropped_for_training_and_evaluation(tmp_path, packed):
    for split in ("train", "val"):
        for name, colour in (("a", (200, 100, 50)), ("b", (0, 0, 255))):
            (DATA / split / name).mkdir(parents=True)
            for number, size in enumerate(SIZES):
                image = Image.new("RGB", size, colour)
                image.save(DATA / split / name / f"{number}.{('jpg', 'png')[number % 2]}")
    if packed:
        build()
    before = peak_bytes()
    images = choose()
    assert images.loader == ("pack" if packed else "folder")
    config = RunConfig().data.model_copy(update={"img_size": 32, "batch_size": 4, "workers": 0})
    device = torch.device("cpu")
    with (
        closing(build_train_loader(config, images, seed=0, device=device)) as train,
        closing(build_eval_loader(config, images, device=device)) as val,
    ):
        for loader in (train, val):
            batches = list(loader.epoch(0))
            assert sum(len(pixels) for pixels, _ in batches) == 12
            for pixels, _ in batches:
                assert (pixels.std((2, 3)) < 0.05).all(), "one colour in, one colour out"
    assert peak_bytes() - before < 300_000_000


ODD = {
    "newline": b"new\nline",
    "escape": b"\x1b[2J\x1b]0;x\x07",
    "invalid utf-8": b"\xff\xfe\xe9",
    "right to left": "\u202egpj.x".encode(),
    "255 bytes": b"x" * 251,
    "spaces": b" two  spaces ",
    "pipe": b"a|b",
    "html": b"<img src=x>",
}


@pytest.mark.skipif(sys.platform != "linux", reason="others refuse names that are not UTF-8")
def test_e9_odd_names_train_and_nothing_unprintable_is_printed(cli, tmp_path):
    names = [os.fsdecode(name) for name in ODD.values()]
    write_folder(DATA, train=3, val=1, classes=sorted(names))
    for folder in (DATA / "train").iterdir():
        (folder / "000.JPEG").rename(folder / f"{folder.name}.jpg")
    broken = DATA / "train" / names[0] / os.fsdecode(b"\xff\x1b[2J\n.jpg")
    broken.write_bytes(b"")

    def assert_printable():
        for text in (cli.out, cli.err):
            assert all(char.isprintable() or char == "\n" for char in text)

    assert cli("check", "--data-root", DATA) == 4
    assert_printable()
    assert cli("train", *SHORT) == 4
    assert_printable()
    assert cli("train", *SHORT, "--skip-bad") == 0, cli.err
    assert_printable()
    assert cli("evaluate", "--workers", 0) == 0, cli.err
    assert_printable()
    assert cli("prepare", "--data-root", DATA, "--img-size", 32, "--skip-bad") == 0
    assert_printable()
    skipped = f"train/{broken.relative_to(DATA / 'train')}"
    assert choose().skipped == {skipped: "the file is empty"}
    assert choose(skip_bad=True).skipped == {skipped: "the file is empty"}
    assert cli("train", *SHORT, "--name", "packed") == 0, cli.err
    assert_printable()


def rename(old, new):
    (DATA / old).rename(DATA / new)


def lacks(split):
    for path in (DATA / split / "class_02").iterdir():
        path.unlink()
    (DATA / split / "class_02").rmdir()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda: lacks("val"), ["only in train/: class_02", "--allow-missing-val-classes"]),
        (lambda: lacks("train"), ["only in val/: class_02"]),
        (
            lambda: rename("val/class_02", "val/other"),
            ["only in train/: class_02", "only in val/: other"],
        ),
        (
            lambda: rename("val/class_02", "val/Class_02"),
            ["only in val/: Class_02", "differing in case only: class_02 and Class_02"],
        ),
        ((DATA / "train" / "empty").mkdir, ["no images in empty", "only in train/"]),
        ((DATA / "val" / "empty").mkdir, ["no images in empty", "only in val/: empty"]),
    ],
    ids=["missing", "extra", "renamed", "case", "empty in train", "empty in val"],
)
def test_e10_classes_that_differ_are_listed_and_images_checked_all_the_same(
    cli, data, change, said
):
    change()
    (DATA / "train" / "class_00" / "000.JPEG").write_bytes(b"")
    assert cli("train", *SHORT) == 4
    assert all(map(cli.says, said))
    assert cli("check", "--data-root", DATA) == 4
    assert all(text in cli.out for text in said)
    assert "class_00/000.JPEG: the file is empty" in cli.out


def test_e10_hidden_folders_are_no_classes(cli, data):
    (DATA / "train" / ".ipynb_checkpoints").mkdir()
    assert cli("check", "--data-root", DATA) == 0
    assert "1 hidden" in cli.out


@pytest.mark.parametrize("prepared", [False, True])
def test_e10_val_may_lack_classes_where_that_is_allowed_and_targets_are_those_of_train(
    cli, data, prepared
):
    rename("val/class_00", "val/.old")
    allow = "--allow-missing-val-classes"
    assert cli("check", "--data-root", DATA, allow) == 0
    if prepared:
        assert cli("prepare", "--data-root", DATA, "--img-size", 32, allow) == 0, cli.err
    train, val = find_splits(DATA, allow_missing_val_classes=True)
    assert val.classes == train.classes == ("class_00", "class_01", "class_02")
    assert val.targets.tolist() == [1, 1, 1, 2, 2, 2]
    assert cli("train", *SHORT, allow) == 0, cli.err
    assert f"({'pack of 48 px' if prepared else 'image files'})" in cli.out


def test_e10_classes_of_val_alone_are_refused_all_the_same(cli, data):
    rename("val/class_00", "val/other")
    assert cli("train", *SHORT, "--allow-missing-val-classes") == 4
    assert cli.says("only in val/: other")


def longer(path):
    path.write_bytes(path.read_bytes() + b"x")


@pytest.mark.parametrize(
    "change",
    [
        Path.unlink,
        longer,
        lambda path: path.rename(path.with_name("zzz.png")),
        lambda path: path.rename(DATA / "train" / "class_02" / path.name.replace("1", "9")),
        lambda path: path.with_name("zzz.png").write_bytes(path.read_bytes()),
    ],
    ids=["removed", "longer", "renamed", "moved", "added"],
)
def test_e11_a_changed_image_changes_the_fingerprint(data, change):
    before = fingerprint(*find_splits(DATA))
    assert fingerprint(*find_splits(DATA)) == before
    change(DATA / "train" / "class_01" / "001.png")
    assert fingerprint(*find_splits(DATA)) != before


def test_e11_files_and_pack_have_the_same_fingerprint(data):
    before = choose(skip_bad=True)
    build()
    (DATA / "val" / "class_00" / f"{'x' * 60}.jpg").write_bytes(b"")
    build(skip=True)
    for images in (choose(), choose(skip_bad=True)):
        assert images.loader == "pack"
        assert fingerprint(images.train, images.val) == fingerprint(before.train, before.val)


@pytest.mark.parametrize("workers", [0, 2])
def test_e11_an_image_that_goes_during_the_run_is_named(data, workers):
    images = choose()
    config = RunConfig().data.model_copy(
        update={"img_size": 32, "batch_size": 4, "workers": workers}
    )
    path = images.train.path(7)
    path.unlink()
    with (
        closing(build_train_loader(config, images, seed=0, device=torch.device("cpu"))) as loader,
        pytest.raises(DataError, match=rf"cannot decode {path}: No such file .*check"),
    ):
        list(loader.epoch(0))


@posix
def test_e12_links_that_loop_are_refused_by_name(cli, data):
    loop = DATA / "train" / "loop"
    for target, said in ((".", "a folder that contains it"), ("loop", "symbolic links")):
        loop.symlink_to(target)
        for command in (("train", *SHORT), ("check", "--data-root", DATA)):
            assert cli(*command) == 4
            assert cli.says("data/train/loop")
            assert cli.says(said)
        loop.unlink()
    (DATA / "train" / "class_00" / "up").symlink_to("../..")  # not followed
    BAD.symlink_to(BAD.name)
    assert_stops_or_is_left_out(cli, "symbolic links")


@pytest.mark.parametrize(
    ("train", "val", "classes", "flags", "code", "said"),
    [
        (0, 0, 2, (), 4, "no images in class_00, class_01"),
        (1, 0, 2, (), 4, "no images in class_00, class_01 of data/val"),
        (1, 0, 2, ("--allow-missing-val-classes",), 4, "no images in class_00, class_01"),
        (1, 1, 1, (), 4, "data/train has one class, class_00"),
        (1, 1, 2, (), 2, "--batch-size 6 is more than the 2 images"),
    ],
    ids=["0 images", "none to validate", "none, allowed", "1 class", "batch > n"],
)
def test_e12_too_few_images_or_classes_are_a_clear_error(
    cli, train, val, classes, flags, code, said
):
    write_folder(DATA, train=train, val=val, classes=classes)
    assert cli("train", *SHORT, *flags) == code
    assert cli.says(said)
    assert not Path("checkpoints").exists()


def test_e12_one_image_of_each_class_is_enough(cli):
    write_folder(DATA, train=1, val=1, classes=2)
    # At 32 px, batch norm would see two values per channel: the loss would depend on rounding.
    assert cli("train", *SHORT, "--img-size", 64, "--batch-size", 2, "--epochs", 4) == 0, cli.err


def test_random_damage_is_decoded_or_refused_and_nothing_else(capfd):
    outcomes = mutate_images(300, seed=0)
    assert outcomes.total() == 300
    assert min(outcomes["ok"], outcomes["refused"]) > 50
    assert set(outcomes) == {"ok", "refused"}
