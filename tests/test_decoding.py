"""How files are decoded is a setting of a run: the same in all that uses its network."""

import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import imgnet_mini
from conftest import SMALL
from helpers.packs import DATA, PACK, build
from helpers.stops import stop_at
from imgnet_mini.config.data_settings import DEFAULT_DECODING, EARLIER_DECODING, Decoding
from imgnet_mini.config.run_config import RunConfig
from imgnet_mini.data.images import read_pixels
from imgnet_mini.data.splits import open_splits
from imgnet_mini.errors import DataError
from imgnet_mini.utils.csv_file import read_table

EARLIER = ("--no-exif-orientation", "--background", "none", "--bit-depth", 16)
ORIENTATION = 0x0112


def photo(values):
    """A photograph stored sideways."""
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    file = io.BytesIO()
    Image.fromarray(values).save(file, "JPEG", quality=95, exif=exif)
    return file.getvalue()


@pytest.fixture
def mixed(data):
    """`data` with images that the settings change: sideways, transparent, of 12 bits."""
    down, across = np.mgrid[0:40, 0:48]
    for split in ("train", "val"):
        folder = data / split / "class_01"
        pixels = np.stack([5 * down, 5 * across, 255 - 5 * across], 2).astype(np.uint8)
        (folder / "sideways.jpg").write_bytes(photo(pixels))
        alpha = np.where(across < 20, 255, 0).astype(np.uint8)
        Image.fromarray(np.dstack([pixels, alpha])).save(folder / "transparent.png")
        Image.fromarray((80 * across).astype(np.uint16)).save(folder / "deep.png")
    return data


def open_with(**data):
    config = RunConfig().override(
        {"run": {"data_root": DATA}, "data": {"img_size": 32, "workers": 0, **data}}
    )
    return open_splits(config.run, config.data)


def probabilities(cli):
    return [
        [said["probability"] for said in entry["predictions"]]
        for entry in json.loads(cli.out)["images"]
    ]


def test_the_first_look_refuses_what_training_would_stop_at(mixed):
    with pytest.raises(DataError, match=r"(?s)2 broken .*deep\.png: 16-bit values"):
        open_with()
    open_with(bit_depth=12)
    with pytest.raises(DataError, match=r"2 broken"):  # although found whole with other settings
        open_with()
    open_with(bit_depth=16)


def test_check_counts_the_images_that_are_turned(mixed, cli):
    assert cli("check", "--data-root", DATA, "--bit-depth", 12) == 0, cli.err
    assert "2 image(s) with an EXIF orientation: they are turned upright" in cli.out
    assert cli("check", "--data-root", DATA, *EARLIER) == 0, cli.err
    assert "2 image(s) with an EXIF orientation: used as stored (--exif-orientation)" in cli.out


@pytest.mark.parametrize("flags", [("--bit-depth", 12), EARLIER], ids=["today", "earlier"])
def test_a_network_is_used_as_it_was_trained(mixed, cli, flags):
    assert cli("train", *SMALL, "--epochs", 1, "--name", "a", *flags) == 0, cli.err
    assert cli("evaluate", "--name", "a", "--batch-size", 4) == 0, cli.err
    table = list(read_table(Path("reports/a/predictions.csv")))[1:]
    names = [row[0] for row in table]
    expected = np.array([[float(value) for value in row[3::2]] for row in table])

    place = names.index("class_01/sideways.jpg")
    assert cli("predict", "--name", "a", "data/val", "--batch-size", 4, "--json") == 0, cli.err
    assert probabilities(cli) == pytest.approx(expected, abs=1e-6)
    is_stored = flags == EARLIER
    assert cli.says("1 of 12 images have an EXIF orientation and are used as stored") is is_stored

    model = imgnet_mini.load_model("best", name="a")
    assert model.decoding == (EARLIER_DECODING if is_stored else Decoding(bit_depth=12))
    with Image.open(f"data/val/{names[place]}") as image:
        (found,) = model.predict([image])
    assert found.probabilities == pytest.approx(expected[place], abs=1e-4)

    path = Path(f"data/val/{names[place]}")
    other = imgnet_mini.load_model("best", name="a", exif_orientation=is_stored)
    assert other.decoding.exif_orientation is is_stored
    assert not torch.equal(other.crop.load(path), model.crop.load(path))

    assert cli("export", "--name", "a", "--format", "state-dict") == 0, cli.err
    said = json.loads(Path("exports/a/best.pth.json").read_bytes())["preprocessing"]
    assert {name: said[name] for name in Decoding.model_fields} == model.decoding.model_dump()


