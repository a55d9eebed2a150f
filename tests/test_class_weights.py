import json
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import balanced_accuracy_score
from sklearn.utils.class_weight import compute_class_weight
from torch.nn import functional as F

from helpers.events import read_events
from helpers.finished_runs import log_run
from helpers.outcomes import differences, outcome
from helpers.stops import stop_at
from imgnet_mini.config.training_settings import OptimizerConfig
from imgnet_mini.data.folder import ImageFolder
from imgnet_mini.errors import ConfigError
from imgnet_mini.reporting.run_view import read_run
from imgnet_mini.runs.predictions import load_predictions
from imgnet_mini.training.class_weights import resolve_class_weights
from imgnet_mini.training.optim import build_loss

COUNTS = (12, 3, 6)
WEIGHTS = torch.tensor([0.5, 2.5, 1.25])


def images_of(counts=COUNTS, classes=("ant", "bee", "cat")):
    targets = np.repeat(np.arange(len(counts)), counts)
    return ImageFolder(Path("train"), classes, np.zeros(len(targets), "S1"), targets)


def loss_of(smoothing=0.0, weights=WEIGHTS):
    return build_loss(OptimizerConfig(label_smoothing=smoothing), weights)


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(8, 3, generator=generator, dtype=torch.float64)
    return logits, torch.tensor([0, 1, 2, 0, 1, 1, 2, 0])


@pytest.mark.parametrize("smoothing", [0, 0.1])
def test_the_loss_is_the_weighted_sum_over_the_number_of_images(batch, smoothing):
    logits, targets = batch
    losses = F.cross_entropy(logits, targets, label_smoothing=smoothing, reduction="none")
    expected = (WEIGHTS[targets] * losses).sum() / 8
    assert loss_of(smoothing)(logits, targets).item() == pytest.approx(expected.item())
    torchs = F.cross_entropy(logits, targets, WEIGHTS.double())  # over the sum of the weights
    if not smoothing:
        share = WEIGHTS[targets].mean().item()
        assert expected.item() == pytest.approx(torchs.item() * share)


@pytest.mark.parametrize("smoothing", [0, 0.1])
def test_one_hot_targets_give_the_loss_of_index_targets_and_mixed_ones_the_mean(batch, smoothing):
    logits, targets = batch
    loss = loss_of(smoothing)
    one_hot = F.one_hot(targets, 3).double()
    assert loss(logits, one_hot).item() == pytest.approx(loss(logits, targets).item())
    mixed = 0.3 * one_hot + 0.7 * one_hot.roll(1, 0)
    expected = 0.3 * loss(logits, targets) + 0.7 * loss(logits, targets.roll(1))
    assert loss(logits, mixed).item() == pytest.approx(expected.item())


@pytest.mark.parametrize("mixed", [False, True])
def test_micro_batches_and_ranks_give_the_gradient_of_the_whole_batch(batch, mixed):
    logits, targets = batch
    labels = F.one_hot(targets, 3).double() if mixed else targets
    whole, parts = (logits.clone().requires_grad_() for _ in range(2))
    loss = loss_of(0.1)
    loss(whole, labels).backward()
    for part in (slice(0, 2), slice(2, 4), slice(4, 6), slice(6, 8)):  # of unequal weight
        (loss(parts[part], labels[part]) / 4).backward()
    torch.testing.assert_close(parts.grad, whole.grad)


def test_balanced_weights_are_those_of_scikit_learn():
    images = images_of()
    expected = compute_class_weight("balanced", classes=np.arange(3), y=images.targets)
    assert resolve_class_weights("balanced", images) == pytest.approx(expected, rel=1e-6)
    assert resolve_class_weights(None, images) is None


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("w.csv", "class,weight\nbee,4\nant,1\ncat,2\n"),
        ("w.csv", "\ufeffcat,20\n\nbee,40\nant,10"),  # as Excel saves it
        ("w.JSON", '{"bee": 0.4, "cat": 0.2, "ant": 0.1}'),
    ],
)
def test_of_a_file_only_the_ratios_count(name, text):
    Path(name).write_text(text, "utf-8")
    weights = resolve_class_weights(name, images_of())
    assert weights == pytest.approx([21 / 36, 84 / 36, 42 / 36], rel=1e-6)
    assert np.average(weights, weights=COUNTS) == pytest.approx(1)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("w.csv", "ant,1\nbee,1\n", "has no weight for cat"),
        ("w.csv", "ant,1\nbee,1\ncat,1\ndog,1\n", "no class of the training images: dog"),
        ("w.csv", "ant,1\nbee,0\ncat,1\n", "weight of bee should be a number above 0: 0"),
        ("w.csv", "ant,1\nbee,-2\ncat,1\n", "should be a number above 0: -2"),
        ("w.csv", "ant,1\nbee,many\ncat,1\n", "should be a number above 0: many"),
        ("w.csv", "ant,1\nbee,inf\ncat,1\n", "should be a number above 0: inf"),
        ("w.csv", "ant,1\nant,2\nbee,1\ncat,1\n", "class ant is there twice"),
        ("w.csv", "ant;1\nbee;1\n", "line 1 should be the folder name of a class, a comma and"),
        ("w.csv", "ant,1\nbee,1e-60\ncat,1\n", "too far apart for float32"),
        ("w.csv", "", "has no weight for ant, bee, cat"),
        ("w.json", '{"ant": 1, "bee": null, "cat": 1}', "should be a number above 0: None"),
        ("w.json", '{"ant": 1, "bee": true, "cat": 1}', "should be a number above 0: True"),
        ("w.json", '{"ant": 1, "ant": 2}', "class ant is there twice"),
        ("w.json", "[1, 2, 3]", "should hold one JSON object"),
        ("w.json", "{", "Expecting property name"),
    ],
)
def test_bad_weights_are_refused_with_the_class_and_the_value(name, text, message):
    Path(name).write_text(text, "utf-8")
    with pytest.raises(ConfigError, match=message) as refused:
        resolve_class_weights(name, images_of())
    assert f"--class-weights {name}: " in str(refused.value)


