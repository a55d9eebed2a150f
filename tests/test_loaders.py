import dataclasses
import multiprocessing
import os
import signal
import threading
from contextlib import closing
from itertools import chain, islice
from multiprocessing import connection, resource_sharer

import numpy as np
import pytest
import torch
from PIL import Image

from imgnet_mini.config.data_settings import DataConfig
from imgnet_mini.data.augment.erasing import RandomAffineErase
from imgnet_mini.data.crops import CROP_NUMBERS
from imgnet_mini.data.loaders import build_eval_loader, build_train_loader
from imgnet_mini.data.pack.format import open_pack
from imgnet_mini.data.pack.plan import make_plan
from imgnet_mini.data.pack.writer import write_pack
from imgnet_mini.data.rng import uniforms
from imgnet_mini.data.splits import ImageSplits
from imgnet_mini.data.transforms import STD, EvalCrop, Normalize, TrainCrop
from imgnet_mini.data.tree import find_splits
from imgnet_mini.errors import ConfigError, DataError, WriteError
from imgnet_mini.utils.early_exit import SIGNALS

CPU = torch.device("cpu")
IMAGES = 14
ODD_SIZES = [(5, 7), (1, 1), (300, 33), (40, 260), (37, 37), (38, 37), (120, 90)]
"""Width and height."""


def find_numbered(root):
    """The images of a data folder, with targets that tell the images of a split apart."""
    return ImageSplits(
        *(dataclasses.replace(split, targets=np.arange(len(split))) for split in find_splits(root))
    )


@pytest.fixture
def folder(make_folder, tmp_path):
    return find_numbered(make_folder(tmp_path / "data", train=7, val=7, classes=2))


def packed(images, *, pack_size=None, img_size=32):
    """The same images, from a pack beside them."""
    plan = make_plan(images.train, images.val, pack_size=pack_size, img_size=img_size)
    pack_dir = images.train.root.parent / f"pack_{plan.pack_size}"
    write_pack(plan, pack_dir, skip=False, on_image=lambda *_: None)
    pack = open_pack(pack_dir, images.train, images.val)
    return ImageSplits(pack.train.images, pack.val.images, pack)


@pytest.fixture(params=["folder", "pack"])
def images(request, folder):
    return folder if request.param == "folder" else packed(folder)


def sized_folder(root, sizes):
    """Two classes with an image of each size, in both splits; JPEG and PNG take turns."""
    generator = np.random.default_rng(0)
    for split in ("train", "val"):
        for name in ("a", "b"):
            (root / split / name).mkdir(parents=True)
            for number, (width, height) in enumerate(sizes):
                pixels = generator.integers(0, 256, (height, width, 3), dtype=np.uint8)
                suffix = ("jpg", "png")[number % 2]
                Image.fromarray(pixels).save(root / split / name / f"{number}.{suffix}")
    return find_numbered(root)


def train_loader(images, *, batch_size=4, workers=0, seed=5, **settings):
    data = DataConfig(**{"img_size": 32} | settings, batch_size=batch_size, workers=workers)
    return closing(build_train_loader(data, images, seed=seed, device=CPU))


def eval_loader(images, *, batch_size=4, workers=0, img_size=32):
    data = DataConfig(batch_size=batch_size, img_size=img_size, workers=workers)
    return closing(build_eval_loader(data, images, device=CPU))


def targets(batches):
    return [batch[1].tolist() for batch in batches]


def assert_equal(ours, theirs):
    ours, theirs = list(ours), list(theirs)
    assert len(ours) == len(theirs)
    for (pixels, labels), (other_pixels, other_labels) in zip(ours, theirs, strict=True):
        assert torch.equal(pixels, other_pixels)
        assert torch.equal(labels, other_labels)


def helpers():
    """Worker processes, and threads that read a pack."""
    threads = [thread for thread in threading.enumerate() if thread.name.startswith("imgnet-mini")]
    return multiprocessing.active_children() + threads


