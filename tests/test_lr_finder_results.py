import csv
import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from PIL import Image

from imgnet_mini.config.settings import FinderConfig
from imgnet_mini.errors import DataError, WriteError
from imgnet_mini.lr_finder.curve import build_curve
from imgnet_mini.lr_finder.results import FinderResult, latest_suggestion, save_result
from imgnet_mini.lr_finder.suggestions import METHOD_NAMES, explain, suggest
from imgnet_mini.lr_finder.trials import Trial, Trials

NOW = datetime(2025, 1, 2, 3, 4, 5, 678, tzinfo=UTC)
STEP = np.arange(40)


def result_of(losses, stopped="end", **changes):
    lrs = np.geomspace(1e-7, 1, 40)[: len(losses)]
    curve = build_curve(lrs, losses, stopped, num_iter=40)
    result = FinderResult(
        name="a",
        finder=FinderConfig(num_iter=40),
        curve=curve,
        suggestions=suggest(curve),
        settings={"arch": "resnet18", "batch_size": 64, "data_root": "bilder/ä"},
        command=("imgnet-mini", "find-lr", "--num-iter", "40"),
        options=" --name a",
    )
    return replace(result, **changes)


@pytest.fixture
def good():
    return result_of(6.9 - 1 / (1 + np.exp(-(STEP - 22) / 2)) + np.where(STEP > 32, STEP - 32, 0))


@pytest.fixture
def bad():
    return result_of([6.9, 6.8, np.nan], "nan")


def test_the_three_files_say_when_and_how(good, tmp_path):
    paths = save_result(good, tmp_path / "new", NOW)
    stem = "lr_finder_20250102-030405_start1e-07_end1_iter40"
    assert paths.plot == tmp_path / "new" / f"{stem}.png"
    assert sorted(path.name for path in paths.plot.parent.iterdir()) == [
        f"{stem}.csv",
        f"{stem}.json",
        f"{stem}.png",
    ]
    with Image.open(paths.plot) as image:
        assert image.format == "PNG"


def test_the_json_holds_every_suggestion_and_how_it_was_made(good, tmp_path):
    paths = save_result(good, tmp_path, NOW)
    content = json.loads(paths.json.read_text("utf-8"))
    found = good.suggestions
    assert content == {
        "name": "a",
        "time": "2025-01-02T03:04:05.000678+00:00",
        "start_lr": 1e-7,
        "end_lr": 1.0,
        "num_iter": 40,
        "steps": 40,
        "stopped": "end",
        "suggestions": {
            "trials": None,
            "default": None,
            "turn": found.turn,
            "steepest": found.steepest,
            "valley": found.valley,
            "minimum_over_10": found.minimum_over_10,
        },
        "recommended": "turn",
        "lr": found.turn,
        "training_steps": 0,
        "reason": explain(found, None),
        "trials": None,
        "problem": None,
        "regions": {
            "flat": list(found.regions.flat),
            "falling": list(found.regions.falling),
            "diverging": list(found.regions.diverging),
        },
        "settings": good.settings,
        "command": ["imgnet-mini", "find-lr", "--num-iter", "40"],
        "train_command": f"imgnet-mini train --max-lr {found.turn:.3g} --name a",
        "plot": paths.plot.name,
        "curve": paths.curve.name,
    }
    assert b"\r" not in paths.json.read_bytes()


def test_the_json_of_a_problem_has_nulls_and_no_nan(bad, tmp_path):
    text = save_result(bad, tmp_path, NOW).json.read_text("utf-8")
    content = json.loads(text, parse_constant=pytest.fail)
    assert content["problem"] == bad.suggestions.problem
    assert content["lr"] is content["recommended"] is content["train_command"] is None
    assert content["suggestions"] == dict.fromkeys(METHOD_NAMES)
    assert content["regions"] == dict.fromkeys(("flat", "falling", "diverging"))
    assert content["steps"] == 3


def test_the_curve_reads_back_exactly(bad, tmp_path):
    path = save_result(bad, tmp_path, NOW).curve
    with path.open(encoding="utf-8", newline="") as file:
        header, *rows = csv.reader(file)
    assert header == ["lr", "loss", "smoothed"]
    columns = np.array(rows, dtype=float).T
    expected = (bad.curve.lrs, bad.curve.losses, bad.curve.smoothed)
    np.testing.assert_array_equal(columns, np.array(expected))


