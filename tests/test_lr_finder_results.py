import csv
import json
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from imgnet_mini.config.training_settings import ResolvedFinder
from imgnet_mini.errors import DataError, WriteError
from imgnet_mini.lr_finder.curve import build_curve
from imgnet_mini.lr_finder.results import latest_suggestion, save_result
from imgnet_mini.lr_finder.suggestions import METHOD_NAMES, explain, suggest
from imgnet_mini.lr_finder.trials import TrialRun, TrialRuns

NOW = datetime(2025, 1, 2, 3, 4, 5, 678, tzinfo=UTC)
STEP = np.arange(40)
WRONG_RATES = ('"0.1"', "NaN", "1" + "0" * 400, "-1", "0", "true")
WRONG_VALUES = (
    '"suggestions": []',
    '"suggestions": {"valley": true}',
    '"regions": {"flat": [1, "x"]}',
    '"regions": {"flat": [1]}',
    '"num_iter": 1.5',
    '"trials": {"steps": 2, "runs": [{"peak_lr": 0.1, "loss": "low"}]}',
)


def result_of(losses, stopped="end", **changes):
    lrs = np.geomspace(1e-7, 1, 40)[: len(losses)]
    curve = build_curve(lrs, losses, stopped, num_iter=40)
    result = SimpleNamespace(
        name="a",
        finder=ResolvedFinder(start_lr=1e-7, end_lr=1.0, num_iter=40),
        curve=curve,
        suggestions=suggest(curve),
        settings={"arch": "resnet18", "batch_size": 64, "data_root": "bilder/ä"},
        command=("imgnet-mini", "find-lr", "--num-iter", "40"),
        options=" --name a",
    )
    return SimpleNamespace(**vars(result) | changes)


def save(result, folder, time):
    return save_result(folder, time, **vars(result))


@pytest.fixture
def good():
    return result_of(6.9 - 1 / (1 + np.exp(-(STEP - 22) / 2)) + np.where(STEP > 32, STEP - 32, 0))


@pytest.fixture
def bad():
    return result_of([6.9, 6.8, np.nan], "nan")


def test_the_three_files_say_when_and_how(good, tmp_path):
    saved = save(good, tmp_path / "new", NOW)
    stem = "lr_finder_20250102-030405_start1e-07_end1_iter40"
    assert saved.path.with_suffix(".png") == tmp_path / "new" / f"{stem}.png"
    assert sorted(path.name for path in saved.path.parent.iterdir()) == [
        f"{stem}.csv",
        f"{stem}.json",
        f"{stem}.png",
    ]
    with Image.open(saved.path.with_suffix(".png")) as image:
        assert image.format == "PNG"


def test_the_json_holds_every_suggestion_and_how_it_was_made(good, tmp_path):
    saved = save(good, tmp_path, NOW)
    content = json.loads(saved.path.read_text("utf-8"))
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
            "ramp": found.ramp,
            "default": None,
            "turn": found.turn,
            "steepest": found.steepest,
            "valley": found.valley,
            "minimum_over_10": found.minimum_over_10,
        },
        "recommended": "ramp",
        "lr": found.ramp,
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
        "train_command": f"imgnet-mini train --max-lr {found.ramp:.3g} --name a",
        "plot": saved.plot,
        "curve": saved.curve,
    }
    assert b"\r" not in saved.path.read_bytes()


def test_the_json_of_a_problem_has_nulls_and_no_nan(bad, tmp_path):
    text = save(bad, tmp_path, NOW).path.read_text("utf-8")
    content = json.loads(text, parse_constant=pytest.fail)
    assert content["problem"] == bad.suggestions.problem
    assert content["lr"] is content["recommended"] is content["train_command"] is None
    assert content["suggestions"] == dict.fromkeys(METHOD_NAMES)
    assert content["regions"] == dict.fromkeys(("flat", "falling", "diverging"))
    assert content["steps"] == 3


def test_the_curve_reads_back_exactly(bad, tmp_path):
    path = save(bad, tmp_path, NOW).path.with_suffix(".csv")
    with path.open(encoding="utf-8", newline="") as file:
        header, *rows = csv.reader(file)
    assert header == ["lr", "loss", "smoothed"]
    columns = np.array(rows, dtype=float).T
    expected = (bad.curve.lrs, bad.curve.losses, bad.curve.smoothed)
    np.testing.assert_array_equal(columns, np.array(expected))


def test_an_earlier_result_is_never_overwritten(good, tmp_path):
    first, second, third = (save(good, tmp_path, NOW) for _ in range(3))
    assert second.path.name == "lr_finder_20250102-030405_start1e-07_end1_iter40_2.json"
    assert json.loads(second.path.read_text("utf-8"))["plot"] == second.plot
    assert len({first.plot, second.plot, third.plot}) == 3
    assert len(list(tmp_path.iterdir())) == 9


