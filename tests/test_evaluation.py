from contextlib import closing
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.metrics import accuracy_score, log_loss, top_k_accuracy_score
from torchvision import transforms

from imgnet_mini.config.data_settings import DataConfig
from imgnet_mini.config.training_settings import ModelConfig
from imgnet_mini.data.loaders import build_eval_loader
from imgnet_mini.data.splits import ImageSplits
from imgnet_mini.data.transforms import TestTimeAugmentation
from imgnet_mini.data.tree import find_splits
from imgnet_mini.training.evaluation import evaluate, topk_classes, topk_correct
from imgnet_mini.training.model import build_model
from imgnet_mini.training.precision import Precision, use_float32_classifier
from imgnet_mini.utils.signals import StopRequest, StopRequestedError

CPU = torch.device("cpu")
CLASSES = 7


@pytest.fixture
def images(make_folder, tmp_path):
    make_folder(tmp_path / "data", train=1, val=5, classes=CLASSES)
    return ImageSplits(*find_splits(tmp_path / "data"))


@pytest.fixture
def model():
    network = build_model(
        ModelConfig(arch="shufflenet_v2_x0_5"), classes=CLASSES, img_size=32, seed=0, device=CPU
    )
    with torch.no_grad():  # a fresh network gives every image nearly the same logits
        network.fc.weight.mul_(300)
    return network.eval()


def measure(
    model,
    images,
    *,
    batch_size=8,
    views=TestTimeAugmentation.CENTER_CROP,
    label_smoothing=0.0,
    dtype=None,
):
    data = DataConfig(batch_size=batch_size, img_size=32, workers=0)
    batches = build_eval_loader(data, images, device=CPU, tta=views)
    with closing(batches) as loader, StopRequest() as stop:
        return evaluate(
            model, loader, Precision("cpu", dtype), stop, label_smoothing=label_smoothing
        )


def reference_logits(model, images, *, mirror=False):
    load = transforms.Compose(
        [
            transforms.Resize(37),
            transforms.CenterCrop(32),
            transforms.ToTensor(),
            transforms.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
        ]
    )
    paths = map(images.val.path, range(len(images.val)))
    batch = torch.stack([load(Image.open(path).convert("RGB")) for path in paths])
    with torch.no_grad():
        return model(batch.flip(3) if mirror else batch)


@pytest.mark.parametrize("batch_size", [1, 8, 35, 64])
def test_metrics_equal_scikit_learn_whatever_the_batch_size(model, images, batch_size):
    metrics, answers = measure(model, images, batch_size=batch_size)
    probabilities = reference_logits(model, images).double().softmax(1).numpy()
    labels = np.arange(CLASSES)
    assert metrics.images == 35
    assert metrics.top1 == pytest.approx(
        100 * accuracy_score(images.val.targets, probabilities.argmax(1))
    )
    assert metrics.top5 == pytest.approx(
        100 * top_k_accuracy_score(images.val.targets, probabilities, k=5, labels=labels)
    )
    assert metrics.loss == pytest.approx(
        log_loss(images.val.targets, probabilities, labels=labels), rel=1e-4
    )
    assert np.array_equal(answers.top[:, 0], probabilities.argmax(1))
    assert answers.top.shape == answers.probabilities.shape == (35, 5)


def test_batches_are_no_larger_than_the_micro_batches_of_training(images):
    data = DataConfig(batch_size=12, grad_accum_steps=3, img_size=32, workers=0)
    with closing(build_eval_loader(data, images, device=CPU)) as loader:
        sizes = [len(targets) for _, targets in loader.epoch(0)]
    assert sizes == [4] * 8 + [3]
    assert len(loader) == 9


@pytest.fixture
def view_sensitive():
    """A network whose logits differ much between the views of an image."""
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 32 * 32, CLASSES))
    with torch.no_grad():
        network[1].weight.mul_(20)
    return network


def test_the_mirrored_image_counts_as_much_as_the_image(view_sensitive, images):
    metrics, answers = measure(view_sensitive, images, views=TestTimeAugmentation.HFLIP)
    plain = reference_logits(view_sensitive, images)
    logits = (plain + reference_logits(view_sensitive, images, mirror=True)) / 2
    assert np.array_equal(answers.top[:, 0], logits.argmax(1))
    expected = logits.softmax(1).max(1).values
    assert torch.allclose(answers.probabilities[:, 0], expected, atol=1e-3)
    assert not torch.allclose(plain.softmax(1).max(1).values, expected, atol=0.02)
    assert metrics.top1 == pytest.approx(100 * accuracy_score(images.val.targets, logits.argmax(1)))


def test_ten_crops_are_those_of_torchvision_and_count_alike(view_sensitive, images):
    _, answers = measure(view_sensitive, images, views=TestTimeAugmentation.TEN_CROP)
    load = transforms.Compose(
        [
            transforms.Resize(40),
            transforms.CenterCrop(40),
            transforms.ToTensor(),
            transforms.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
        ]
    )
    paths = map(images.val.path, range(len(images.val)))
    batch = torch.stack([load(Image.open(path).convert("RGB")) for path in paths])
    with torch.no_grad():
        logits = sum(view_sensitive(crop) for crop in transforms.TenCrop(32)(batch)) / 10
    assert np.array_equal(answers.top[:, 0], logits.argmax(1))
    expected = logits.softmax(1).max(1).values.numpy()
    assert answers.probabilities[:, 0].numpy() == pytest.approx(expected, abs=1e-3)


