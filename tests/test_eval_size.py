"""Evaluation and use at another size than that of training."""

import json
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import torch

from helpers.packs import PACK
from imgnet_mini.config.data_settings import DataConfig
from imgnet_mini.config.run_config import RunConfig
from imgnet_mini.config.training_settings import ModelConfig
from imgnet_mini.data.loaders import build_eval_loader
from imgnet_mini.data.pack.plan import make_plan
from imgnet_mini.data.splits import open_splits
from imgnet_mini.data.transforms import EvalCrop, Normalize
from imgnet_mini.data.tree import find_splits
from imgnet_mini.errors import ConfigError
from imgnet_mini.runs.records import read_csv
from imgnet_mini.training.model import check_img_size

CPU = torch.device("cpu")
SIZES = ("--data-root", "data", "--img-size", 32, "--eval-size", 48)


def test_the_default_is_the_image_size():
    assert DataConfig(img_size=64).eval_size == 64
    assert DataConfig(img_size=64, eval_size=72).eval_size == 72
    config = RunConfig().override({"data": {"img_size": 64}})
    assert config.explicit() == {"data": {"img_size": 64}}
    assert config.override({"data": {"img_size": 96}}).data.eval_size == 96


def test_reset_it_is_the_image_size_again():
    config = RunConfig().override({"data": {"img_size": 64, "eval_size": 72}})
    assert config.override({"data": {"eval_size": None}}).data.eval_size == 64
    assert config.override({"data": {"img_size": 96}}).data.eval_size == 72


@pytest.mark.parametrize("change", [{"eval_size": None}, {}])
def test_a_pack_of_an_earlier_version_has_no_size_of_its_own(data, cli, change):
    assert cli("prepare", *SIZES[:-2]) == 0, cli.err
    manifest = json.loads((PACK / "manifest.json").read_text("utf-8"))
    assert manifest.pop("eval_size") == 32
    (PACK / "manifest.json").write_text(json.dumps(manifest | change), "utf-8")
    assert cli("prepare", *SIZES[:-2]) == 0, cli.err
    assert "up to date" in cli.out


@pytest.mark.parametrize("source", ["folder", "pack", "pack for another size"])
def test_validation_images_are_cut_at_the_evaluations_size(data, cli, source):
    if source == "pack":
        assert cli("prepare", *SIZES) == 0, cli.err
        assert "9 validation images at 48 px" in cli.out
    elif source != "folder":
        assert cli("prepare", *SIZES[:-2]) == 0, cli.err
    given = RunConfig().override(
        {
            "run": {"data_root": data},
            "data": {"img_size": 32, "eval_size": 48, "batch_size": 4, "workers": 0},
        }
    )
    images = open_splits(given.run, given.data)
    assert images.loader == source.split()[0]
    assert (images.packed_val(48) is not None) == (source == "pack")
    with closing(build_eval_loader(given.data, images, device=CPU)) as loader:
        found = torch.cat([pixels for pixels, _ in loader.epoch(0)])
    load = EvalCrop(48).load
    expected = torch.stack([load(images.val.path(i)) for i in range(len(images.val))])
    assert torch.equal(found, Normalize(CPU)(expected))


def test_a_pack_is_the_same_where_the_sizes_are(data, cli):
    train, val = find_splits(data)
    plain = make_plan(train, val, pack_size=None, img_size=32)
    assert make_plan(train, val, pack_size=None, img_size=32, eval_size=32).id == plain.id
    other = make_plan(train, val, pack_size=None, img_size=32, eval_size=48)
    assert (other.id != plain.id, other.pack_size) == (True, plain.pack_size)

    assert cli("prepare", *SIZES) == 0, cli.err
    assert np.load(PACK / "val_images.npy").shape == (9, 48, 48, 3)
    assert cli("prepare", *SIZES) == 0, cli.err
    assert "up to date" in cli.out
    assert cli("prepare", *SIZES[:-2]) == 0, cli.err
    assert np.load(PACK / "val_images.npy").shape == (9, 32, 32, 3)


def test_a_pack_for_smaller_evaluation_serves_its_image_size(data, cli):
    assert cli("prepare", "--data-root", "data", "--img-size", 48, "--eval-size", 32) == 0, cli.err
    given = RunConfig().override({"run": {"data_root": data}, "data": {"img_size": 48}})
    assert open_splits(given.run, given.data).loader == "pack"


def test_a_run_is_validated_evaluated_and_used_at_that_size(run_small, cli, data):
    options = ("--eval-size", 48, "--epochs", 1, "--name", "a", "--no-amp")
    assert run_small("train", *options) == 0, cli.err
    validated = read_csv(Path("out/a/train_log.csv"))[-1]

    def evaluated(*more):
        assert cli("evaluate", "--name", "a", *more) == 0, cli.err
        (path,) = Path("reports").rglob("metrics.json")
        return json.loads(path.read_text())

    metrics = evaluated()
    assert (metrics["img_size"], metrics["resize"]) == (48, 55)
    assert metrics["loss"] == pytest.approx(validated.loss, abs=1e-4)
    assert evaluated("--img-size", 40)["img_size"] == 40
    assert evaluated("--img-size", 40, "--eval-size", 64)["img_size"] == 64

    image = next(data.glob("val/*/*.png"))
    assert cli("predict", image, "--name", "a", "--json") == 0, cli.err
    used = json.loads(cli.out)
    assert (used["img_size"], used["resize"]) == (48, 55)
    assert cli("predict", image, "--name", "a", "--json", "--img-size", 40) == 0, cli.err
    assert json.loads(cli.out)["img_size"] == 40

    assert cli("export", "--name", "a", "--format", "state-dict") == 0, cli.err
    (beside,) = Path("exports/a").glob("*.json")
    said = json.loads(beside.read_text())
    assert said["input"]["shape"] == ["batch", 3, 48, 48]
    assert said["preprocessing"]["center_crop"] == 48


@pytest.mark.parametrize("arch", ["vit_b_16", "maxvit_t"])
def test_a_network_of_one_size_is_held_to_it_with_the_cure(arch):
    model = ModelConfig(arch=arch)
    check_img_size(model, DataConfig(eval_size=224))
    with pytest.raises(ConfigError, match=r"--eval-size 256: .* evaluate at --img-size 224"):
        check_img_size(model, DataConfig(eval_size=256))
    with pytest.raises(ConfigError, match=rf"--progressive 160:224: {arch} .* another --arch"):
        check_img_size(model, DataConfig(progressive="160:224"))


@pytest.mark.parametrize("command", ["train", "find-lr"])
def test_a_network_of_one_size_ends_the_command(data, cli, command):
    options = ("--data-root", "data", "--arch", "vit_b_16", "--batch-size", 12)
    assert cli(command, *options, "--eval-size", 256) == 2
    assert cli.says("--eval-size 256: vit_b_16 takes images of one size only")