def test_an_earlier_result_is_never_overwritten(good, tmp_path):
    first, second, third = (save_result(good, tmp_path, NOW) for _ in range(3))
    assert second.json.name == "lr_finder_20250102-030405_start1e-07_end1_iter40_2.json"
    assert json.loads(second.json.read_text("utf-8"))["plot"] == second.plot.name
    assert len({first.plot, second.plot, third.plot}) == 3
    assert len(list(tmp_path.iterdir())) == 9


def test_a_folder_that_cannot_be_written_is_named(good, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(WriteError, match="file"):
        save_result(good, tmp_path / "file", NOW)


def test_the_newest_suggestion_of_the_run_is_found(good, bad, tmp_path):
    save_result(good, tmp_path, NOW)
    newest = save_result(good, tmp_path, NOW + timedelta(minutes=1))
    save_result(replace(good, name="b"), tmp_path, NOW + timedelta(minutes=2))
    save_result(bad, tmp_path, NOW + timedelta(minutes=3))
    found = latest_suggestion(tmp_path, "a")
    assert found is not None
    assert found.path == newest.json
    assert found.lr == good.suggestions.turn
    assert found.method == "turn"
    assert found.settings == good.settings


def test_of_two_results_of_one_moment_the_later_is_taken(good, tmp_path):
    save_result(good, tmp_path, NOW)
    later = save_result(good, tmp_path, NOW)
    assert latest_suggestion(tmp_path, "a").path == later.json


def test_without_a_folder_or_a_result_there_is_none(good, tmp_path):
    assert latest_suggestion(tmp_path / "none", "a") is None
    save_result(good, tmp_path, NOW)
    assert latest_suggestion(tmp_path, "b") is None


def test_other_programs_files_are_not_looked_at(good, tmp_path):
    saved = save_result(good, tmp_path, NOW)
    (tmp_path / "notes.json").write_text("{")
    (tmp_path / ".lr_finder_1.json.tmp").write_text("{")
    assert latest_suggestion(tmp_path, "a").path == saved.json


@pytest.mark.parametrize(
    "text",
    ["", "{", "[1]", '{"lr": "0.1"}', '{"lr": NaN}', '{"lr": -1}', '{"lr": 0}', '{"lr": true}'],
)
def test_a_damaged_result_is_named(good, tmp_path, text):
    save_result(good, tmp_path, NOW)
    (tmp_path / "lr_finder_2.json").write_text(text)
    with pytest.raises(DataError, match=r"lr_finder_2\.json"):
        latest_suggestion(tmp_path, "a")


def test_trials_are_kept_with_the_loss_of_each_step(good, tmp_path):
    trials = Trials(2, (Trial(0.1, (6.9, 6.5)), Trial(0.2, (6.9, np.inf))))
    result = replace(good, trials=trials, suggestions=suggest(good.curve, trials))
    paths = save_result(result, tmp_path, NOW)
    content = json.loads(paths.json.read_text("utf-8"), parse_constant=pytest.fail)
    assert content["trials"] == {
        "steps": 2,
        "runs": [{"peak_lr": 0.1, "loss": 6.5}, {"peak_lr": 0.2, "loss": None}],
        "losses": paths.trials.name,
    }
    assert paths.trials.read_text().splitlines() == [
        *("peak_lr,step,loss", "0.1,0,6.9", "0.1,1,6.5", "0.2,0,6.9", "0.2,1,inf")
    ]
    assert content["lr"] == latest_suggestion(tmp_path, "a").lr == 0.1
    assert content["recommended"] == latest_suggestion(tmp_path, "a").method == "trials"


def test_results_of_earlier_releases_are_read(tmp_path):
    old = {"name": "a", "time": "2025", "lr": 0.01, "recommended": "steepest", "settings": {}}
    (tmp_path / "lr_finder_old.json").write_text(json.dumps(old))
    assert latest_suggestion(tmp_path, "a").lr == 0.01