def test_a_file_that_is_not_there_is_named_before_anything_is_written(run_small, cli):
    assert run_small("train", "--name", "a", "--class-weights", "no.csv") == 2
    assert cli.says("--class-weights no.csv: No such file or directory")
    assert not Path("checkpoints").exists()


@pytest.fixture
def uneven(data):
    """Of the 8 training images of a class, 2; of the 3 validation images of another, 1."""
    for path in sorted((data / "train" / "class_01").iterdir())[2:]:
        path.unlink()
    for path in sorted((data / "val" / "class_02").iterdir())[1:]:
        path.unlink()


def weights_in(name):
    content = torch.load(f"checkpoints/{name}/checkpoint.pth", weights_only=True)
    return content.get("class_weights")


def test_a_resumed_run_has_the_weights_it_was_started_with(uneven, run_small, cli, monkeypatch):
    Path("w.csv").write_text("class_00,1\nclass_01,3\nclass_02,2\n")
    flags = ("--class-weights", "w.csv", "--epochs", 2, "--mixup", 0.2)
    assert run_small("train", "--name", "a", *flags) == 0, cli.err
    assert "Class weights of w.csv: " in cli.out
    with monkeypatch.context() as patched:
        stop_at(patched, 3)
        assert run_small("train", "--name", "b", *flags) == 130
    Path("w.csv").unlink()
    assert run_small("train", "--name", "b", "--resume", "--class-weights", "balanced") == 2
    assert cli.says("--class-weights balanced: this run was started with w.csv")
    assert cli("resume", "--name", "b") == 0, cli.err
    assert weights_in("b") == pytest.approx([0.6, 1.8, 1.2])  # 8, 2 and 8 images
    assert differences(outcome(Path(), "a")["state"], outcome(Path(), "b")["state"]) == []


def test_balanced_top1_stands_beside_top1(uneven, run_small, cli):
    flags = ("--class-weights", "balanced", "--epochs", 1, "--max-lr", 0.05, "--pct-start", 0.5)
    assert run_small("train", "--name", "a", *flags) == 0, cli.err
    assert weights_in("a") == pytest.approx([0.75, 3, 0.75])
    assert cli("report", "--name", "a") == 0, cli.err
    predictions = load_predictions(
        Path("reports/a/predictions.csv"), ("class_00", "class_01", "class_02")
    )
    balanced = 100 * balanced_accuracy_score(predictions.targets, predictions.top[:, 0])
    metrics = json.loads(Path("reports/a/metrics.json").read_text())
    assert metrics["balanced_top1"] == pytest.approx(balanced)
    assert metrics["top1"] != pytest.approx(balanced)
    assert "balanced top-1 %" in cli.out
    text = f"{balanced:.2f}"
    assert f"balanced top-1 {text}%" in cli.out
    report = Path("reports/a/classification_report.txt").read_text()
    assert f"Balanced top-1, the mean recall: {text} %" in report
    page = Path("reports/a/index.html").read_text("utf-8")
    assert f"<dt>Balanced top-1</dt><dd>{text} " in page
    assert "Training losses are weighted by class" in page
    logged = read_events(Path("runs/a")).scalars["val/balanced_top1"]
    assert [value for _, value in logged] == pytest.approx([balanced], rel=0.3)
    assert cli("readme", "--name", "a") == 0, cli.err
    assert f"Balanced top-1, the mean of the classes, is {text} %" in Path("README.md").read_text()


def test_a_report_names_the_file_of_the_weights_without_its_folder():
    settings = {"optimizer": {"class_weights": "/home/me/secret/w.csv"}}
    paths = log_run(Path(), settings=settings)
    assert read_run(paths, Path()).settings["optimizer.class_weights"] == "w.csv"
