import dataclasses
import multiprocessing
import os
import signal
from contextlib import closing
from itertools import chain, islice

import numpy as np
import pytest
import torch

from imgnet_mini.config import DataConfig
from imgnet_mini.data.folder import find_images
from imgnet_mini.data.loaders import build_eval_loader, build_train_loader, mix
from imgnet_mini.data.transforms import EvalLoad, Normalise, TrainLoad
from imgnet_mini.errors import ConfigError, DataError

CPU = torch.device("cpu")
IMAGES = 14


@pytest.fixture
def split(make_folder, tmp_path):
    """A split whose targets tell the images apart."""
    make_folder(tmp_path / "data", train=7, val=0, classes=2)
    found = find_images(tmp_path / "data" / "train")
    return dataclasses.replace(found, targets=np.arange(IMAGES))


def train_loader(split, *, batch_size=4, workers=0, seed=5, **settings):
    data = DataConfig(batch_size=batch_size, img_size=32, workers=workers, **settings)
    return closing(build_train_loader(data, split, seed=seed, device=CPU))


def eval_loader(split, *, batch_size=4, workers=0):
    data = DataConfig(batch_size=batch_size, img_size=32, workers=workers)
    return closing(build_eval_loader(data, split, device=CPU))


def targets(batches):
    return [batch[1].tolist() for batch in batches]


def assert_equal(ours, theirs):
    ours, theirs = list(ours), list(theirs)
    assert len(ours) == len(theirs)
    for (images, labels), (other_images, other_labels) in zip(ours, theirs, strict=True):
        assert torch.equal(images, other_images)
        assert torch.equal(labels, other_labels)


def test_a_batch_is_floats_and_targets(split):
    with train_loader(split) as loader:
        images, labels = next(loader.epoch(0))
    assert (images.shape, images.dtype) == ((4, 3, 32, 32), torch.float32)
    assert images.is_contiguous(memory_format=torch.channels_last)
    assert (labels.shape, labels.dtype) == ((4,), torch.int64)


def test_an_epoch_takes_each_image_at_most_once_in_whole_batches(split):
    with train_loader(split) as loader:
        assert len(loader) == 3
        assert (loader.images, loader.images_per_step) == (IMAGES, 4)
        for epoch in range(5):
            batches = targets(loader.epoch(epoch))
            assert [len(batch) for batch in batches] == [4, 4, 4]
            assert len(set(chain(*batches))) == 12


def test_over_the_epochs_no_image_is_left_out(split):
    with train_loader(split) as loader:
        seen = {
            label
            for epoch in range(20)
            for batch in targets(loader.epoch(epoch))
            for label in batch
        }
    assert seen == set(range(IMAGES))


def test_order_is_a_function_of_seed_and_epoch_alone(split):
    def order(seed, epochs):
        with train_loader(split, seed=seed) as loader:
            return {epoch: targets(loader.epoch(epoch)) for epoch in epochs}

    forwards, backwards = order(5, [0, 1, 2]), order(5, [2, 1, 0])
    assert forwards == backwards
    assert forwards[0] != forwards[1] != forwards[2]
    assert order(6, [0])[0] != forwards[0]


def test_augmentation_is_a_function_of_seed_epoch_and_image_alone(split):
    def by_image(batch_size, epoch, seed=5):
        with train_loader(
            split, batch_size=batch_size, seed=seed, use_class_style_aug=True
        ) as loader:
            return {
                int(label): image
                for images, labels in loader.epoch(epoch)
                for image, label in zip(images, labels, strict=True)
            }

    one, other = by_image(2, 1), by_image(7, 1)
    assert one.keys() == other.keys() == set(range(IMAGES))
    assert all(torch.equal(one[i], other[i]) for i in one)
    assert not any(torch.equal(one[i], image) for i, image in by_image(2, 2).items())
    assert not any(torch.equal(one[i], image) for i, image in by_image(2, 1, seed=6).items())