def test_a_folder_that_cannot_be_written_is_named(good, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(WriteError, match="file"):
        save(good, tmp_path / "file", NOW)


def test_the_newest_suggestion_of_the_run_is_found(good, bad, tmp_path):
    save(good, tmp_path, NOW)
    newest = save(good, tmp_path, NOW + timedelta(minutes=1))
    save(SimpleNamespace(**vars(good) | {"name": "b"}), tmp_path, NOW + timedelta(minutes=2))
    save(bad, tmp_path, NOW + timedelta(minutes=3))
    found = latest_suggestion(tmp_path, "a")
    assert found is not None
    assert found.path == newest.path
    assert found.lr == good.suggestions.ramp
    assert found.recommended == "ramp"
    assert found.settings == good.settings


def test_of_two_results_of_one_moment_the_later_is_taken(good, tmp_path):
    save(good, tmp_path, NOW)
    later = save(good, tmp_path, NOW)
    assert latest_suggestion(tmp_path, "a").path == later.path


def test_without_a_folder_or_a_result_there_is_none(good, tmp_path):
    assert latest_suggestion(tmp_path / "none", "a") is None
    save(good, tmp_path, NOW)
    assert latest_suggestion(tmp_path, "b") is None


def test_other_programs_files_are_not_looked_at(good, tmp_path):
    saved = save(good, tmp_path, NOW)
    (tmp_path / "notes.json").write_text("{")
    (tmp_path / ".lr_finder_1.json.tmp").write_text("{")
    assert latest_suggestion(tmp_path, "a").path == saved.path


def test_newest_compares_instants_and_not_the_text_of_the_clock(good, tmp_path):
    """Clocks go back in autumn, and laptops travel."""
    west, east = timezone(timedelta(hours=-7)), timezone(timedelta(hours=9))
    save(good, tmp_path, NOW.astimezone(east))
    newer = save(good, tmp_path, (NOW + timedelta(minutes=1)).astimezone(west))
    assert latest_suggestion(tmp_path, "a").path == newer.path
    assert json.loads(newer.path.read_text("utf-8"))["time"].endswith("-07:00")


def test_a_time_without_an_offset_is_local_time(tmp_path):
    write_json(tmp_path / "lr_finder_old.json", time="2025-01-02T03:04:05")
    time = latest_suggestion(tmp_path, "a").time
    assert time.tzinfo is not None
    assert time == datetime(2025, 1, 2, 3, 4, 5).astimezone()


@pytest.mark.parametrize(
    "text",
    [
        *("", "{", "[1]", "{}", "\xff", "[" * 100_000),
        *(f'{{"name": "a", "time": "2025-01-02T03:04:05Z", "lr": {lr}}}' for lr in WRONG_RATES),
        '{"name": "a", "lr": 0.1, "time": "yesterday"}',
        '{"time": "2025-01-02T03:04:05Z", "lr": 0.1}',
        *(
            f'{{"name": "a", "time": "2025-01-02T03:04:05Z", "lr": 0.1, {more}}}'
            for more in WRONG_VALUES
        ),
    ],
)
def test_a_damaged_result_is_named_with_the_cure(good, tmp_path, text):
    save(good, tmp_path, NOW)
    (tmp_path / "lr_finder_2.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(DataError, match=r"lr_finder_2\.json.*remove it, or run find-lr again"):
        latest_suggestion(tmp_path, "a")


def test_trials_are_kept_with_the_loss_of_each_step(good, tmp_path):
    trials = TrialRuns(2, (TrialRun(0.1, (6.9, 6.5)), TrialRun(0.2, (6.9, np.inf))))
    new = {"trials": trials, "suggestions": suggest(good.curve, trials)}
    result = SimpleNamespace(**vars(good) | new)
    saved = save(result, tmp_path, NOW)
    content = json.loads(saved.path.read_text("utf-8"), parse_constant=pytest.fail)
    assert content["trials"] == {
        "steps": 2,
        "runs": [{"peak_lr": 0.1, "loss": 6.5}, {"peak_lr": 0.2, "loss": None}],
        "losses": f"{saved.path.stem}_trials.csv",
    }
    losses = saved.path.with_name(content["trials"]["losses"])
    assert losses.read_text().splitlines() == [
        *("peak_lr,step,loss", "0.1,0,6.9", "0.1,1,6.5", "0.2,0,6.9", "0.2,1,inf")
    ]
    assert content["lr"] == latest_suggestion(tmp_path, "a").lr == 0.1
    assert content["recommended"] == latest_suggestion(tmp_path, "a").recommended == "trials"


def test_results_of_earlier_releases_are_read(tmp_path):
    example = Path(__file__).parent / "fixtures/lr_finder_plots"
    result = latest_suggestion(example, "tiny-imagenet-mini")
    assert result is not None
    assert result.recommended == "steepest"
    assert result.lr == result.suggestions["steepest"]
    assert (result.path.parent / result.curve).is_file()


def test_keys_that_a_result_lacks_are_none_or_empty(tmp_path):
    write_json(tmp_path / "lr_finder_old.json")
    result = latest_suggestion(tmp_path, "a")
    assert result.lr == 0.01
    assert result.suggestions == result.settings == {}
    assert result.plot is result.regions.flat is result.trials is None


def test_settings_are_read_by_their_former_names(tmp_path):
    write_json(tmp_path / "lr_finder_old.json", settings={"clip_norm": 1.0, "zero_init": True})
    settings = latest_suggestion(tmp_path, "a").settings
    assert settings == {"clip_grad": 1.0, "zero_init_residual": True}


def write_json(path, **changes):
    least = {"name": "a", "time": "2025-01-02T03:04:05+00:00", "lr": 0.01}
    path.write_text(json.dumps(least | changes))
