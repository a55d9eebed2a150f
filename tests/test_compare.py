"""Runs side by side, on the terminal and on a page."""

import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

from helpers.finished_runs import evaluation_result, log_run
from helpers.pages import WebPage
from imgnet_mini.reporting.comparison import compare_runs
from imgnet_mini.reporting.format import UNKNOWN
from imgnet_mini.reporting.run_view import read_run
from imgnet_mini.runs.paths import RunPaths
from imgnet_mini.runs.predictions import Predictions


@pytest.fixture(autouse=True)
def runs():
    log_run(Path(), "a", best=40.0)
    log_run(Path(), "b", best=60.0, epochs=2, settings={"data": {"batch_size": 32}})


def lines(text):
    """The rows of a table: title to cells."""
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in text.splitlines()]
    return {row[0]: row[1:] for row in rows if row}


def test_the_terminal_shows_results_and_only_settings_that_differ(cli):
    assert cli("compare", "a", "b") == 0, cli.err
    rows = lines(cli.out)
    assert rows["Best top-1"] == ["40.00 %", "60.00 %"]
    assert rows["Best top-5"] == ["80.00 %", "100.00 %"]
    assert rows["Epochs"] == ["4", "2"]
    assert rows["Training images/s"] == ["100.0", "100.0"]
    # 4 x (640 + 200) images and 2 x (640 + 200) images, 100 a second
    assert rows["Time"] == ["34 s", "17 s"]
    assert rows["batch_size"] == ["64", "32"]
    assert "label_smoothing" not in rows
    assert "everything on one page: reports/a+b/index.html" in cli.out


def test_a_run_with_ema_weights_is_compared_by_them(cli):
    log_run(Path(), "c", best=40.0, settings={"optimizer": {"ema_decay": 0.9999}}, ema=True)
    assert cli("compare", "a", "c") == 0, cli.err
    rows = lines(cli.out)
    assert rows["Best top-1"] == ["40.00 %", "40.00 %"]  # 30 + 10, in the last epoch but one
    assert rows["At epoch"] == ["3", "2"]
    assert rows["Final top-1"] == ["40.00 %", "1.00 %"]
    assert rows["ema_decay"] == ["0", "0.9999"]
    assert rows["Time"] == ["34 s", "42 s"]  # 4 x 200 images more
    page = WebPage(Path("reports/a+c/index.html"))
    assert page.open == []


def test_a_page_and_curves_are_written(cli):
    assert cli("compare", "b", "a") == 0, cli.err
    files = sorted(path.name for path in Path("reports/b+a").iterdir())
    assert files == ["accuracy_curve.png", "index.html", "loss_curve.png", "lr_curve.png"]
    page = Path("reports/b+a/index.html").read_text("utf-8")
    assert '<td class="n best">60.00 %</td>' in page
    assert page.count('<figure class="chart"') == 5
    assert "<a href" not in page


def test_a_run_with_a_page_of_its_own_is_linked(cli):
    page = Path("reports/a/index.html")
    page.parent.mkdir(parents=True)
    page.touch()
    assert cli("compare", "a", "b") == 0, cli.err
    links = re.findall(r'href="(\.\.[^"]*)"', Path("reports/a+b/index.html").read_text("utf-8"))
    assert links == ["../a/index.html"]
    assert Path("reports/a+b", links[0]).resolve() == page.resolve()


def test_the_readme_has_the_same_rows(cli):
    assert cli("readme", "--name", "a", "--name", "b") == 0, cli.err
    table = [line for line in Path("README.md").read_text("utf-8").splitlines() if line[:1] == "|"]
    comparison = compare_runs([read_run(RunPaths(Path(), name), Path()) for name in "ab"])
    columns = [*comparison.settings, *comparison.results]
    header, _, first, second = table[:4]
    assert [cell.strip(" `") for cell in header.split("|")[2:-1]] == [
        column.title for column in columns
    ]
    for place, row in enumerate((first, second)):
        cells = [cell.strip(" *") for cell in row.split("|")[2:-1]]
        assert cells == [column.cells[place] for column in columns]


def test_more_runs_than_fit_are_shown_in_several_tables(cli):
    names = [f"{'long-' * 11}{number}" for number in range(9)]
    for number, name in enumerate(names):
        log_run(Path(), name, best=10.0 + number)
    assert cli("compare", *names) == 0, cli.err
    assert cli.out.count("Best top-1") == 3
    shares = re.findall(r"(\d\d\.00) %", "".join(re.findall("Best top-1.*", cli.out)))
    assert shares == [f"{10 + number}.00" for number in range(9)]
    (folder,) = Path("reports").iterdir()
    assert folder.name.startswith(f"{names[0]}+{names[1]}+")


def test_a_run_that_is_missing_is_named_with_those_there_are(cli):
    assert cli("compare", "a", "x", "y") == 2
    assert cli.says("no run x, y. Runs in")
    assert cli.says(": a, b. Give other names, or another folder with --output-dir")
    assert not Path("reports").exists()