def test_images_are_those_of_the_transform_with_the_mixed_seed(split):
    load = TrainLoad(DataConfig(img_size=32))
    with train_loader(split) as loader:
        images, labels = next(loader.epoch(3))
    with torch.random.fork_rng(devices=[]):
        for image, label in zip(images, labels.tolist(), strict=True):
            torch.manual_seed(mix(5, 3, label))
            assert torch.equal(image, Normalise(CPU)(load(split.path(label)).unsqueeze(0))[0])


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_change_nothing(split, workers):
    with train_loader(split) as alone, train_loader(split, workers=workers) as helped:
        for epoch in (0, 1):
            assert_equal(alone.epoch(epoch), helped.epoch(epoch))


@pytest.fixture
def spawning():
    """Workers that start as on Windows and macOS: nothing is inherited, all is pickled."""
    before = multiprocessing.get_start_method()
    multiprocessing.set_start_method("spawn", force=True)
    yield
    multiprocessing.set_start_method(before, force=True)


def test_workers_started_afresh_as_on_windows_change_nothing(split, spawning):
    with train_loader(split) as alone, train_loader(split, workers=1) as helped:
        assert_equal(helped.epoch(1), alone.epoch(1))


@pytest.mark.parametrize("workers", [0, 2])
def test_a_start_within_an_epoch_equals_skipping(split, workers):
    with train_loader(split, batch_size=3, workers=workers) as loader:
        whole = list(loader.epoch(2))
        for start in range(len(whole) + 1):
            assert_equal(loader.epoch(2, start=start), whole[start:])
        assert_equal(loader.epoch(2), whole)


@pytest.mark.parametrize("workers", [0, 2])
def test_an_epoch_left_half_way_does_not_show_in_the_next(split, workers):
    with train_loader(split, batch_size=2, workers=workers) as loader:
        whole = list(loader.epoch(1))
        assert_equal(islice(loader.epoch(0), 2), islice(loader.epoch(0), 2))
        assert_equal(loader.epoch(1), whole)


def test_endless_batches_are_those_of_epoch_after_epoch(split):
    with train_loader(split) as loader:
        expected = [batch for epoch in range(3) for batch in loader.epoch(epoch)]
        assert_equal(islice(loader.endless(), 9), expected)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("build", [train_loader, eval_loader])
def test_the_global_generators_are_untouched(split, build, workers):
    before, numpy_before = torch.get_rng_state(), np.random.get_state()[1].copy()
    with build(split, workers=workers) as loader:
        for _ in loader.epoch(0):
            assert torch.equal(torch.get_rng_state(), before)
        list(loader.epoch(1))
    assert torch.equal(torch.get_rng_state(), before)
    assert np.array_equal(np.random.get_state()[1], numpy_before)


def test_the_state_of_the_global_generator_changes_nothing(split):
    with train_loader(split, workers=1) as loader:
        expected = list(loader.epoch(0))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(99)
        for workers in (0, 1):
            with train_loader(split, workers=workers) as loader:
                assert_equal(loader.epoch(0), expected)


@pytest.mark.parametrize("workers", [0, 2])
def test_evaluation_covers_each_image_once_in_order_with_a_partial_last_batch(split, workers):
    load = EvalLoad(32)
    with eval_loader(split, workers=workers) as loader:
        assert (len(loader), loader.images) == (4, IMAGES)
        for _ in range(2):
            batches = list(loader.epoch(0))
            assert [len(labels) for _, labels in batches] == [4, 4, 4, 2]
            assert list(chain(*targets(batches))) == list(range(IMAGES))
    expected = Normalise(CPU)(torch.stack([load(split.path(i)) for i in range(IMAGES)]))
    assert torch.equal(torch.cat([images for images, _ in batches]), expected)


def test_evaluation_takes_fewer_images_than_a_batch(split):
    with eval_loader(split, batch_size=100) as loader:
        assert len(loader) == 1
        assert targets(loader.epoch(0)) == [list(range(IMAGES))]


