"""What is done to training images on their device, one ingredient beside the other."""

from contextlib import closing
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torchvision.transforms import InterpolationMode, v2

from helpers.packs import build, opened
from imgnet_mini.config.data_settings import DataConfig
from imgnet_mini.config.run_config import RunConfig
from imgnet_mini.data.augment.erasing import RandomAffineErase, RandomErasing, _affine_grid
from imgnet_mini.data.augment.trivial import TrivialAugment
from imgnet_mini.data.batches import BatchRandom
from imgnet_mini.data.crops import CROP_NUMBERS
from imgnet_mini.data.loaders import build_train_loader
from imgnet_mini.data.rng import RandomStream, hash_seed, uniforms
from imgnet_mini.data.sampler import BatchKey, ProgressiveResize, ResumableBatchSampler
from imgnet_mini.data.splits import ImageSplits
from imgnet_mini.data.transforms import Normalize, TrainCrop
from imgnet_mini.data.tree import find_splits
from imgnet_mini.errors import ConfigError

CPU = torch.device("cpu")
SEED = 5
INGREDIENTS = {
    "trivial-augment": {"trivial_augment": True},
    "erasing": {"random_erasing": 0.6},
    "style": {"use_class_style_aug": True},
    "growth": {"progressive": "32:40"},
    "mixing": {"mixup": 0.4, "cutmix": 1.0},
}
INGREDIENTS["all"] = {name: on for each in INGREDIENTS.values() for name, on in each.items()}
EACH = pytest.mark.parametrize("ingredients", INGREDIENTS.values(), ids=INGREDIENTS)


@pytest.fixture
def folder(tmp_path):
    """14 training images of 40 x 40 pixels, of which a pack of that size holds every pixel."""
    generator = np.random.default_rng(0)
    root = tmp_path / "data"
    for split, count in (("train", 7), ("val", 1)):
        for name in "ab":
            (root / split / name).mkdir(parents=True)
            for number in range(count):
                pixels = generator.integers(0, 256, (40, 40, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(root / split / name / f"{number}.png")
    return ImageSplits(*find_splits(root))


def packed(images):
    root = images.train.root.parent
    build(root / "pack", root=root, img_size=40, pack_size=40)
    pack = opened(root / "pack", root=root)
    return ImageSplits(pack.train.images, pack.val.images, pack)


def batches_of(images, *, epoch=1, start=0, ranks=None, **settings):
    data = DataConfig(**{"img_size": 40, "batch_size": 6, "workers": 0} | settings)
    ranks = {} if ranks is None else {"distributed": ranks}
    loader = build_train_loader(data, images, seed=SEED, device=CPU, epochs=4, **ranks)
    with closing(loader):
        return list(loader.epoch(epoch, start=start))


def assert_same(ours, theirs):
    assert len(ours) == len(theirs) > 0
    for one, other in zip(ours, theirs, strict=True):
        assert all(map(torch.equal, one, other))


def noisy(count, side=40):
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, 3, side, side), generator=generator, dtype=torch.uint8)


def changed_by_torchvision(images, indices, *, epoch, seed=SEED):
    """Each image through torchvision's own transform, under the seed of its place."""
    change = v2.TrivialAugmentWide(interpolation=InterpolationMode.BILINEAR)
    results = []
    with torch.random.fork_rng(devices=[]):
        for image, index in zip(images, indices, strict=True):
            torch.manual_seed(hash_seed(seed, epoch, int(index), 2))
            results.append(change(image))
    return torch.stack(results)


def trivial_augment(images, epoch, indices):
    random = BatchRandom(RandomStream(key=(2,)), SEED, BatchKey(epoch, indices, 40))
    targets = torch.zeros(len(images), dtype=torch.int64)
    changed, same_targets = TrivialAugment()(images, targets, random)
    assert same_targets is targets
    return changed


def test_trivial_augment_is_torchvisions_under_the_seed_of_each_image():
    images, indices = noisy(200), np.arange(1000, 1200)
    before = images.clone()
    ours = trivial_augment(images, 3, indices)
    assert torch.equal(images, before)
    assert torch.equal(ours, changed_by_torchvision(images, indices, epoch=3))
    changed = (ours != images).flatten(1).any(1)
    assert 100 < int(changed.sum()) < 200  # some ways and strengths leave an image as it is


def test_trivial_augment_of_an_image_is_the_same_in_any_batch_and_layout():
    images, indices = noisy(12), np.arange(12)
    together = trivial_augment(images, 0, indices)
    for n in range(12):
        alone = trivial_augment(images[n : n + 1], 0, indices[n : n + 1])
        assert torch.equal(alone[0], together[n])
    last = images.contiguous(memory_format=torch.channels_last)
    assert torch.equal(trivial_augment(last, 0, indices), together)


class CountKernels(TorchDispatchMode):
    """Counts kernels on the meta device and copies to it; there, whatever waits for it fails."""

    def __init__(self):
        super().__init__()
        self.kernels = self.copies = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **kwargs or {})
        inputs = [value for value in tree_leaves((args, kwargs)) if isinstance(value, torch.Tensor)]
        if isinstance(result, torch.Tensor) and result.is_meta:
            if inputs and not any(tensor.is_meta for tensor in inputs):
                self.copies += 1
            elif not function.is_view:
                self.kernels += 1
        return result


