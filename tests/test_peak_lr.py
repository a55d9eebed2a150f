import json
import shlex
import shutil

import pytest

from imgnet_mini.config.run_config import RunConfig
from imgnet_mini.errors import ConfigError
from imgnet_mini.runs.paths import RunPaths
from imgnet_mini.training.peak_lr import find_max_lr, settings_of


@pytest.fixture
def resolve(tmp_path):
    """The rate of a run by `auto`, after a find-lr with other settings."""

    def at(settings=None, **sections):
        folder = tmp_path / "lr_finder_plots"
        folder.mkdir(exist_ok=True)
        found = {"name": "a", "lr": 0.05, "time": "2026-11-24T04:24:17+00:00"}
        if settings is not None:
            present = settings_of(RunConfig())
            for old, new in {"clip_norm": "clip_grad", "zero_init": "zero_init_residual"}.items():
                if old in settings:
                    del present[new]
            found["settings"] = present | settings
        (folder / "lr_finder_1.json").write_text(json.dumps(found))
        config = RunConfig().override({"schedule": {"max_lr": "auto"}} | sections)
        return find_max_lr(config, RunPaths(tmp_path, "a"))

    return at


def test_the_same_settings_pass_in_silence(resolve, capsys):
    assert resolve({}) == 0.05
    assert capsys.readouterr().out == ""


def test_a_result_that_does_not_tell_its_settings_is_taken(resolve, capsys):
    assert resolve(None, data={"batch_size": 8}) == 0.05
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"arch": "resnet18"}, "arch resnet18 instead of resnet50"),
        ({"batch_size": 256}, "batch_size 256 instead of 64"),
        ({"img_size": 64}, "img_size 64 instead of 224"),
    ],
)
def test_the_rate_of_another_network_batch_or_size_is_refused(resolve, settings, words):
    with pytest.raises(ConfigError, match=words) as refused:
        resolve(settings)
    assert "Run find-lr with the settings of this run" in str(refused.value)


def test_settings_saved_under_their_earlier_names_are_compared(resolve, capsys):
    assert resolve({"clip_norm": 1.5, "zero_init": True}) == 0.05
    printed = " ".join(capsys.readouterr().out.split())
    assert "clip_grad 1.5 instead of None; zero_init_residual True instead of False" in printed


@pytest.mark.parametrize(
    ("section", "name", "value"),
    [
        ("data", "crop_scale_min", 0.3),
        ("data", "flip", False),
        ("data", "grad_accum_steps", 2),
        ("data", "progressive", "0.5:1"),
        ("schedule", "pct_start", 0.1),
        ("schedule", "div_factor", 10.0),
    ],
)
def test_a_difference_that_the_range_test_would_see_is_said(resolve, capsys, section, name, value):
    change = {section: {name: value}}
    if section == "schedule":
        change[section]["max_lr"] = "auto"
    assert resolve({}, **change) == 0.05
    default = getattr(getattr(RunConfig(), section), name)
    assert f"{name} {default} instead of {value}" in " ".join(capsys.readouterr().out.split())


def test_other_images_are_said(run_small, cli, data):
    short = ["--trials", 0, "--num-iter", 30, "--end-lr", 10]
    assert run_small("find-lr", "--name", "a", *short) == 0, cli.err
    shutil.rmtree(data / "train" / "class_02")
    shutil.rmtree(data / "val" / "class_02")
    assert run_small("train", "--name", "a", "--max-lr", "auto", "--epochs", 3) == 0, cli.err
    assert "classes 3 instead of 2; train_images 24 instead of 16" in " ".join(cli.out.split())


def test_the_command_that_makes_a_suggestion_works_when_pasted(run_small, cli):
    assert run_small("train", "--name", "a", "--max-lr", "auto") == 2
    command = shlex.split(cli.err.splitlines()[-1])
    assert command[:2] == ["imgnet-mini", "find-lr"]
    assert cli(*command[1:], "--trials", 0, "--num-iter", 30, "--end-lr", 10) == 0, cli.err


def test_other_differences_are_said(resolve, capsys):
    assert resolve({"weight_decay": 5e-4, "data_root": "elsewhere"}) == 0.05
    said = " ".join(capsys.readouterr().out.split())
    assert "weight_decay 0.0005 instead of 0.0001" in said
    assert "data_root elsewhere instead of data/imagenet-mini" in said
