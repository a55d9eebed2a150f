"""MixUp and CutMix."""

import copy
from contextlib import closing
from itertools import islice
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torchvision.transforms import v2

from helpers.packs import build, opened
from imgnet_mini.config.data_settings import DataConfig
from imgnet_mini.config.run_config import RunConfig
from imgnet_mini.config.training_settings import ModelConfig, OptimizerConfig, ScheduleConfig
from imgnet_mini.data.augment.mixing import MixupCutmix
from imgnet_mini.data.augment.registry import enabled_augmentations
from imgnet_mini.data.batches import BatchRandom
from imgnet_mini.data.loaders import Loader, build_train_loader
from imgnet_mini.data.rng import hash_seed, seeded
from imgnet_mini.data.sampler import BatchKey
from imgnet_mini.data.splits import ImageSplits
from imgnet_mini.data.tree import find_splits
from imgnet_mini.errors import ConfigError
from imgnet_mini.training.model import build_model
from imgnet_mini.training.optim import build_loss, build_optimizer, build_scheduler
from imgnet_mini.training.precision import Precision
from imgnet_mini.training.trainer import Trainer

CPU = torch.device("cpu")
KINDS = {"mixup": {"mixup": 0.2}, "cutmix": {"cutmix": 1.0}, "both": {"mixup": 0.4, "cutmix": 1.0}}
CLASSES = 3


def batch(count=8):
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(count, 3, 16, 16, generator=generator)
    return images, torch.randint(CLASSES, (count,), generator=generator)


def mixed(settings, *, seed=5, epoch=2, indices=range(30, 38)):
    (augmentation,) = enabled_augmentations(DataConfig(**settings))
    mix = MixupCutmix(settings.get("mixup", 0.0), settings.get("cutmix", 0.0), classes=CLASSES)
    key = BatchKey(epoch, np.array(indices), 16)
    return mix(*batch(), BatchRandom(augmentation.stream, seed, key))


@pytest.mark.parametrize("kind", KINDS)
def test_batches_are_those_that_torchvision_mixes_under_that_seed(kind):
    transforms = {
        "mixup": v2.MixUp(alpha=KINDS[kind].get("mixup", 1.0), num_classes=CLASSES),
        "cutmix": v2.CutMix(alpha=1.0, num_classes=CLASSES),
    }
    theirs = transforms.get(kind) or v2.RandomChoice(list(transforms.values()))
    for epoch in range(9):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(hash_seed(5, epoch, 30, 1))
            images, shares = theirs(*batch())
        ours = mixed(KINDS[kind], epoch=epoch)
        assert torch.equal(ours[0], images)
        assert torch.equal(ours[1], shares)


def test_mixed_labels_say_how_much_of_each_image_is_in():
    images, targets = batch()
    for epoch in range(5):
        found, shares = mixed({"mixup": 1.0}, epoch=epoch)
        share = (found[0] - images[-1]).sum() / (images[0] - images[-1]).sum()
        hot = torch.eye(CLASSES)[targets]
        assert torch.allclose(found, share * images + (1 - share) * images.roll(1, 0), atol=1e-5)
        assert torch.allclose(shares, share * hot + (1 - share) * hot.roll(1, 0), atol=1e-4)

        found, shares = mixed({"cutmix": 1.0}, epoch=epoch)
        share = (found == images).float().mean()
        assert ((found == images) | (found == images.roll(1, 0))).all()
        assert torch.allclose(shares, share * hot + (1 - share) * hot.roll(1, 0), atol=1e-4)


def test_with_both_each_batch_gets_one_of_the_two_about_half_of_the_time():
    images, _ = batch()
    cut = [bool((mixed(KINDS["both"], epoch=n)[0][0] == images[0]).any()) for n in range(200)]
    assert sum(cut) == pytest.approx(100, abs=30)


@pytest.mark.parametrize("change", [{"seed": 6}, {"epoch": 3}, {"indices": range(31, 39)}])
def test_seed_epoch_and_first_image_alone_decide(change):
    expected = mixed(KINDS["both"])
    state = torch.get_rng_state()
    torch.rand(7)
    again = mixed(KINDS["both"], indices=[30, *range(99, 106)])
    assert all(map(torch.equal, again, expected))
    assert not torch.equal(mixed({"mixup": 1.0}, **change)[0], mixed({"mixup": 1.0})[0])
    torch.set_rng_state(state)


def test_the_global_generator_is_as_it_was_also_after_an_error():
    state = torch.get_rng_state()
    mixed(KINDS["both"])
    with pytest.raises(RuntimeError, match="stack"), seeded(1):
        torch.stack([torch.rand(3), torch.rand(2)])
    assert torch.equal(torch.get_rng_state(), state)


@pytest.fixture(params=["folder", "pack"])
def images(request, make_folder, tmp_path):
    root = make_folder(tmp_path / "data", train=7, val=2, classes=2)
    folder = ImageSplits(*find_splits(root))
    if request.param == "folder":
        return folder
    build(root / "pack", root=root)
    pack = opened(root / "pack", root=root)
    return ImageSplits(pack.train.images, pack.val.images, pack)


