import json
from pathlib import Path

import pytest
from sklearn.metrics import accuracy_score

from imgnet_mini.predictions import load_predictions

FILES = [
    "accuracy_curve.png", "class_accuracy.csv", "classification_report.txt", "confused_pairs.csv",
    "confusion_matrix.csv", "confusion_matrix.png", "loss_curve.png", "lr_curve.png",
    "metrics.json", "model_summary.txt", "network.png", "predictions.csv", "report.json",
    "samples.png",
]  # fmt: skip


@pytest.fixture
def trained(run_small, cli):
    assert run_small("train", "--name", "a", "--epochs", 2) == 0, cli.err


def test_a_report_needs_nothing_but_the_run(trained, cli):
    assert cli("report", "--name", "a", "--workers", 0) == 0, cli.err
    assert sorted(path.name for path in Path("reports/a").iterdir()) == FILES
    classes = tuple(json.loads(Path("reports/a/metrics.json").read_text())["classes"])
    predictions = load_predictions(Path("reports/a/predictions.csv"), classes)
    report = json.loads(Path("reports/a/report.json").read_text())
    assert report["accuracy"] == accuracy_score(predictions.targets, predictions.top[:, 0])
    assert "imgnet-mini readme --name a" in cli.out


def test_what_was_evaluated_last_is_reported_and_not_evaluated_again(trained, cli):
    assert cli("evaluate", "--name", "a", "--checkpoint", "last", "--tta") == 0
    before = Path("reports/a/metrics.json").read_bytes()
    assert cli("report", "--name", "a") == 0, cli.err
    assert Path("reports/a/metrics.json").read_bytes() == before
    assert "checkpoint.pth" in cli.out


def test_a_run_that_went_on_is_evaluated_anew(trained, run_small, cli):
    assert cli("report", "--name", "a", "--workers", 0) == 0
    before = json.loads(Path("reports/a/metrics.json").read_text())
    assert run_small("train", "--name", "a", "--overwrite", "--seed", 5) == 0
    assert cli("report", "--name", "a", "--workers", 0) == 0, cli.err
    after = json.loads(Path("reports/a/metrics.json").read_text())
    assert after["checkpoint_sha256"] != before["checkpoint_sha256"]


def test_without_a_run_it_names_train(cli):
    assert cli("report", "--name", "a") == 4
    assert cli.says("imgnet-mini train --name a")


def test_a_broken_metrics_file_is_named(trained, cli):
    Path("reports/a/metrics.json").write_text("{")
    assert cli("report", "--name", "a") == 4
    assert cli.says("reports/a/metrics.json cannot be read")