def test_the_crops_of_a_square_have_the_size_it_was_made_for():
    for size in range(32, 600):
        side = TestTimeAugmentation.TEN_CROP.source_size(size)
        shown = TestTimeAugmentation.TEN_CROP.views(torch.empty(1, 1, side, side))
        assert [crop.shape[-2:] for crop in shown] == [(size, size)] * 10


def test_label_smoothing_is_that_of_training(model, images):
    metrics, _ = measure(model, images, label_smoothing=0.1)
    expected = torch.nn.CrossEntropyLoss(label_smoothing=0.1)(
        reference_logits(model, images), torch.from_numpy(images.val.targets)
    )
    assert metrics.loss == pytest.approx(expected.item(), rel=1e-4)


def test_fewer_than_five_classes_are_no_trouble(make_folder, tmp_path):
    make_folder(tmp_path / "two", train=1, val=2, classes=2)
    images = ImageSplits(*find_splits(tmp_path / "two"))
    network = build_model(
        ModelConfig(arch="shufflenet_v2_x0_5"), classes=2, img_size=32, seed=0, device=CPU
    )
    metrics, answers = measure(network, images)
    assert metrics.top5 == 100
    assert answers.top.shape == (4, 2)


def test_a_signal_ends_it_between_two_batches(model, images):
    data = DataConfig(batch_size=8, img_size=32, workers=0)
    with closing(build_eval_loader(data, images, device=CPU)) as loader, StopRequest() as stop:
        stop._on_signal(15, None)
        with pytest.raises(StopRequestedError, match="SIGTERM"):
            evaluate(model, loader, Precision("cpu", None), stop, label_smoothing=0.0)


@pytest.mark.parametrize(
    "views", [TestTimeAugmentation.CENTER_CROP, TestTimeAugmentation.HFLIP], ids=str
)
def test_the_best_classes_of_an_image_do_not_tie_in_bf16(images, views):
    torch.manual_seed(0)
    network = torch.nn.Sequential(
        torch.nn.Flatten(), torch.nn.Linear(3 * 32 * 32, 64), torch.nn.Linear(64, 1000)
    )
    _, rounded = measure(network, images, dtype=torch.bfloat16, views=views)
    use_float32_classifier(network, "cpu")
    _, answers = measure(network, images, dtype=torch.bfloat16, views=views)
    assert (answers.probabilities.diff(dim=1) < 0).all()
    if views is TestTimeAugmentation.CENTER_CROP:
        assert (rounded.probabilities.diff(dim=1) == 0).any()


def test_of_equal_logits_the_class_with_the_lower_index_comes_first():
    logits = torch.tensor([[1, 2, 2, 2, 0, 2, 2.0], [0, 0, 3, 0, 0, 0, 0], [0, 0, 0, 0, 0, 9, 9]])
    expected = [[1, 2, 3, 5, 6], [2, 0, 1, 3, 4], [5, 6, 0, 1, 2]]
    assert topk_classes(logits).tolist() == expected
    assert topk_classes(logits, 7)[0].tolist() == [1, 2, 3, 5, 6, 0, 4]


@pytest.mark.parametrize("classes", [2, 4, 100, 1000])
def test_hits_are_counted_in_the_order_of_the_best_classes_in_training_too(classes):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randint(4, (200, classes), generator=generator).float()  # many ties
    targets = torch.randint(min(20, classes), (200,), generator=generator)
    top = topk_classes(logits)
    assert torch.equal(top[:, 0], logits.argmax(1))
    is_true = top == targets[:, None]
    expected = [int(is_true[:, 0].sum()), int(is_true.sum())]
    assert topk_correct(logits, targets).tolist() == expected
    one_hot = torch.nn.functional.one_hot(targets, classes).float()
    assert topk_correct(logits, one_hot).tolist() == expected


def test_a_class_whose_logit_is_not_a_number_is_no_hit():
    logits = torch.full((2, 7), torch.nan)
    logits[1, 1:] = 0
    assert topk_correct(logits, torch.tensor([3, 0])).tolist() == [0, 0]


class RankOfSeveral(SimpleNamespace):
    """The context of one of several ranks; counts the sums that it takes part in."""

    sums = 0

    def all_reduce_sum(self, values):
        self.sums += 1
        return [1.0, *values[1:]]

    def all_gather_rows(self, rows, positions, total):
        assert len(rows) == len(positions)
        self.rows = rows
        return torch.zeros(total, 2 + 2 * 5)


@pytest.mark.parametrize("batch_size", [1, 2, 3, 8, 34])
def test_every_rank_takes_part_in_every_sum_however_few_images_it_has(model, images, batch_size):
    data = DataConfig(batch_size=batch_size, img_size=32, workers=0)
    found = []
    for rank in range(4):
        context = RankOfSeveral(
            rank=rank, world_size=4, local_world_size=4, is_main_process=rank == 0
        )
        loader = build_eval_loader(data, images, device=CPU, distributed=context)
        with closing(loader), StopRequest() as stop:
            precision = Precision("cpu", None)
            evaluate(model, loader, precision, stop, label_smoothing=0.0, distributed=context)
        found.append(context)
    assert len({context.sums for context in found}) == 1
    assert sum(len(context.rows) for context in found) == 35
    assert batch_size > 3 or not all(len(context.rows) for context in found)