@pytest.fixture(autouse=True)
def _no_helper_is_left():
    yield
    assert helpers() == []


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("build", [train_loader, eval_loader])
def test_a_batch_is_floats_and_targets(images, build, workers):
    with build(images, workers=workers) as loader:
        pixels, labels = next(loader.epoch(0))
    assert (pixels.shape, pixels.dtype) == ((4, 3, 32, 32), torch.float32)
    assert pixels.is_contiguous(memory_format=torch.channels_last)
    assert (labels.shape, labels.dtype) == ((4,), torch.int64)


def test_an_epoch_takes_each_image_at_most_once_in_whole_batches(images):
    with train_loader(images) as loader:
        assert len(loader) == 3
        assert (loader.images, loader.images_per_step) == (IMAGES, 4)
        for epoch in range(5):
            batches = targets(loader.epoch(epoch))
            assert [len(batch) for batch in batches] == [4, 4, 4]
            assert len(set(chain(*batches))) == 12


def test_over_the_epochs_no_image_is_left_out(images):
    with train_loader(images) as loader:
        seen = {
            label
            for epoch in range(20)
            for batch in targets(loader.epoch(epoch))
            for label in batch
        }
    assert seen == set(range(IMAGES))


def test_order_is_a_function_of_seed_and_epoch_alone(images):
    def order(seed, epochs):
        with train_loader(images, seed=seed) as loader:
            return {epoch: targets(loader.epoch(epoch)) for epoch in epochs}

    forwards, backwards = order(5, [0, 1, 2]), order(5, [2, 1, 0])
    assert forwards == backwards
    assert forwards[0] != forwards[1] != forwards[2]
    assert order(6, [0])[0] != forwards[0]


def test_augmentation_is_a_function_of_seed_epoch_and_image_alone(images):
    def by_image(batch_size, epoch, seed=5):
        with train_loader(
            images, batch_size=batch_size, seed=seed, use_class_style_aug=True
        ) as loader:
            return {
                int(label): image
                for pixels, labels in loader.epoch(epoch)
                for image, label in zip(pixels, labels, strict=True)
            }

    one, other = by_image(2, 1), by_image(7, 1)
    assert one.keys() == other.keys() == set(range(IMAGES))
    assert all(torch.equal(one[i], other[i]) for i in one)
    assert not any(torch.equal(one[i], image) for i, image in by_image(2, 2).items())
    assert not any(torch.equal(one[i], image) for i, image in by_image(2, 1, seed=6).items())


@pytest.mark.parametrize("style", [False, True])
def test_images_are_made_with_the_numbers_of_seed_epoch_and_index(folder, style):
    crop = TrainCrop(DataConfig(img_size=32))
    with train_loader(folder, use_class_style_aug=style) as loader:
        pixels, labels = next(loader.epoch(3))
    numbers = uniforms(5, 3, labels.numpy(), CROP_NUMBERS + RandomAffineErase.NUMBERS)
    expected = torch.stack(
        [
            crop.load(folder.train.path(label), drawn[:CROP_NUMBERS], 32)
            for label, drawn in zip(labels.tolist(), numbers.tolist(), strict=True)
        ]
    )
    if style:
        expected = RandomAffineErase(CPU).transform(expected, numbers[:, CROP_NUMBERS:])
    assert torch.equal(pixels, Normalize(CPU)(expected))


def test_class_style_changes_what_the_crop_gives_and_not_the_crop(images):
    same = []
    with train_loader(images) as plain, train_loader(images, use_class_style_aug=True) as styled:
        for ours, theirs in zip(plain.epoch(1), styled.epoch(1), strict=True):
            assert torch.equal(ours[1], theirs[1])
            same += [torch.equal(*pair) for pair in zip(ours[0], theirs[0], strict=True)]
    assert 0 < sum(same) < len(same)  # a quarter gets neither a warp nor a hole


@pytest.mark.parametrize("style", [False, True])
def test_a_pack_of_images_as_they_are_gives_the_training_batches_of_the_folder(tmp_path, style):
    folder = sized_folder(tmp_path / "data", [(40, 40)] * 5)
    pack = packed(folder, pack_size=40)
    settings = {"use_class_style_aug": style, "crop_scale_min": 0.3}
    for size in (32, 40, 64):
        with (
            train_loader(folder, img_size=size, **settings) as ours,
            train_loader(pack, img_size=size, workers=2, **settings) as theirs,
        ):
            for epoch in (0, 1):
                assert_equal(ours.epoch(epoch), theirs.epoch(epoch))


