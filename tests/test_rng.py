import itertools

import numpy as np
import pytest
import torch
from scipy import stats

from imgnet_mini.data.rng import RandomStream, hash_seed, uniforms

LARGEST_SEED = 2**32 - 1
IMAGES = np.arange(20_000)


def splitmix64(state):
    """The generator as Vigna publishes it, one number after the other."""
    while True:
        state = (state + 0x9E3779B97F4A7C15) % 2**64
        z = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) % 2**64
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) % 2**64
        yield z ^ (z >> 31)


def test_mixed_numbers_are_64_bits_and_distinct():
    seeds = [hash_seed(s, e, i) for s in range(4) for e in range(20) for i in range(200)]
    seeds += [hash_seed(s, e) for s in range(4) for e in range(20)] + [
        hash_seed(s) for s in range(4)
    ]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 2**64 for seed in seeds)
    assert sum(seed >= 2**63 for seed in seeds) / len(seeds) == pytest.approx(0.5, abs=0.05)
    assert hash_seed(1, 2) != hash_seed(2, 1)
    assert hash_seed(0) != hash_seed(0, 0) != hash_seed(0, 0, 0)


def test_mixing_is_splitmix64_with_the_published_first_value():
    assert hash_seed(0) == next(splitmix64(0)) == 0xE220A8397B1DCDAF


def test_any_mixed_number_is_a_seed_torch_takes():
    with torch.random.fork_rng(devices=[]):
        for seed in (0, 2**63, 2**64 - 1, hash_seed(LARGEST_SEED, 10**6, 10**9)):
            torch.default_generator.manual_seed(seed)


@pytest.mark.parametrize("seed", [0, 1, LARGEST_SEED])
@pytest.mark.parametrize("epoch", [0, 7, 10**6])
def test_numbers_are_those_of_splitmix64_from_the_mixed_seed_on(seed, epoch):
    indices = np.array([0, 1, 2, 999, 2**31, 2**62])
    for index, row in zip(indices.tolist(), uniforms(seed, epoch, indices, 40), strict=True):
        bits = itertools.islice(splitmix64(hash_seed(seed, epoch, index)), 40)
        assert row.tolist() == [(number >> 11) / 2**53 for number in bits]


def test_asking_for_more_numbers_leaves_the_first_as_they_were():
    many = uniforms(3, 1, IMAGES[:50], 33)
    for count in (0, 1, 23):
        assert np.array_equal(uniforms(3, 1, IMAGES[:50], count), many[:, :count])


def test_an_image_has_its_numbers_whatever_else_is_in_the_batch():
    together = uniforms(3, 1, IMAGES[:50], 5)
    backwards, alone = uniforms(3, 1, IMAGES[49::-1], 5), uniforms(3, 1, IMAGES[17:18], 5)
    assert np.array_equal(backwards[::-1], together)
    assert np.array_equal(alone[0], together[17])
    assert uniforms(3, 1, IMAGES[:0], 5).shape == (0, 5)


def test_numbers_are_spread_evenly_from_0_to_just_below_1():
    numbers = uniforms(0, 0, IMAGES, 33)
    assert (numbers.shape, numbers.dtype) == ((len(IMAGES), 33), np.float64)
    assert numbers.min() >= 0
    assert numbers.max() < 1
    assert stats.kstest(numbers.ravel(), "uniform").pvalue > 0.01
    for column in numbers.T:
        assert stats.kstest(column, "uniform").pvalue > 1e-4


def test_numbers_have_nothing_to_do_with_each_other():
    """Not those of an image, nor of the next image, epoch or seed."""
    columns = [uniforms(seed, epoch, IMAGES, 6) for seed, epoch in ((5, 0), (5, 1), (6, 0), (0, 5))]
    columns.append(uniforms(5, 0, IMAGES + 1, 6))
    correlations = np.corrcoef(np.concatenate(columns, 1).T)
    np.fill_diagonal(correlations, 0)
    assert np.abs(correlations).max() < 4.5 / np.sqrt(len(IMAGES))


@pytest.mark.parametrize("other", [(6, 0, 0), (5, 1, 0), (5, 0, 1), (0, 5, 0), (4, 1, 0)])
def test_a_near_seed_epoch_or_index_shares_no_number(other):
    seed, epoch, shift = other
    ours, theirs = uniforms(5, 0, IMAGES, 33), uniforms(seed, epoch, IMAGES + shift, 33)
    assert not (ours == theirs).any()


def test_a_stream_that_skips_numbers_has_those_that_follow():
    numbers = uniforms(3, 4, IMAGES[:50], 40)
    stream = RandomStream(skip=23)
    assert np.array_equal(uniforms(3, 4, IMAGES[:50], 10, stream=stream), numbers[:, 23:33])
