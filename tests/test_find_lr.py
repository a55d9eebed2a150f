import json
import shlex
from pathlib import Path

import pytest
from PIL import Image

from imgnet_mini.config import RunConfig

SMALL = (
    *("--data-root", "data", "--arch", "shufflenet_v2_x0_5", "--img-size", 32),
    *("--batch-size", 12, "--workers", 0),
)

FAR = ("--start-lr", 1e-4, "--end-lr", 50)
"""Rates between which the loss falls and rises."""


def result():
    (path,) = Path("lr_finder_plots").glob("*.json")
    return json.loads(path.read_text("utf-8"))


def test_it_saves_plot_curve_and_suggestions_and_the_line_to_paste_works(data, cli):
    code = cli("find-lr", *SMALL, "--name", "a", *FAR, "--num-iter", 60)
    assert code == 0, cli.err
    saved = result()
    assert saved["name"] == "a"
    assert saved["suggestions"].keys() == {"steepest", "valley", "minimum_over_10"}
    assert saved["lr"] == saved["suggestions"][saved["recommended"]]
    with Image.open(Path("lr_finder_plots") / saved["plot"]) as plot:
        assert plot.width > 600
    rows = (Path("lr_finder_plots") / saved["curve"]).read_text().splitlines()
    assert rows[0] == "lr,loss,smoothed"
    assert len(rows) == saved["steps"] + 1

    line = next(line for line in cli.out.splitlines() if "imgnet-mini train --max-lr" in line)
    command = shlex.split(line)
    assert cli(*command[1:], "--epochs", 2) == 0, cli.err
    trained = RunConfig.read(Path("out/a/config.toml"))
    assert trained.schedule.max_lr == pytest.approx(saved["lr"], rel=0.01)
    assert trained.data.batch_size == 12
    assert trained.model.arch == "shufflenet_v2_x0_5"


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["--num-iter", 5], 2),
        (["--start-lr", 1e-12, "--end-lr", 1e-11, "--num-iter", 30], 2),
        (["--no-amp", "--clip-norm", 1e-9, *FAR, "--num-iter", 60], 2),
        (["--start-lr", 1e10, "--end-lr", 1e30, "--num-iter", 40], 7),
    ],
    ids=["too-short", "never-falls", "clipped-away", "not-finite"],
)
def test_a_curve_that_suggests_nothing_says_so_and_is_kept(data, cli, arguments, code):
    assert cli("find-lr", *SMALL, *arguments) == code
    saved = result()
    assert saved["lr"] is None
    assert cli.says(saved["problem"])
    assert (Path("lr_finder_plots") / saved["plot"]).exists()
    assert "train --max-lr" not in cli.out


def test_bounds_the_wrong_way_round_are_refused(data, cli):
    assert cli("find-lr", *SMALL, "--start-lr", 1, "--end-lr", 0.1) == 2
    assert cli.says("end_lr (0.1) must be above start_lr (1.0)")


def test_the_test_is_made_with_the_optimizer_of_training_and_its_line_keeps_all_of_it(data, cli):
    extra = ("--no-norm-decay", "--clip-norm", 1000, "--ema", 0.9)
    assert cli("find-lr", *SMALL, *FAR, "--num-iter", 60, *extra) == 0, cli.err
    saved = result()
    asked = {"nesterov": False, "norm_decay": False, "clip_norm": 1000, "zero_init": False}
    assert saved["settings"].items() >= asked.items()
    line = next(line for line in cli.out.splitlines() if "imgnet-mini train --max-lr" in line)
    for option in ("--no-norm-decay", "--clip-norm 1000.0", "--ema 0.9"):
        assert option in line