@pytest.mark.parametrize("pack_size", [32, 64, 200])
def test_folder_and_pack_draw_the_same_crops_whatever_the_size_of_the_pack(tmp_path, pack_size):
    """The colours of a pixel say where it is: in red from left to right, in green downwards."""
    for split in ("train", "val"):
        for number, (width, height) in enumerate([(180, 60), (60, 180), (90, 90), (300, 200)]):
            across, down = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
            (tmp_path / "data" / split / str(number)).mkdir(parents=True)
            pixels = np.stack([across, down, 0 * down], 2).round().astype(np.uint8)
            Image.fromarray(pixels).save(tmp_path / "data" / split / str(number) / "0.png")
    folder = find_numbered(tmp_path / "data")
    grey_levels = torch.tensor(STD).view(3, 1, 1)
    with (
        train_loader(folder, crop_scale_min=0.2) as ours,
        train_loader(packed(folder, pack_size=pack_size), crop_scale_min=0.2) as theirs,
    ):
        for epoch in range(10):
            (pixels, labels), (other_pixels, other_labels) = (
                *ours.epoch(epoch),
                *theirs.epoch(epoch),
            )
            assert torch.equal(labels, other_labels)
            # Corners are rounded to whole pixels of the pack, and then to grey levels.
            assert float(((pixels - other_pixels) * grey_levels).abs().max()) < 255 / pack_size + 3


@pytest.mark.parametrize("workers", [0, 2])
def test_a_pack_that_is_cropped_by_its_device_gives_the_same_within_one_grey_level(folder, workers):
    pack = packed(folder)
    one_grey_level = 1.001 / torch.tensor(STD).view(3, 1, 1)
    with train_loader(pack) as here, train_loader(pack, workers=workers) as there:
        there._source._crop_on_host = False  # as on a GPU
        for ours, theirs in zip(here.epoch(1), there.epoch(1), strict=True):
            assert torch.equal(ours[1], theirs[1])
            assert ((ours[0] - theirs[0]).abs() < one_grey_level).all()


@pytest.mark.parametrize("workers", [0, 2])
def test_packed_validation_images_are_those_of_the_folder_whatever_their_shape(tmp_path, workers):
    folder = sized_folder(tmp_path / "data", ODD_SIZES)
    with eval_loader(folder) as ours, eval_loader(packed(folder), workers=workers) as theirs:
        assert_equal(ours.epoch(0), theirs.epoch(0))


def test_validation_at_another_size_than_the_packs_decodes_the_files(folder):
    with (
        eval_loader(folder, img_size=48) as ours,
        eval_loader(packed(folder, img_size=32), img_size=48) as theirs,
    ):
        assert_equal(ours.epoch(0), theirs.epoch(0))


def test_a_pack_is_read_without_the_files(folder):
    pack = packed(folder)
    for split in (folder.train, folder.val):
        for index in range(IMAGES):
            split.path(index).unlink()
    for build in (train_loader, eval_loader):
        with build(pack, workers=1) as loader:
            assert len(list(loader.epoch(0))) == len(loader)


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_change_nothing(folder, workers):
    with train_loader(folder) as alone, train_loader(folder, workers=workers) as helped:
        for epoch in (0, 1):
            assert_equal(alone.epoch(epoch), helped.epoch(epoch))


@pytest.mark.parametrize("threads", [1, 2, 3, 9])
@pytest.mark.parametrize("build", [train_loader, eval_loader])
def test_threads_change_nothing(folder, build, threads):
    pack = packed(folder)
    for batch_size in (1, 4, IMAGES):
        with (
            build(pack, batch_size=batch_size) as alone,
            build(pack, batch_size=batch_size, workers=threads) as helped,
        ):
            for epoch in (0, 1):
                assert_equal(alone.epoch(epoch), helped.epoch(epoch))


@pytest.fixture
def spawning():
    """Workers that start as on Windows and macOS: nothing is inherited, all is pickled."""
    before = multiprocessing.get_start_method()
    multiprocessing.set_start_method("spawn", force=True)
    yield
    multiprocessing.set_start_method(before, force=True)


