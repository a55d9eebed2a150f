from contextlib import closing
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
import torch

from helpers.packs import build, opened
from imgnet_mini.config.data_settings import DataConfig
from imgnet_mini.config.run_config import RunConfig
from imgnet_mini.data.crops import CROP_NUMBERS
from imgnet_mini.data.loaders import Loader, build_train_loader
from imgnet_mini.data.rng import uniforms
from imgnet_mini.data.sampler import (
    ProgressiveResize,
    RankShard,
    ResumableBatchSampler,
    build_progressive_resize,
    pixel_fraction,
)
from imgnet_mini.data.splits import ImageSplits
from imgnet_mini.data.transforms import STD, Normalize, TrainCrop
from imgnet_mini.data.tree import find_splits
from imgnet_mini.errors import ConfigError

SIZES = ProgressiveResize.constant(32)


def batches(images=103, size=10, *, seed=5, epoch=0, start=0):
    order = ResumableBatchSampler(images, size, seed=seed, sizes=SIZES)
    order.epoch, order.start = epoch, start
    return [key.indices.tolist() for key in order]


def test_each_key_has_its_epoch_and_the_positions_of_one_batch():
    order = ResumableBatchSampler(10, 4, seed=5, sizes=SIZES)
    order.epoch = 3
    keys = list(order)
    assert [key.epoch for key in keys] == [3, 3]
    for key in keys:
        assert (key.indices.shape, key.indices.dtype) == ((4,), np.int64)