def test_trivial_augment_takes_one_copy_and_as_many_kernels_for_any_number_of_images():
    kernels = set()
    for count in (64, 256):
        images = torch.empty(count, 3, 40, 40, dtype=torch.uint8, device="meta")
        with CountKernels() as counted:
            trivial_augment(images, 0, np.arange(count))
        assert counted.copies == 1
        kernels.add(counted.kernels)
    assert len(kernels) == 1
    assert max(kernels) < 100  # 709 and 2752 for 64 and 256 images one by one


def test_each_ingredient_has_its_own_numbers_and_its_place_in_the_order(folder):
    order = ResumableBatchSampler(
        len(folder.train), 6, seed=SEED, sizes=ProgressiveResize.constant(40)
    )
    order.epoch = 1
    indices = np.concatenate([key.indices for key in order])
    style_at, erasing_at = CROP_NUMBERS, CROP_NUMBERS + RandomAffineErase.NUMBERS
    numbers = uniforms(SEED, 1, indices, erasing_at + RandomErasing.NUMBERS)
    crop = TrainCrop(DataConfig())
    crops = torch.stack(
        [
            crop.load(folder.train.path(index), drawn, 40)
            for index, drawn in zip(indices, numbers[:, :style_at].tolist(), strict=True)
        ]
    )

    def style(images):
        return RandomAffineErase(CPU).transform(images, numbers[:, style_at:erasing_at])

    def erase(images):
        return RandomErasing(0.6, CPU).erase(images, numbers[:, erasing_at:])

    changed = changed_by_torchvision(crops, indices, epoch=1)
    on = INGREDIENTS
    for settings, expected in (
        ({}, crops),
        (on["trivial-augment"], changed),
        (on["style"], style(crops)),
        (on["erasing"], erase(crops)),
        (on["style"] | on["erasing"], erase(style(crops))),
        (on["trivial-augment"] | on["style"] | on["erasing"], erase(style(changed))),
    ):
        pixels = torch.cat([pixels for pixels, _ in batches_of(folder, **settings)])
        assert torch.equal(pixels, Normalize(CPU)(expected)), settings


@EACH
def test_workers_a_late_start_and_the_source_change_nothing(folder, ingredients):
    whole = batches_of(folder, **ingredients)
    assert_same(batches_of(folder, workers=2, **ingredients), whole)
    assert_same(batches_of(folder, start=1, **ingredients), whole[1:])
    pack = packed(folder)
    assert_same(batches_of(pack, **ingredients), whole)
    assert_same(batches_of(pack, workers=2, **ingredients), whole)


@EACH
def test_parts_of_a_step_are_the_same_on_other_ranks(folder, ingredients):
    parts = batches_of(folder, grad_accum_steps=2, **ingredients)
    for rank in range(2):
        ranks = SimpleNamespace(rank=rank, world_size=2, local_world_size=2)
        assert_same(batches_of(folder, ranks=ranks, **ingredients), parts[rank::2])


@EACH
def test_the_global_generator_neither_decides_nor_moves(folder, ingredients):
    expected = batches_of(folder, **ingredients)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(99)
        state = torch.get_rng_state()
        assert_same(batches_of(folder, **ingredients), expected)
        assert torch.equal(torch.get_rng_state(), state)


@EACH
def test_each_epoch_has_its_own_draws(folder, ingredients):
    def by_target(epoch):
        return torch.cat([pixels for pixels, _ in batches_of(folder, epoch=epoch, **ingredients)])

    one, other = by_target(3), by_target(1)
    assert one.shape != other.shape or not torch.equal(one, other)


@pytest.mark.parametrize("value", [-0.1, 1.1])
def test_a_probability_has_its_bounds(value):
    with pytest.raises(ConfigError, match=r"data\.random_erasing"):
        RunConfig().override({"data": {"random_erasing": value}})


def test_help_says_the_bounds(cli, monkeypatch):
    monkeypatch.setenv("COLUMNS", "300")
    assert cli("train", "--help") == 0
    lines = {
        flag: next(line for line in cli.out.splitlines() if f"--{flag} " in line)
        for flag in ("random-erasing", "mixup", "cutmix", "eval-size")
    }
    assert "at least 0 and at most 1" in lines["random-erasing"]
    assert "at least 0" in lines["mixup"]
    assert "at least 0" in lines["cutmix"]
    assert "at least 32" in lines["eval-size"]


def test_what_only_training_draws_is_no_option_of_what_only_evaluates(cli):
    for command in ("evaluate", "predict", "export", "report", "prepare", "check"):
        assert cli(command, "--help") == 0
        for flag in ("--mixup", "--cutmix", "--trivial", "--random-erasing", "--progressive"):
            assert flag not in cli.out


@pytest.mark.parametrize("size", [32, 97])
def test_the_affine_grid_is_torchs(size):
    theta = torch.randn(5, 2, 3, generator=torch.Generator().manual_seed(0))
    expected = F.affine_grid(theta, [5, 3, size, size], align_corners=False)
    torch.testing.assert_close(_affine_grid(theta, size), expected, rtol=0, atol=2e-6)