def test_a_file_without_settings_is_used_as_torchvision_trains(mixed, cli):
    assert cli("train", *SMALL, "--epochs", 1, "--name", "a", "--bit-depth", 12) == 0, cli.err
    best = torch.load("checkpoints/a/best.pth", weights_only=True)
    torch.save(best["model"], "plain.pth")
    plain = {"arch": "shufflenet_v2_x0_5", "img_size": 32}
    assert imgnet_mini.load_model("plain.pth", **plain).decoding == EARLIER_DECODING
    flags = ("--arch", "shufflenet_v2_x0_5", "--img-size", 32, "--data-root", DATA, "--name", "b")
    assert cli("evaluate", "--checkpoint", "plain.pth", *flags) == 0, cli.err
    said = next(read for read in read_table(Path("reports/b/predictions.csv")) if "deep" in read[0])
    assert (
        cli("predict", "--checkpoint", "plain.pth", *flags[:4], f"data/val/{said[0]}", "--json")
        == 0
    )
    assert probabilities(cli)[0] == pytest.approx([float(one) for one in said[3::2]], abs=1e-5)


def without_decoding(path):
    """Take from a checkpoint what earlier versions did not write."""
    content = torch.load(path, weights_only=True)
    for name in Decoding.model_fields:
        del content["config"]["data"][name]
    torch.save(content, path)


def test_a_run_of_an_earlier_version_goes_on_with_the_pixels_that_it_began_with(
    mixed, cli, monkeypatch
):
    assert cli("train", *SMALL, "--name", "whole", *EARLIER) == 0, cli.err
    with monkeypatch.context() as patched:
        stop_at(patched, 7)
        assert cli("train", *SMALL, "--name", "old", *EARLIER) == 130
    folder = Path("checkpoints/old")
    without_decoding(folder / "checkpoint.pth")
    for path in (folder / "manifest.json", *folder.glob("*-*.pth")):
        path.unlink()
    config = Path("out/old/config.toml")
    text = config.read_text("utf-8")
    config.write_text(re.sub(r"(?m)^(exif_orientation|background|bit_depth) = .*\n", "", text))
    assert cli("resume", "--name", "old", "--exif-orientation") == 2
    assert cli.says("this run was started with --no-exif-orientation")
    assert cli("resume", "--name", "old") == 0, cli.err
    ours, theirs = (
        torch.load(f"checkpoints/{name}/checkpoint.pth", weights_only=True)["model"]
        for name in ("old", "whole")
    )
    torch.testing.assert_close(ours, theirs, rtol=0, atol=0)

    without_decoding(folder / "best.pth")
    (folder / "manifest.json").unlink()
    config.write_text(re.sub(r"(?m)^(exif_orientation|background|bit_depth) = .*\n", "", text))
    results = []
    for name in ("old", "whole"):
        assert cli("evaluate", "--name", name) == 0, cli.err
        results.append(Path(f"reports/{name}/predictions.csv").read_bytes())
    assert results[0] == results[1]


def forget_decoding():
    """Make the manifest of a pack that of an earlier version."""
    path = PACK / "manifest.json"
    manifest = json.loads(path.read_bytes())
    del manifest["decoding"]
    path.write_text(json.dumps(manifest))


def test_a_pack_is_used_by_runs_that_decode_as_it_was_made(mixed, cli):
    build(decoding=EARLIER_DECODING)
    forget_decoding()
    old = open_with(**EARLIER_DECODING.model_dump())
    assert old.loader == "pack"
    today = Decoding(bit_depth=12)
    images = open_with(bit_depth=12)
    assert images.loader == "folder"
    (note,) = images.notes
    assert f"made with{EARLIER_DECODING.flags}" in note
    assert f"rebuild it with imgnet-mini prepare{today.flags}" in note
    with pytest.raises(DataError, match="the pack in data/pack was made with --no-exif"):
        open_with(bit_depth=12, loader="pack")

    before = old.pack.manifest.id
    prepare = ("prepare", "--data-root", DATA, "--img-size", 32)
    assert cli(*prepare, *EARLIER) == 0
    assert "is up to date" in cli.out
    assert cli(*prepare, *today.flags.split()) == 0, cli.err
    pack = open_with(bit_depth=12).pack
    assert pack.manifest.decoding == today
    assert pack.manifest.id != before
    names = pack.val.images.files.tolist()
    for name in ("transparent.png", "deep.png", "sideways.jpg"):
        row = pack.val.pixels[names.index(f"class_01/{name}".encode())]
        assert row.mean() != old.pack.val.pixels[names.index(f"class_01/{name}".encode())].mean()


def test_pictures_of_the_report_show_what_the_network_sees(mixed, cli):
    flags = ("--bit-depth", 12, "--background", "black")
    assert cli("train", *SMALL, "--epochs", 1, "--name", "a", *flags) == 0, cli.err
    seen = []

    def look(path, decoding=DEFAULT_DECODING):
        seen.append(decoding)
        return Image.fromarray(read_pixels(path, decoding))

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("imgnet_mini.commands.report.read_image", look)
        assert cli("report", "--name", "a") == 0, cli.err
    assert set(map(str, seen)) == {str(Decoding(bit_depth=12, background="black"))}
    assert "cannot be read" not in cli.out