def test_workers_started_afresh_as_on_windows_change_nothing(folder, spawning):
    with train_loader(folder) as alone, train_loader(folder, workers=1) as helped:
        assert_equal(helped.epoch(1), alone.epoch(1))


@pytest.mark.parametrize("workers", [0, 2])
def test_a_start_within_an_epoch_equals_skipping(images, workers):
    with train_loader(images, batch_size=3, workers=workers) as loader:
        whole = list(loader.epoch(2))
        for start in range(len(whole) + 1):
            assert_equal(loader.epoch(2, start=start), whole[start:])
        assert_equal(loader.epoch(2), whole)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("build", [train_loader, eval_loader])
def test_an_epoch_left_half_way_does_not_show_in_the_next(images, build, workers):
    with build(images, batch_size=2, workers=workers) as loader:
        whole = list(loader.epoch(1))
        assert_equal(islice(loader.epoch(0), 2), islice(loader.epoch(0), 2))
        assert_equal(loader.epoch(1), whole)


def test_endless_batches_are_those_of_epoch_after_epoch(images):
    with train_loader(images) as loader:
        expected = [batch for epoch in range(3) for batch in loader.epoch(epoch)]
        assert_equal(islice(loader.endless(), 9), expected)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("build", [train_loader, eval_loader])
def test_the_global_generators_are_untouched(images, build, workers):
    before, numpy_before = torch.get_rng_state(), np.random.get_state()[1].copy()
    with build(images, workers=workers) as loader:
        for _ in loader.epoch(0):
            assert torch.equal(torch.get_rng_state(), before)
        list(loader.epoch(1))
    assert torch.equal(torch.get_rng_state(), before)
    assert np.array_equal(np.random.get_state()[1], numpy_before)


def test_the_state_of_the_global_generator_changes_nothing(images):
    with train_loader(images, workers=1, use_class_style_aug=True) as loader:
        expected = list(loader.epoch(0))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(99)
        for workers in (0, 1):
            with train_loader(images, workers=workers, use_class_style_aug=True) as loader:
                assert_equal(loader.epoch(0), expected)


@pytest.mark.parametrize("workers", [0, 2])
def test_evaluation_covers_each_image_once_in_order_with_a_partial_last_batch(images, workers):
    load = EvalCrop(32).load
    with eval_loader(images, workers=workers) as loader:
        assert (len(loader), loader.images) == (4, IMAGES)
        for _ in range(2):
            batches = list(loader.epoch(0))
            assert [len(labels) for _, labels in batches] == [4, 4, 4, 2]
            assert list(chain(*targets(batches))) == list(range(IMAGES))
    expected = torch.stack([load(images.val.path(i)) for i in range(IMAGES)])
    assert torch.equal(torch.cat([pixels for pixels, _ in batches]), Normalize(CPU)(expected))


def test_evaluation_takes_fewer_images_than_a_batch(images):
    with eval_loader(images, batch_size=100) as loader:
        assert len(loader) == 1
        assert targets(loader.epoch(0)) == [list(range(IMAGES))]


def test_a_batch_larger_than_the_split_is_refused_with_the_cure(images):
    with pytest.raises(
        ConfigError, match=r"--batch-size 15 .* 14 images .*--batch-size 14 or less"
    ):
        build_train_loader(DataConfig(batch_size=15), images, seed=0, device=CPU)
    with train_loader(images, batch_size=14) as loader:
        assert sorted(*targets(loader.epoch(0))) == list(range(IMAGES))


@pytest.mark.parametrize("workers", [0, 1, 2])
@pytest.mark.parametrize(("build", "split"), [(train_loader, "train"), (eval_loader, "val")])
def test_a_broken_image_is_named_without_a_traceback(folder, build, split, workers):
    path = getattr(folder, split).path(9)
    path.write_bytes(b"<html>")
    with (
        build(folder, workers=workers, batch_size=2) as loader,
        pytest.raises(DataError) as error,
    ):
        list(chain(loader.epoch(0), loader.epoch(1)))
    message = str(error.value)
    assert message.startswith(f"cannot decode {path}: not an image.")
    assert "imgnet-mini check" in message
    assert "--skip-bad" in message


