import json

import pytest

from imgnet_mini.errors import DataError
from imgnet_mini.runs.results import EvaluationResult, RunEnvironment
from imgnet_mini.utils.json_file import JsonModel, Text

RESULT = {
    "loss": 2.5, "top1": 41.5, "balanced_top1": 40.5, "top5": 70, "images": 8,
    "imgs_per_sec": 300.0, "checkpoint": "best.pth", "checkpoint_sha256": "0" * 64, "epoch": None,
    "arch": "resnet50", "img_size": 224, "fit": "crop", "resize": 256, "views": "center",
    "precision": "fp32", "device": "CPU", "torch": "2.15.0", "classes": ["a", "caf\udce9"],
    "center": None,
}  # fmt: skip


class Thing(JsonModel):
    name: Text
    size: int
    share: float | None = None


def read(path, text):
    path.write_bytes(text)
    return Thing.read(path)


def test_what_is_written_is_read_back(tmp_path):
    written = Thing(name="caf\udce9\n", size=3, share=0.1)
    written.write(tmp_path / "t.json")
    assert Thing.read(tmp_path / "t.json") == written


def test_unknown_fields_are_ignored(tmp_path):
    assert read(tmp_path / "t.json", b'{"name": "a", "size": 1, "new": []}').size == 1


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (b"{", "is not a JSON file"),
        (b"\xff", "is not a JSON file"),
        (b"[" * 100_000, "is not a JSON file"),
        (b"[1]", "it should hold one JSON object"),
        (b'{"name": "a"}', "size: Field required"),
        (b'{"name": "a", "size": "3"}', "size: Input should be a valid integer (got '3')"),
        (b'{"name": "a", "size": true}', "size: Input should be a valid integer (got True)"),
        (b'{"name": "a", "size": 1.5}', "size: Input should be a valid integer (got 1.5)"),
        (b'{"name": 7, "size": 1}', "name: Input should be an instance of str (got 7)"),
        (b'{"name": "a", "size": 1, "share": 1' + b"0" * 400 + b"}", "share: "),
    ],
)
def test_a_damaged_file_is_an_error_that_names_file_field_and_cure(tmp_path, text, problem):
    with pytest.raises(DataError) as caught:
        read(tmp_path / "t.json", text)
    message = str(caught.value)
    assert message.startswith(str(tmp_path / "t.json"))
    assert problem in message
    assert message.endswith("; remove it or make it again")
    assert len(message) < len(str(tmp_path)) + 200


def test_a_missing_file_is_named(tmp_path):
    assert Thing.read_if_exists(tmp_path / "t.json") is None
    with pytest.raises(DataError, match=r"cannot read .*t\.json: No such file"):
        Thing.read(tmp_path / "t.json")


def test_an_evaluation_result_reads_back_with_names_that_are_not_utf_8(tmp_path):
    (tmp_path / "metrics.json").write_text(json.dumps(RESULT))
    result = EvaluationResult.read(tmp_path / "metrics.json")
    result.write(tmp_path / "again.json")
    assert json.loads((tmp_path / "again.json").read_bytes()) == RESULT
    assert EvaluationResult.read(tmp_path / "again.json") == result


@pytest.mark.parametrize(
    ("former", "views"),
    [
        ({"views": "centre"}, "center"),
        ({"views": "mirror"}, "hflip"),
        ({"views": "ten-crop"}, "ten-crop"),
        ({"tta": False}, "center"),
        ({"tta": True}, "hflip"),
    ],
)
def test_views_of_earlier_versions_are_read(tmp_path, former, views):
    values = {name: value for name, value in RESULT.items() if name != "views"} | former
    (tmp_path / "metrics.json").write_text(json.dumps(values))
    assert EvaluationResult.read(tmp_path / "metrics.json").views == views


def test_a_damaged_evaluation_result_names_the_command_that_writes_it(tmp_path):
    (tmp_path / "metrics.json").write_text(json.dumps(RESULT | {"views": "five"}))
    with pytest.raises(DataError, match=r"metrics\.json: views: .*`imgnet-mini evaluate` writes"):
        EvaluationResult.read(tmp_path / "metrics.json")


def test_an_environment_of_an_earlier_version_lacks_what_came_later(tmp_path):
    (tmp_path / "environment.json").write_text('{"torch": "2.15.0", "command": ["a"]}')
    environment = RunEnvironment.read(tmp_path / "environment.json")
    assert environment.torch == "2.15.0"
    assert (environment.device, environment.skipped, environment.command) == (None, (), ("a",))