@pytest.mark.parametrize("images", [1, 9, 10, 11, 99, 100])
def test_with_a_seed_no_image_comes_twice_and_all_batches_are_whole(images):
    found = batches(images)
    assert [len(batch) for batch in found] == [10] * (images // 10)
    assert len(found) == len(ResumableBatchSampler(images, 10, seed=5, sizes=SIZES))
    assert len(set(chain(*found))) == len(found) * 10
    assert set(chain(*found)) <= set(range(images))


@pytest.mark.parametrize("images", [1, 9, 10, 11, 99, 100])
def test_without_a_seed_all_images_come_in_order(images):
    found = batches(images, seed=None, epoch=4)
    assert list(chain(*found)) == list(range(images))
    assert [len(batch) for batch in found[:-1]] == [10] * (len(found) - 1)
    assert len(found) == len(ResumableBatchSampler(images, 10, seed=None, sizes=SIZES))
    assert 0 < len(found[-1]) <= 10


def test_seed_and_epoch_alone_decide_the_order():
    first = batches(epoch=2)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(99)
        state = torch.get_rng_state()
        assert batches(epoch=2) == first
        assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(("seed", "epoch"), [(5, 1), (6, 0), (4, 1), (0, 5)])
def test_a_near_seed_or_epoch_gives_an_unrelated_order(seed, epoch):
    ours, theirs = (
        np.array(batches(5000, 5000, seed=s, epoch=e)[0]) for s, e in ((5, 0), (seed, epoch))
    )
    assert (ours == theirs).sum() < 10  # 1 is to be expected
    assert abs(np.corrcoef(ours, theirs)[0, 1]) < 4 / np.sqrt(5000)


@pytest.mark.parametrize("seed", [5, None])
def test_a_start_within_an_epoch_equals_skipping(seed):
    whole = batches(seed=seed)
    for start in range(len(whole) + 1):
        assert batches(seed=seed, start=start) == whole[start:]


def test_the_batch_size_changes_the_batches_and_not_the_order():
    assert list(chain(*batches(100, 10))) == list(chain(*batches(100, 25)))


def steps_of(ranks, parts, *, images=103, size=12, seed=5, start=0):
    """The images of each step, in the order of blocks, over all ranks and parts together."""
    shares = []
    for rank in range(ranks):
        order = ResumableBatchSampler(
            images, size, seed=seed, sizes=SIZES, shard=RankShard(rank, ranks, parts)
        )
        order.epoch, order.start = 2, start
        shares.append([key.indices.tolist() for key in order])
    return [
        [shares[rank][step * parts + part] for part in range(parts) for rank in range(ranks)]
        for step in range(len(shares[0]) // parts)
    ]


@pytest.mark.parametrize(("ranks", "parts"), [(2, 1), (4, 1), (1, 3), (2, 2), (3, 4), (12, 1)])
def test_a_step_holds_the_same_images_in_the_same_order_on_any_ranks_in_any_parts(ranks, parts):
    whole = batches(size=12, epoch=2, start=3)
    shared = steps_of(ranks, parts, start=3)
    assert [list(chain(*blocks)) for blocks in shared] == whole
    assert {len(block) for blocks in shared for block in blocks} == {12 // (ranks * parts)}


def test_ranks_and_parts_of_the_same_number_give_the_same_blocks():
    assert steps_of(4, 1) == steps_of(2, 2) == steps_of(1, 4)


@pytest.mark.parametrize("images", [1, 7, 67, 96])
@pytest.mark.parametrize("ranks", [1, 2, 3, 5])
def test_without_a_seed_each_image_is_one_ranks_and_shares_are_as_equal_as_can_be(images, ranks):
    orders = [
        ResumableBatchSampler(images, 32, seed=None, sizes=SIZES, shard=RankShard(rank, ranks))
        for rank in range(ranks)
    ]
    positions = [order.positions().tolist() for order in orders]
    assert sorted(chain(*positions)) == list(range(images))
    for order, found in zip(orders, positions, strict=True):
        assert found == list(chain(*(key.indices.tolist() for key in order)))
        assert all(0 < len(key.indices) <= order.max_micro_batch for key in order)
    last = images % 32
    assert max(map(len, positions)) - min(map(len, positions)) <= images // 32 + (last > 0)


CPU = torch.device("cpu")


def sides(first, last, epochs):
    sizes = ProgressiveResize(first, last, epochs)
    return [sizes.size_at(epoch) for epoch in range(epochs)]


@pytest.mark.parametrize(
    ("first", "last", "epochs", "expected"),
    [
        (160, 224, 16, [160, 168, 168, 176, 184, 184, 192, 200, 200, 208, 216, 216] + 4 * [224]),
        (48, 64, 8, [48, 48, 56, 56, 56, 64, 64, 64]),
        (33, 50, 8, [33, 33, 40, 40, 48, 48, 50, 50]),
        (32, 35, 4, [32, 32, 32, 35]),
        (160, 224, 3, [160, 192, 224]),
        (160, 224, 2, [160, 224]),
        (160, 224, 1, [224]),
    ],
)
def test_images_grow_on_a_line_in_steps_of_8_and_the_last_quarter_has_full_size(
    first, last, epochs, expected
):
    assert sides(first, last, epochs) == expected


def test_the_growth_is_that_of_a_line_up_to_half_a_step():
    for epochs in (12, 40, 97):
        for epoch, side in enumerate(sides(128, 288, epochs)):
            exact = np.interp(epoch, [0, 0.75 * epochs], [128, 288])
            assert abs(side - exact) <= 4
            assert side % 8 == 0


def test_unset_or_without_epochs_the_size_stays():
    plain, growing = DataConfig(img_size=64), DataConfig(img_size=64, progressive="48:64")
    for sizes in (build_progressive_resize(plain, 9), build_progressive_resize(growing, None)):
        assert {sizes.size_at(epoch) for epoch in range(99)} == {64}


def test_the_share_of_pixels_is_the_mean_over_the_epochs():
    data = DataConfig(img_size=64, progressive="48:64")
    assert pixel_fraction(data, 8) == pytest.approx((2 * 48**2 + 3 * 56**2 + 3 * 64**2) / 8 / 64**2)
    assert pixel_fraction(data, 4000) == pytest.approx(0.83, abs=0.01)
    assert pixel_fraction(DataConfig(img_size=64), 8) == 1


@pytest.mark.parametrize(
    ("img_size", "cure"),
    [
        (224, r"use --progressive 48:224 or --img-size 64$"),
        (48, r"use --img-size 64$"),
        (32, r"use --img-size 64$"),
    ],
)
def test_another_last_size_than_the_images_is_refused_with_the_cure(img_size, cure):
    data = DataConfig(img_size=img_size, progressive="48:64")
    for epochs in (9, None):
        with pytest.raises(ConfigError, match=f"--progressive 48:64 .*{img_size}: {cure}"):
            build_progressive_resize(data, epochs)


@pytest.mark.parametrize(
    "sides", ["48", "48-64", "64:48", "48:48", "31:64", "48:", "a:b", "-1:64", "0.5:2", "1:1"]
)
def test_what_is_no_growth_is_refused_with_an_example(sides):
    with pytest.raises(ConfigError, match=r"data\.progressive: must be two sizes .* 0.7:1 \(got"):
        RunConfig().override({"data": {"progressive": sides}})


@pytest.mark.parametrize(
    ("shares", "img_size", "sides"),
    [
        ("0.5:1", 64, (32, 64)),
        (".7:1", 224, (160, 224)),
        ("0.1:1", 64, (32, 64)),
        ("0.9:1", 32, (32, 32)),
    ],
)
def test_sides_may_be_shares_of_the_image_size(shares, img_size, sides):
    sizes = build_progressive_resize(DataConfig(img_size=img_size, progressive=shares), 10)
    assert (sizes.size_at(0), sizes.size_at(9)) == sides


@pytest.fixture
def folder(make_folder, tmp_path):
    return ImageSplits(*find_splits(make_folder(tmp_path / "data", train=7, val=2, classes=2)))


def packed(images):
    root = images.train.root.parent
    build(root / "pack", root=root, img_size=64)
    pack = opened(root / "pack", root=root)
    return ImageSplits(pack.train.images, pack.val.images, pack)


def loader(images, *, epochs, progressive="32:64", seed=5, **settings):
    data = DataConfig(
        **{"img_size": 64, "batch_size": 4, "workers": 0} | settings, progressive=progressive
    )
    return closing(build_train_loader(data, images, seed=seed, device=CPU, epochs=epochs))


def batches_of(images, epoch, **settings):
    with loader(images, **{"epochs": 8} | settings) as train:
        return list(train.epoch(epoch))


def assert_same(ours, theirs):
    assert len(ours) == len(theirs) > 0
    for (pixels, labels), (other_pixels, other_labels) in zip(ours, theirs, strict=True):
        assert torch.equal(pixels, other_pixels)
        assert torch.equal(labels, other_labels)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("source", ["folder", "pack"])
def test_each_epoch_has_its_size_whatever_workers_had_before(folder, source, workers):
    images = folder if source == "folder" else packed(folder)
    with loader(images, epochs=4, workers=workers) as train:
        for epoch in (0, 1, 2, 3, 1, 0):
            shapes = {tuple(pixels.shape) for pixels, _ in train.epoch(epoch)}
            assert shapes == {(4, 3, *2 * [[32, 40, 56, 64][epoch]])}


def test_the_crops_of_an_epoch_are_those_of_full_size_made_smaller(folder):
    crop, data = TrainCrop(DataConfig()), folder.train
    indices = np.concatenate(
        [
            key.indices
            for key in ResumableBatchSampler(
                len(data), 4, seed=5, sizes=ProgressiveResize.constant(64), shard=RankShard()
            )
        ]
    )
    numbers = uniforms(5, 0, indices, CROP_NUMBERS).tolist()
    expected = torch.stack(
        [crop.load(data.path(i), drawn, 32) for i, drawn in zip(indices, numbers, strict=True)]
    )
    pixels = torch.cat([pixels for pixels, _ in batches_of(folder, 0)])
    assert torch.equal(pixels, Normalize(CPU)(expected))


@pytest.mark.parametrize("epoch", [0, 3, 7])
def test_a_device_that_crops_does_so_at_the_size_of_the_epoch(folder, epoch):
    one_grey_level = 1.001 / torch.tensor(STD).view(3, 1, 1)
    with loader(packed(folder), epochs=8) as here, loader(packed(folder), epochs=8) as there:
        there._source._crop_on_host = False  # as on a GPU
        for ours, theirs in zip(here.epoch(epoch), there.epoch(epoch), strict=True):
            assert ours[0].shape == theirs[0].shape == (4, 3, *2 * [sides(32, 64, 8)[epoch]])
            assert ((ours[0] - theirs[0]).abs() < one_grey_level).all()


def test_at_full_size_nothing_tells_it_from_a_run_that_never_grew(folder):
    assert_same(batches_of(folder, 7), batches_of(folder, 7, progressive=None))
    assert_same(batches_of(folder, 0, epochs=None), batches_of(folder, 0, progressive=None))


def test_workers_parts_and_a_late_start_change_nothing(folder):
    whole = batches_of(folder, 3)
    assert_same(batches_of(folder, 3, workers=2), whole)
    with loader(folder, epochs=8) as train:
        assert_same(list(train.epoch(3, start=1)), whole[1:])
    parts = batches_of(folder, 3, grad_accum_steps=2)
    init_distributed = [
        tuple(torch.cat(pair) for pair in zip(one, other, strict=True))
        for one, other in zip(parts[::2], parts[1::2], strict=True)
    ]
    assert_same(init_distributed, whole)


def test_train_says_what_growing_saves(run_small, cli):
    growing = ("--img-size", 48, "--progressive", "32:48")
    assert run_small("train", "--epochs", 4, *growing) == 0, cli.err
    assert "4 epochs of 4 steps of 6 images, images of 32 to 48 px, 0.71 of the pixels" in (
        " ".join(cli.out.split())
    )
    (config,) = Path().glob("out/*/config.toml")
    assert 'progressive = "32:48"' in config.read_text()


def test_on_a_new_plan_images_have_the_sizes_of_its_epochs(run_small, cli, monkeypatch):
    growing = ("--img-size", 48, "--progressive", "32:48")
    assert run_small("train", "--epochs", 2, *growing) == 0, cli.err
    seen = []
    epoch = Loader.epoch

    def watched(self, number, **start):
        for pixels, labels in epoch(self, number, **start):
            seen.append((number, pixels.shape[2]))
            yield pixels, labels

    monkeypatch.setattr(Loader, "epoch", watched)
    assert cli("resume", "--epochs", 4, "--replan") == 0, cli.err
    trained = [place for place in seen if place[0] > 0]  # validation calls its own epoch 0
    assert list(dict.fromkeys(trained)) == [(2, sides(32, 48, 4)[2]), (3, 48)]


def test_find_lr_trains_at_full_size(run_small, data, cli, monkeypatch):
    seen = set()
    endless = Loader.endless

    def watched(self):
        for pixels, labels in endless(self):
            seen.add(pixels.shape[2])
            yield pixels, labels

    monkeypatch.setattr(Loader, "endless", watched)
    options = ("--data-root", "data", "--arch", "shufflenet_v2_x0_5", "--batch-size", 12)
    growing = ("--img-size", 48, "--progressive", "32:48", "--workers", 0)
    cli("find-lr", *options, *growing, "--num-iter", 9)
    assert seen == {48}


@pytest.mark.parametrize("command", ["train", "find-lr"])
def test_another_last_size_ends_the_command_with_the_cure(data, cli, command):
    options = ("--data-root", "data", "--img-size", 32, "--batch-size", 12, "--workers", 0)
    assert cli(command, *options, "--progressive", "32:48") == 2
    assert cli.says("--progressive 32:48 ends at 48 px, and --img-size is 32: use --img-size 48")


def test_images_are_of_full_size_once_no_later_epoch_has_larger_ones():
    sampler = ResumableBatchSampler(8, 4, seed=0, sizes=ProgressiveResize(32, 64, epochs=8))
    found = []
    for epoch in range(8):
        sampler.epoch = epoch
        found.append(sampler.is_full_size)
        assert found[-1] == all(key.size == 64 for key in sampler)
    assert found == [False] * 6 + [True] * 2