def test_a_run_without_an_epoch_is_named_with_the_command_that_goes_on(cli):
    log = Path("out/b/train_log.csv")
    log.write_text(log.read_text().splitlines()[0] + "\n")
    assert cli("compare", "a", "b") == 6
    assert cli.says("no validated epoch yet: b; continue with")
    assert "\n  imgnet-mini resume --name b\n" in cli.err
    log.unlink()
    assert cli("compare", "a", "b") == 6


@pytest.mark.parametrize("names", [["a"], ["a", "a"], []])
def test_one_run_is_no_comparison(cli, names):
    assert cli("compare", *names) == 2


def test_a_name_cannot_lead_out_of_the_folder(cli):
    assert cli("compare", "a", "../b") == 2
    assert cli.says("a run name has 1 to 64")


def test_an_earlier_comparison_is_replaced_and_nothing_else(cli):
    assert cli("compare", "a", "b") == 0
    page = Path("reports/a+b/index.html")
    before = page.read_bytes()
    shutil.rmtree("out/b")
    log_run(Path(), "b", best=61.0)
    assert cli("compare", "a", "b") == 0
    assert page.read_bytes() != before
    page.write_text("mine")
    assert cli("compare", "a", "b") == 2
    assert cli.says("reports/a+b was not written by `imgnet-mini compare`")
    assert page.read_text() == "mine"
    page.unlink()
    assert cli("compare", "a", "b") == 2
    shutil.rmtree("reports/a+b")
    Path("reports/a+b").write_text("a file of mine")
    assert cli("compare", "a", "b") == 2
    Path("reports/a+b").unlink()
    Path("reports/a+b").mkdir()
    assert cli("compare", "a", "b") == 0


@pytest.mark.skipif(sys.platform == "win32", reason="links need a privilege there")
def test_a_link_out_of_the_folder_is_not_followed(cli, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    Path("reports").mkdir()
    Path("reports/a+b").symlink_to(tmp_path / "elsewhere")
    assert cli("compare", "a", "b") == 2
    assert cli.says("is a link out of reports")
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_a_diverged_run_is_compared_too(cli):
    log = Path("out/b/train_log.csv")
    log.write_text(re.sub(r",val,[^,]*,[^,]*", ",val,nan,nan", log.read_text()))
    assert cli("compare", "a", "b") == 0, cli.err
    assert lines(cli.out)["Best top-1"] == ["40.00 %", f"{UNKNOWN} %"]
    assert ">nan" not in Path("reports/a+b/index.html").read_text("utf-8").lower()


def evaluate_run(name, *, right=0.5, seed=0, **changes):
    """Write the evaluation of a run on 400 images, of which a share is right."""
    generator = np.random.default_rng(seed)
    classes = ("a", "b")
    targets = np.repeat([0, 1], 200)
    top = np.where(generator.random(400) < right, targets, 1 - targets)[:, None]
    images = [f"{classes[target]}/{number}.png" for number, target in enumerate(targets)]
    predictions = Predictions(images, classes, targets, top, np.ones(top.shape))
    paths = RunPaths(Path(), name)
    predictions.save(paths.predictions)
    result = evaluation_result(predictions).model_copy(update=changes)
    result.write(paths.metrics)
    return result.top1


def test_evaluated_runs_are_compared_image_by_image(cli):
    log_run(Path(), "c")
    top1 = {
        name: evaluate_run(name, right=right, seed=seed)
        for seed, (name, right) in enumerate([("a", 0.5), ("b", 0.8), ("c", 0.51)])
    }
    assert cli("compare", "a", "b", "c") == 0, cli.err
    assert "Top-1 on the same 400 images" in cli.out
    table = lines(cli.out.split("Top-1 on the same")[1])
    balanced = f"{top1['a']:.2f} %"  # of as many images of each class
    assert table["a"] == [f"{top1['a']:.2f} %", balanced, "", "", ""]
    for name, verdict in (("b", "more than noise"), ("c", "may be noise")):
        shown, balanced, difference, interval, said = table[name]
        assert shown == balanced == f"{top1[name]:.2f} %"
        assert difference == f"{top1[name] - top1['a']:+.2f} points"
        low, high = map(float, interval.split(" to "))
        assert low < top1[name] - top1["a"] < high
        assert said == verdict
    page = Path("reports/a+b+c/index.html").read_text("utf-8")
    assert f'<td class="n">{table["b"][2]}</td><td class="n">{table["b"][3]}</td>' in page
    assert WebPage(Path("reports/a+b+c/index.html")).open == []


def test_runs_that_are_not_evaluated_alike_are_named_with_the_cure(cli):
    evaluate_run("a")
    assert cli("compare", "a", "b") == 0, cli.err
    said = " ".join(cli.out.split())
    assert "b has no evaluation of its present weights; run imgnet-mini evaluate --name b" in said
    assert "on the same" not in said
    evaluate_run("b", views="ten-crop")
    assert cli("compare", "a", "b") == 0, cli.err
    said = " ".join(cli.out.split())
    assert "a was evaluated with center crop, and b with ten crops; evaluate both alike" in said
    evaluate_run("b")
    Path("checkpoints/b").mkdir(parents=True)
    Path("checkpoints/b/best.pth").write_bytes(b"trained on since")
    assert cli("compare", "a", "b") == 0, cli.err
    assert "b has no evaluation of its present weights" in " ".join(cli.out.split())