def test_a_batch_larger_than_the_split_is_refused_with_the_cure(split):
    with pytest.raises(
        ConfigError, match=r"--batch-size 15 .* 14 images .*--batch-size 14 or less"
    ):
        build_train_loader(DataConfig(batch_size=15), split, seed=0, device=CPU)
    with train_loader(split, batch_size=14) as loader:
        assert sorted(*targets(loader.epoch(0))) == list(range(IMAGES))


@pytest.mark.parametrize("workers", [0, 1, 2])
@pytest.mark.parametrize("build", [train_loader, eval_loader])
def test_a_broken_image_is_named_without_a_traceback(split, build, workers):
    split.path(9).write_bytes(b"<html>")
    with build(split, workers=workers, batch_size=2) as loader:
        with pytest.raises(DataError) as error:
            list(chain(loader.epoch(0), loader.epoch(1)))
        assert str(error.value) == f"{split.path(9)} is not an image"


def test_an_image_that_vanishes_is_named(split):
    with eval_loader(split, workers=1) as loader:
        split.path(13).unlink()
        with pytest.raises(DataError) as error:
            list(loader.epoch(0))
    assert str(split.path(13)) in str(error.value)


def test_workers_stay_between_epochs(split):
    with train_loader(split, workers=2) as loader:
        list(loader.epoch(0))
        first = {process.pid for process in multiprocessing.active_children()}
        list(loader.epoch(1))
        assert {process.pid for process in multiprocessing.active_children()} == first
        assert len(first) == 2
    assert multiprocessing.active_children() == []


@pytest.mark.parametrize("build", [train_loader, eval_loader])
def test_closing_ends_the_workers_in_the_middle_of_an_epoch(split, build):
    with build(split, workers=2, batch_size=1) as loader:
        batches = loader.epoch(0)
        next(batches)
        assert len(multiprocessing.active_children()) == 2
        del batches
    assert multiprocessing.active_children() == []


def test_closing_ends_the_workers_after_an_error_in_the_loop(split):
    def fail():
        with train_loader(split, workers=2, batch_size=1) as loader:
            for _ in loader.epoch(0):
                raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert multiprocessing.active_children() == []


def test_closing_ends_the_workers_while_the_error_is_still_being_handled(split):
    try:
        with train_loader(split, workers=2, batch_size=1) as loader:
            for _ in loader.epoch(0):
                raise ZeroDivisionError
    except ZeroDivisionError:
        left = multiprocessing.active_children()
    assert left == []


def test_closing_a_loader_that_was_never_used_is_no_trouble(split):
    with train_loader(split, workers=2):
        pass


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such signals for other processes")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_workers_outlive_the_signals_that_stop_a_run(split, number):
    with train_loader(split) as alone:
        expected = list(alone.epoch(0))
    with train_loader(split, workers=2) as loader:
        list(loader.epoch(1))
        for process in multiprocessing.active_children():
            os.kill(process.pid, number)
        assert_equal(loader.epoch(0), expected)


def test_mixed_numbers_are_64_bits_and_distinct():
    seeds = [mix(s, e, i) for s in range(4) for e in range(20) for i in range(200)]
    seeds += [mix(s, e) for s in range(4) for e in range(20)] + [mix(s) for s in range(4)]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 2**64 for seed in seeds)
    assert sum(seed >= 2**63 for seed in seeds) / len(seeds) == pytest.approx(0.5, abs=0.05)
    assert mix(1, 2) != mix(2, 1)
    assert mix(0) != mix(0, 0) != mix(0, 0, 0)


def test_mixing_is_splitmix64_with_the_published_first_value():
    assert mix(0) == 0xE220A8397B1DCDAF


def test_any_mixed_number_is_a_seed_torch_takes():
    with torch.random.fork_rng(devices=[]):
        for seed in (0, 2**63, 2**64 - 1, mix(2**32 - 1, 10**6, 10**9)):
            torch.default_generator.manual_seed(seed)