def test_an_image_that_vanishes_is_named(folder):
    with eval_loader(folder, workers=1) as loader:
        folder.val.path(13).unlink()
        with pytest.raises(DataError) as error:
            list(loader.epoch(0))
    assert str(folder.val.path(13)) in str(error.value)


def test_workers_stay_between_epochs(images):
    with train_loader(images, workers=2) as loader:
        list(loader.epoch(0))
        first = {helper.ident for helper in helpers()}
        list(loader.epoch(1))
        later = {helper.ident for helper in helpers()}
        assert first
        assert first <= later  # a thread is started when there is work for it
        assert len(later) <= 2
    assert helpers() == []


@pytest.mark.parametrize("build", [train_loader, eval_loader])
def test_closing_ends_the_workers_in_the_middle_of_an_epoch(images, build):
    with build(images, workers=2, batch_size=1) as loader:
        batches = loader.epoch(0)
        next(batches)
        assert helpers()
        del batches
    assert helpers() == []


def test_closing_ends_the_workers_after_an_error_in_the_loop(images):
    def fail():
        with train_loader(images, workers=2, batch_size=1) as loader:
            for _ in loader.epoch(0):
                raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert helpers() == []


def test_closing_ends_the_workers_while_the_error_is_still_being_handled(images):
    try:
        with train_loader(images, workers=2, batch_size=1) as loader:
            for _ in loader.epoch(0):
                raise ZeroDivisionError
    except ZeroDivisionError:
        left = helpers()
    assert left == []


def test_closing_a_loader_that_was_never_used_is_no_trouble(images):
    with train_loader(images, workers=2):
        pass


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such signals for other processes")
@pytest.mark.parametrize("number", SIGNALS)
def test_workers_outlive_the_signals_that_stop_a_run(folder, number):
    with train_loader(folder) as alone:
        expected = list(alone.epoch(0))
    with train_loader(folder, workers=2) as loader:
        list(loader.epoch(1))
        for process in multiprocessing.active_children():
            os.kill(process.pid, number)
        assert_equal(loader.epoch(0), expected)


@pytest.mark.skipif(
    multiprocessing.get_start_method() != "fork", reason="other workers do not see the change"
)
def test_a_worker_that_dies_while_its_batch_is_fetched_is_a_lost_worker(folder, monkeypatch):
    """The system closes its sockets first; until it is dead, DataLoader takes it for alive."""
    load = EvalCrop.load

    def load_without_sockets(*args):
        listener = resource_sharer._resource_sharer._listener
        if listener is not None:
            listener._listener._socket.close()
        return load(*args)

    monkeypatch.setattr(EvalCrop, "load", load_without_sockets)
    with (
        eval_loader(folder, workers=1, batch_size=1) as loader,
        pytest.raises(WriteError, match="a worker process was killed"),
    ):
        list(loader.epoch(0))


@pytest.mark.skipif(
    multiprocessing.get_start_method() != "fork", reason="other workers do not see the change"
)
def test_a_worker_whose_reader_breaks_off_says_nothing(folder, monkeypatch, capfd):
    """So does the process that was told of another worker's death while it fetched a batch."""
    load = EvalCrop.load

    def load_and_break_off(*args):
        listener = resource_sharer._resource_sharer._listener
        if listener is not None:
            connection.SocketClient(listener.address).close()
        return load(*args)

    monkeypatch.setattr(EvalCrop, "load", load_and_break_off)
    with eval_loader(folder, workers=1, batch_size=1) as loader:
        assert len(list(loader.epoch(0))) == len(loader)
    assert capfd.readouterr().err == ""


def kill_a_worker_and_go_on(loader):
    for _ in chain.from_iterable(map(loader.epoch, range(1000))):
        os.kill(multiprocessing.active_children()[0].pid, signal.SIGKILL)


def test_workers_end_with_their_loader_also_while_an_error_of_theirs_is_told(folder):
    """Its traceback holds what DataLoader would end its workers by."""
    with (
        pytest.raises((RuntimeError, WriteError), match="worker") as told,
        train_loader(folder, workers=2) as loader,
    ):
        kill_a_worker_and_go_on(loader)
    assert told.tb
    assert helpers() == []
