"""Runs that an earlier version has started are resumed, or refused by its name."""

import lzma
from pathlib import Path

import pytest
import torch

from helpers.checkpoints import content_at
from helpers.stops import stop_at
from imgnet_mini.checkpoint.load import read_run, read_weights
from imgnet_mini.data.folder import fingerprint
from imgnet_mini.data.tree import find_splits
from imgnet_mini.errors import CheckpointError
from imgnet_mini.runs.records import read_csv

FORMAT_1 = Path(__file__).parent / "fixtures/checkpoint-format-1.pth.xz"
"""A run of `SMALL` in format 1, stopped at step 6, with all settings that were renamed since. To
keep the file short, the values of each tensor of its model and optimizer were replaced by their
mean."""

CHECKPOINT = Path("checkpoints/old/checkpoint.pth")


def save(content):
    CHECKPOINT.parent.mkdir(parents=True, exist_ok=True)
    torch.save(content, CHECKPOINT)


@pytest.fixture
def format_1(data):
    CHECKPOINT.parent.mkdir(parents=True)
    CHECKPOINT.write_bytes(lzma.decompress(FORMAT_1.read_bytes()))
    content = torch.load(CHECKPOINT, weights_only=True)
    # Another version of Pillow may write the images with other sizes.
    return content | {"images": fingerprint(*find_splits(data))}


def test_a_checkpoint_of_format_1_is_read_in_the_terms_of_today(format_1):
    save(format_1)
    checkpoint = read_run(CHECKPOINT)
    assert checkpoint.format == 2
    assert checkpoint.state.lr == format_1["state"]["rate"] > 0
    assert checkpoint.environment.world_size == format_1["environment"]["ranks"] == 1
    content = checkpoint.to_dict()
    for part in ("model", "ema", "rng"):
        torch.testing.assert_close(content[part], format_1[part], rtol=0, atol=0)
    ours, theirs = (one["optimizer"] for one in (content, format_1))
    torch.testing.assert_close(ours["state"], theirs["state"], rtol=0, atol=0)
    assert ours["param_groups"] == theirs["param_groups"]
    assert content["records"] == format_1["records"]
    assert read_weights(CHECKPOINT).weights.finished_epoch == 0


def test_a_run_of_format_1_is_resumed_with_its_settings_under_their_names_of_today(format_1, cli):
    save(format_1)
    assert cli("resume", "--name", "old") == 0, cli.err
    assert "Resuming old at step 6 of 12 (epoch 1 of 3, batch 2 of 4)" in cli.out
    records = read_csv(Path("out/old/train_log.csv"))
    assert [(record.epoch, record.phase) for record in records] == [
        (epoch, phase) for epoch in range(3) for phase in ("train", "val", "ema")
    ]
    assert records[0].loss == format_1["records"][0]["loss"]
    config = torch.load(CHECKPOINT, weights_only=True)["config"]
    assert config["optimizer"]["optimizer"] == "sgd"
    assert config["optimizer"]["ema_decay"] == format_1["config"]["optimizer"]["ema"] == 0.9
    assert config["optimizer"]["clip_grad"] == format_1["config"]["optimizer"]["clip_norm"] == 1
    assert config["data"]["grad_accum_steps"] == format_1["config"]["data"]["accumulate"] == 2
    assert config["data"]["crop_scale_min"] == format_1["config"]["data"]["min_crop"] == 0.5


def to_format_1(content):
    """The inverse of the upgrade."""
    state, environment, config = content["state"], content["environment"], content["config"]
    state["rate"] = state.pop("lr")
    environment["ranks"] = environment.pop("world_size")
    optimizer, data = config["optimizer"], config["data"]
    for name in ("optimizer", "adam_beta1", "adam_beta2", "adam_eps", "muon_momentum"):
        del optimizer[name]
    optimizer["ema"], optimizer["clip_norm"] = optimizer.pop("ema_decay"), None
    del optimizer["clip_grad"]
    data["accumulate"] = data.pop("grad_accum_steps")
    data["min_crop"] = data.pop("crop_scale_min")
    return content | {"format": 1}


def test_a_run_resumed_from_format_1_ends_with_the_bits_of_one_never_stopped(
    run_small, cli, monkeypatch
):
    assert run_small("train", "--name", "whole") == 0
    stop_at(monkeypatch, 9)
    assert run_small("train", "--name", "old") == 130
    save(to_format_1(torch.load(CHECKPOINT, weights_only=True)))
    for path in (CHECKPOINT.with_name("manifest.json"), *CHECKPOINT.parent.glob("*-*.pth")):
        path.unlink()
    assert cli("resume", "--name", "old") == 0, cli.err
    ours, theirs = (
        torch.load(f"checkpoints/{name}/checkpoint.pth", weights_only=True)["model"]
        for name in ("old", "whole")
    )
    torch.testing.assert_close(ours, theirs, rtol=0, atol=0)


def test_a_run_of_0_1_0_is_refused_by_name_with_the_cure(cli):
    save(content_at(10) | {"format": 1, "train_fingerprint": "0" * 64})
    saved = CHECKPOINT.read_bytes()
    assert cli("resume", "--name", "old") == 6
    assert cli.says(
        "saved by version 0.1.0, whose runs cannot be resumed: finish the run with that"
    )
    assert cli.says("or start it again with train --overwrite")
    assert CHECKPOINT.read_bytes() == saved


@pytest.mark.parametrize("table", ["state", "environment"])
def test_damaged_tables_of_format_1_are_named(format_1, table):
    save(format_1 | {table: None})
    with pytest.raises(CheckpointError, match=f"cannot be used: {table}: Input should be"):
        read_run(CHECKPOINT)
