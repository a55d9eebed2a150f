import json
from pathlib import Path

import pytest
from sklearn.metrics import accuracy_score

from imgnet_mini.runs.predictions import load_predictions

FILES = [
    "accuracy_curve.png", "class_accuracy.csv", "classification_report.txt", "confused_pairs.csv",
    "confusion_matrix.csv", "confusion_matrix.png", "index.html", "loss_curve.png",
    "lr_curve.png", "metrics.json", "model_summary.txt", "network.png", "predictions.csv",
    "report.json", "samples.png",
]  # fmt: skip


@pytest.fixture
def trained(data, copy_run):
    copy_run(data.parent, "--epochs", 2)


def test_a_report_needs_nothing_but_the_run(trained, cli):
    assert cli("report", "--name", "a", "--workers", 0) == 0, cli.err
    assert sorted(path.name for path in Path("reports/a").iterdir()) == FILES
    classes = tuple(json.loads(Path("reports/a/metrics.json").read_text())["classes"])
    predictions = load_predictions(Path("reports/a/predictions.csv"), classes)
    report = json.loads(Path("reports/a/report.json").read_text())
    assert report["accuracy"] == accuracy_score(predictions.targets, predictions.top[:, 0])
    assert "imgnet-mini readme --name a" in cli.out
    assert "everything on one page: reports/a/index.html" in cli.out


@pytest.mark.parametrize(
    ("flag", "words"),
    [
        ("--tta", ("with horizontal flip", "with horizontal flip")),
        ("--ten-crop", (", ten crops", ", ten crops")),
    ],
)
def test_what_was_evaluated_last_is_reported_and_not_evaluated_again(trained, cli, flag, words):
    assert cli("evaluate", "--name", "a", "--checkpoint", "last", flag) == 0
    before = Path("reports/a/metrics.json").read_bytes()
    assert cli("report", "--name", "a") == 0, cli.err
    assert Path("reports/a/metrics.json").read_bytes() == before
    assert "checkpoint.pth" in cli.out
    assert cli("readme", "--name", "a") == 0, cli.err
    pages = Path("README.md"), Path("reports/a/index.html")
    assert all(word in page.read_text("utf-8") for word, page in zip(words, pages, strict=True))


def test_new_checkpoints_are_evaluated_again(trained, run_small, cli):
    assert cli("report", "--name", "a", "--workers", 0) == 0
    before = json.loads(Path("reports/a/metrics.json").read_text())
    assert run_small("train", "--name", "a", "--overwrite", "--seed", 5) == 0
    assert cli("report", "--name", "a", "--workers", 0) == 0, cli.err
    after = json.loads(Path("reports/a/metrics.json").read_text())
    assert after["checkpoint_sha256"] != before["checkpoint_sha256"]


def test_without_a_run_it_names_the_file_the_runs_and_what_to_do(cli):
    assert cli("report", "--name", "a") == 4
    assert cli.says("there is no run a: out/a/train_log.csv does not exist. Runs in ")
    assert cli.says(": none. Give another --name or --output-dir, or train it first")


def test_a_broken_metrics_file_is_named(trained, cli):
    Path("reports/a/metrics.json").write_text("{")
    assert cli("report", "--name", "a") == 4
    assert cli.says("reports/a/metrics.json is not a JSON file")


@pytest.mark.parametrize("gone", ["some", "all"])
def test_missing_images_are_named_and_do_not_stop_the_report(trained, cli, gone):
    assert cli("evaluate", "--name", "a", "--workers", 0) == 0
    for path in sorted(Path("data/val").rglob("*.*"))[: 5 if gone == "some" else None]:
        path.unlink()
    assert cli("report", "--name", "a") == 0, cli.err
    count = 5 if gone == "some" else 9
    assert f"{count} of the 9 images shown cannot be read in data/val; give their folder" in cli.out
    page = Path("reports/a/index.html").read_text("utf-8")
    assert "Not readable: class_00/000.JPEG" in page
    assert ("data:image/jpeg" in page) == (gone == "some")


def test_the_page_tells_the_numbers_that_were_measured(trained, cli):
    assert cli("report", "--name", "a", "--workers", 0) == 0, cli.err
    page = Path("reports/a/index.html").read_text("utf-8")
    metrics = json.loads(Path("reports/a/metrics.json").read_text())
    for figure in (f"{metrics['top1']:.2f}", f"{metrics['top5']:.2f}", f"{metrics['loss']:.3f}"):
        assert f"<dd>{figure}" in page
    for row in Path("out/a/train_log.csv").read_text().splitlines()[1:]:
        assert f'<td class="n">{float(row.split(",")[2]):.4f}</td>' in page
    assert "No image file was skipped." in page
    assert "Learning-rate finder" not in page


def test_the_page_shows_the_curve_of_the_runs_range_test(trained, cli):
    Path("lr_finder_plots").mkdir()
    found = {
        "name": "a",
        "time": "2025-01-02T03:04:05",
        "lr": 0.01,
        "curve": "c.csv",
        "num_iter": 4,
    }
    Path("lr_finder_plots/lr_finder_1.json").write_text(json.dumps(found))
    curve = Path("lr_finder_plots/c.csv")
    curve.write_text("lr,loss,smoothed\n0.001,3,3\n0.01,2,2.5\n0.1,2.2,2.3\n1,inf,nan\n")
    assert cli("report", "--name", "a", "--workers", 0) == 0, cli.err
    page = Path("reports/a/index.html").read_text("utf-8")
    assert "0.01, suggested" in page
    curve.write_text("lr,loss,smoothed\n-1,3,3\n0.01,2,2.5\n")
    assert cli("report", "--name", "a") == 4
    assert cli.says("lr_finder_plots/c.csv is not a curve of find-lr")
    curve.unlink()
    assert cli("report", "--name", "a") == 0, cli.err
    assert "suggested</span>" not in Path("reports/a/index.html").read_text("utf-8")


def test_a_run_that_is_overwritten_has_no_page_of_the_old_one(trained, run_small, cli):
    assert cli("report", "--name", "a", "--workers", 0) == 0, cli.err
    assert run_small("train", "--name", "a", "--overwrite", "--epochs", 1) == 0
    assert not Path("reports/a/index.html").exists()