def batches_of(images, epoch, *, ranks=None, start=0, **settings):
    data = DataConfig(**{"img_size": 32, "batch_size": 4, "workers": 0} | settings)
    ranks = {} if ranks is None else {"distributed": ranks}
    with closing(build_train_loader(data, images, seed=5, device=CPU, **ranks)) as loader:
        return list(loader.epoch(epoch, start=start))


def assert_same(ours, theirs):
    assert len(ours) == len(theirs) > 0
    for one, other in zip(ours, theirs, strict=True):
        assert all(map(torch.equal, one, other))


@pytest.mark.parametrize("kind", KINDS)
def test_a_loader_mixes_what_it_gives_without(images, kind):
    plain, ours = batches_of(images, 1), batches_of(images, 1, **KINDS[kind])
    for (pixels, targets), (found, shares) in zip(plain, ours, strict=True):
        assert found.is_contiguous(memory_format=torch.channels_last)
        assert (shares.shape, shares.dtype) == ((4, 2), torch.float32)
        assert torch.allclose(shares.sum(1), torch.ones(4))
        part = (shares - torch.eye(2)[targets].roll(1, 0)).abs().sum(1)
        assert (part > 0).any() or torch.equal(targets, targets.roll(1, 0))
        assert not torch.equal(pixels, found)


def test_workers_a_late_start_and_the_way_a_step_is_shared_out_change_nothing(images):
    both = KINDS["both"]
    whole = batches_of(images, 1, **both)
    assert_same(batches_of(images, 1, workers=2, **both), whole)
    assert_same(batches_of(images, 1, start=2, **both), whole[2:])
    parts = batches_of(images, 1, grad_accum_steps=2, **both)
    ranks = [
        batches_of(
            images, 1, ranks=SimpleNamespace(rank=rank, world_size=2, local_world_size=2), **both
        )
        for rank in range(2)
    ]
    assert_same(parts[::2], ranks[0])
    assert_same(parts[1::2], ranks[1])


def test_off_nothing_changes(images):
    assert_same(batches_of(images, 1, mixup=0.0, cutmix=0.0), batches_of(images, 1))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"mixup": 0.2, "batch_size": 1},
            "--mixup 0.2 needs 2 images or more .* --batch-size 1 leaves 1: .*size 2 or more",
        ),
        (
            {"cutmix": 1.0, "batch_size": 4, "grad_accum_steps": 4},
            "--cutmix 1 needs .* 4 with --grad-accum-steps 4 leaves 1: .*--batch-size 8 or more",
        ),
        ({"mixup": 0.2, "cutmix": 1.0, "batch_size": 1}, "--mixup 0.2 --cutmix 1 .* leave them"),
    ],
)
def test_images_without_a_partner_are_refused_with_the_cure(images, settings, message):
    with pytest.raises(ConfigError, match=message):
        batches_of(images, 0, **settings)


@pytest.mark.parametrize("name", ["mixup", "cutmix"])
def test_alpha_has_its_bounds(name):
    for value in (-0.1, float("inf"), float("nan")):
        with pytest.raises(ConfigError, match=f"data.{name}"):
            RunConfig().override({"data": {name: value}})


def trainer_of(model):
    settings = OptimizerConfig(label_smoothing=0.1)
    optimizer = build_optimizer(settings, model, lr=0.05)
    scheduler = build_scheduler(ScheduleConfig(epochs=1), optimizer, max_lr=0.05, total_steps=9)
    return Trainer(model, build_loss(settings), optimizer, scheduler, Precision("cpu", None))


def test_a_step_on_whole_labels_as_shares_is_that_on_classes():
    models = [
        build_model(
            ModelConfig(arch="shufflenet_v2_x0_5"), classes=5, img_size=32, seed=3, device=CPU
        )
    ]
    models.append(copy.deepcopy(models[0]))
    images, targets = torch.randn(8, 3, 32, 32), torch.arange(8) % 5
    ours, theirs = map(trainer_of, models)
    ours.train_step([(images, torch.eye(5)[targets])])
    theirs.train_step([(images, targets)])
    assert torch.equal(ours._buffer._correct, theirs._buffer._correct)
    for one, other in zip(*(model.parameters() for model in models), strict=True):
        assert torch.allclose(one, other, atol=1e-6)


def test_hits_are_those_of_the_class_that_most_of_an_image_is_of(monkeypatch):
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3, 3))
    with torch.no_grad():
        model[1].weight.copy_(torch.eye(3))
    trainer = trainer_of(model)
    images = torch.eye(3)[[0, 1, 2, 0]].reshape(4, 3, 1, 1)
    shares = torch.tensor([[0.6, 0.4, 0], [0.6, 0.4, 0], [0, 0.3, 0.7], [1.0, 0, 0]])
    trainer.train_step([(images, shares)])
    assert trainer._buffer._correct.tolist()[0] == 3


def test_find_lr_trains_on_mixed_images_too(data, cli, monkeypatch):
    seen = []
    endless = Loader.endless
    monkeypatch.setattr(
        Loader,
        "endless",
        lambda self: (seen.append(found[1]) or found for found in endless(self)),
    )
    options = ("--data-root", "data", "--arch", "shufflenet_v2_x0_5", "--img-size", 32)
    cli("find-lr", *options, "--batch-size", 12, "--workers", 0, "--num-iter", 9, "--mixup", 0.2)
    assert {tuple(shares.shape) for shares in islice(seen, 9)} == {(12, 3)}
