import copy

import pytest
import torch

from helpers.checkpoints import best_at, checkpoint_at, content_at
from imgnet_mini.checkpoint.load import read_run
from imgnet_mini.checkpoint.schema import FORMAT, RunCheckpoint, check_weights
from imgnet_mini.errors import CheckpointError

NAN, INF = float("nan"), float("inf")
RECORD = {"epoch": 0, "phase": "train", "loss": 1.0, "top1": 1.0, "top5": 2.0, "lr": 0.1}
RECORD |= {"imgs_per_sec": 3.0}

WRONG = [
    (("model",), [1]),
    (("model", "weight"), 1.0),
    (("model", "weight"), torch.tensor([1.0, NAN])),
    (("optimizer",), {}),
    (("optimizer", "state"), []),
    (("optimizer", "state"), {0: {"momentum_buffer": 3}}),
    (("optimizer", "param_groups"), []),
    (("optimizer", "param_groups", 0, "lr"), "0.1"),
    (("optimizer", "param_groups", 0, "max_lr"), NAN),
    (("scheduler",), None),
    (("scheduler",), {"total_steps": 100}),
    (("scheduler", "total_steps"), "100"),
    (("scheduler", "total_steps"), 0),
    (("scheduler", "last_epoch"), 500),
    (("scheduler", "last_epoch"), 2),
    (("scheduler", "last_epoch"), "10"),
    (("optimizer", "param_groups", 0, "weight_decay"), [0.1]),
    (("scaler",), 5),
    (("scaler",), {"scale": "65536"}),
    (("scaler",), {"scales": 65536.0}),
    (("scaler",), {"scale": -1}),
    (("state", "step"), -1),
    (("state", "step"), "12"),
    (("state", "epoch"), 1.5),
    (("state", "loss_sum"), INF),
    (("state", "best_top1"), 101.0),
    (("state", "best_top1"), 50.0),
    (("state", "best_epoch"), 7),
    (("state", "best_epoch"), 0),
    (("state", "epoch"), 2),
    (("state", "epoch"), 10**12),
    (("state", "mood"), 1),
    (("rng",), {"gpu": torch.ones(1)}),
    (("rng", "cpu"), b"123"),
    (("config",), "resnet50"),
    (("classes",), []),
    (("classes",), ["a" * 256]),
    (("classes",), ["a", 5]),
    (("images",), "abc"),
    (("skipped",), ["a.jpg"]),
    (("pack",), "../../x"),
    (("environment",), {"threads": 1}),
    (("environment", "threads"), [1]),
    (("environment", "world_size"), 0),
    (("records",), [RECORD | {"loss": NAN}]),
    (("records",), [RECORD | {"phase": "test"}]),
    (("records",), [{"epoch": 0}]),
    (("records",), []),
    (("records",), [RECORD, RECORD | {"phase": "val", "mood": 1}]),
    (("records",), [RECORD, RECORD]),
    (("records",), [RECORD | {"epoch": 5}, RECORD | {"epoch": 5, "phase": "val"}]),
]


def put(content, place, value):
    for key in place[:-1]:
        content = content[key]
    content[place[-1]] = value


def test_what_a_run_saves_is_right(tmp_path):
    for step in (0, 10, 25):
        content = checkpoint_at(step).to_dict()
        assert RunCheckpoint.read(content, tmp_path).to_dict() == content
    assert check_weights(best_at(10).to_dict(), tmp_path)
    assert check_weights({"model": {"weight": torch.ones(2)}}, tmp_path)


@pytest.mark.parametrize(("place", "value"), WRONG, ids=lambda value: str(value)[:40])
def test_a_wrong_field_is_refused_by_its_name(tmp_path, place, value):
    content = copy.deepcopy(content_at(10))
    put(content, place, value)
    with pytest.raises(CheckpointError) as error:
        RunCheckpoint.read(content, tmp_path / "x.pth")
    assert "x.pth cannot be used: " in str(error.value)
    names = {str(place[0])}
    if isinstance(value, torch.Tensor) and value.isnan().any():
        names = {"not finite"}
    elif place == ("state", "epoch"):
        names.add("records")  # which contradict it
    assert any(name in str(error.value) for name in names)


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ({"epoch": 0, "step": 77, "batch": 77}, "state.batch: 77, and an epoch has 10 steps"),
        ({"epoch": 1, "step": 900, "batch": 3}, "state.step: 900, after 1 epochs of 10 steps"),
        ({"epoch": 2, "step": 13, "batch": 3}, "state.step: 13, after 2 epochs of 10 steps"),
    ],
)
def test_a_place_that_is_none_is_refused(tmp_path, place, message):
    checkpoint = checkpoint_at(13)
    checkpoint.check_position(tmp_path, steps=10)
    for name, value in place.items():
        setattr(checkpoint.state, name, value)
    with pytest.raises(CheckpointError, match=message):
        checkpoint.check_position(tmp_path, steps=10)


@pytest.mark.parametrize("missing", ["model", "optimizer", "state", "rng", "classes", "images"])
def test_a_missing_field_is_named(tmp_path, missing):
    content = content_at(10)
    del content[missing]
    with pytest.raises(CheckpointError, match=missing):
        RunCheckpoint.read(content, tmp_path / "x.pth")


def test_a_momentum_that_is_not_finite_is_refused(tmp_path):
    content = content_at(10)
    content["optimizer"]["state"][0]["momentum_buffer"][0] = INF
    with pytest.raises(CheckpointError, match="optimizer tensors that are not finite"):
        RunCheckpoint.read(content, tmp_path / "x.pth")


@pytest.mark.parametrize(
    "saved",
    [{"model": {}}, {"format": FORMAT + 1, "model": {}}, {"format": "1", "model": {}}, {}],
)
def test_a_dictionary_of_another_tool_or_version_is_no_checkpoint_of_ours(tmp_path, saved):
    torch.save(saved, tmp_path / "x.pth")
    with pytest.raises(CheckpointError, match=rf"format .*this version reads {FORMAT}"):
        read_run(tmp_path / "x.pth")


@pytest.mark.parametrize(
    ("place", "value", "says"),
    [
        (("ema",), [1], "ema: Input should be a valid dictionary"),
        (("ema", "weight"), 1.0, "ema.weight: "),
        (("ema", "weight"), torch.ones(3, 7), "ema: its weights are not those of the network"),
        (("ema", "weight"), torch.ones(3, 8).double(), "ema: its weights are not those of the net"),
        (("ema", "more"), torch.ones(1), "ema: its weights are not those of the network in model"),
        (("ema",), {}, "ema: its weights are not those of the network in model"),
        (("ema", "weight"), torch.full((3, 8), NAN), "averaged weights that are not finite"),
        (("ema",), None, "records: they are not those of 1 epochs"),
        (("records",), [RECORD, RECORD | {"phase": "val"}], "records: they are not those of 1"),
    ],
)
def test_damaged_averages_are_refused(tmp_path, place, value, says):
    content = copy.deepcopy(content_at(10, ema=0.9))
    RunCheckpoint.read(content, tmp_path)
    put(content, place, value)
    with pytest.raises(CheckpointError, match=f"x.pth cannot be used: .*{says}"):
        RunCheckpoint.read(content, tmp_path / "x.pth")


def test_records_of_averages_without_any_are_refused(tmp_path):
    content = content_at(10)
    content["records"].append(RECORD | {"phase": "ema"})
    with pytest.raises(CheckpointError, match="records: they are not those of 1 epochs"):
        RunCheckpoint.read(content, tmp_path / "x.pth")
