from itertools import chain

import numpy as np
import pytest
import torch

from imgnet_mini.data.sampler import ProgressiveResize, RankShard, ResumableBatchSampler

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
