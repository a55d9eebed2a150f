import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch

from helpers.fake_cuda import fake_cuda
from imgnet_mini.data.batches import (
    Batch,
    DevicePrefetcher,
    load_batches,
    prefetch_map,
    thread_pool,
)
from imgnet_mini.data.images import ImageError
from imgnet_mini.data.sampler import BatchKey


@pytest.fixture(params=[1, 3])
def pool(request):
    with ThreadPoolExecutor(request.param) as threads:
        yield threads


@pytest.mark.parametrize("ahead", [0, 1, 4, 100])
def test_results_come_in_the_order_of_the_items(pool, ahead):
    later = threading.Event()

    def work(item):
        if item == 0:  # the first is done last, where others may go before it
            later.wait(0.05)
        return item * item

    assert list(prefetch_map(work, range(20), pool, ahead)) == [n * n for n in range(20)]
    assert list(prefetch_map(work, [], pool, ahead)) == []


@pytest.mark.parametrize("ahead", [0, 1, 4])
def test_no_more_is_begun_than_asked_for_in_advance(pool, ahead):
    taken = []

    def items():
        for item in range(10):
            taken.append(item)
            yield item

    with closing(prefetch_map(str, items(), pool, ahead)) as results:
        assert taken == []
        for number, result in enumerate(results):
            assert result == str(number)
            assert len(taken) == min(10, number + ahead + 1)


def test_what_is_asked_for_in_advance_is_made_side_by_side():
    meeting = threading.Barrier(3, timeout=30)
    with ThreadPoolExecutor(3) as pool:
        results = prefetch_map(lambda _: meeting.wait(), range(3), pool, ahead=2)
        assert sorted(results) == [0, 1, 2]


@pytest.mark.parametrize("ahead", [0, 2, 10])
def test_an_error_comes_in_the_place_of_its_result(pool, ahead):
    results = prefetch_map(lambda item: 6 // (2 - item), range(5), pool, ahead)
    assert list(islice(results, 2)) == [3, 6]
    with pytest.raises(ZeroDivisionError):
        next(results)
    assert list(results) == []


def test_an_error_of_the_items_comes_through(pool):
    def items():
        yield 1
        raise KeyError("gone")

    with pytest.raises(KeyError, match="gone"):
        list(prefetch_map(str, items(), pool, ahead=4))


def test_closing_cancels_what_has_not_begun():
    begun, running, release = [], threading.Event(), threading.Event()

    def work(item):
        begun.append(item)
        if item == 1:
            running.set()
            assert release.wait(30)

    with ThreadPoolExecutor(1) as pool:
        results = prefetch_map(work, range(10), pool, ahead=5)
        next(results)
        assert running.wait(30)
        results.close()
        release.set()
    assert begun == [0, 1]


def a_batch(crops):
    images = torch.randint(256, (2, 3, 8, 8), dtype=torch.uint8)
    return Batch(images, torch.tensor([1, 0]), BatchKey(3, np.array([5, 7]), 8), crops)


def tensors_of(batch):
    return [batch.images, batch.targets] + ([] if batch.crops is None else [batch.crops])


@pytest.mark.parametrize("crops", [None, torch.ones(2, 5)], ids=["cut", "to be cut"])
def test_a_function_is_applied_to_each_tensor_of_a_batch_and_its_key_kept(crops):
    batch = a_batch(crops)
    changed = batch.map_tensors(lambda tensor: tensor + 1)
    assert changed.key is batch.key
    for before, after in zip(tensors_of(batch), tensors_of(changed), strict=True):
        assert torch.equal(after, before + 1)


@pytest.mark.parametrize("crops", [None, torch.ones(2, 5)], ids=["cut", "to be cut"])
def test_a_batch_stays_as_it_is_on_the_cpu(crops):
    batch = a_batch(crops)
    moved = DevicePrefetcher(torch.device("cpu"))(batch)
    assert isinstance(moved, Batch)
    assert all(after is before for before, after in zip(batch, moved, strict=True))


def test_each_tensor_of_a_batch_moves_to_the_device():
    moved = DevicePrefetcher(torch.device("meta"))(a_batch(torch.ones(2, 5)))
    assert {tensor.device.type for tensor in tensors_of(moved)} == {"meta"}


def test_the_compute_stream_waits_for_the_copies_to_a_gpu_and_their_memory_is_kept_for_it():
    with fake_cuda() as cuda:
        moved = DevicePrefetcher(torch.device("cuda"))(a_batch(torch.ones(2, 5)))
    assert all(tensor.is_cuda for tensor in tensors_of(moved))
    copies, keeps = [("copy", "copy")] * 3, [("keep memory for", "compute")] * 3
    assert cuda.events == [*copies, ("wait", "compute", "copy"), *keeps]


def test_threads_that_share_work_start_no_team_of_torchs_own_and_leave_the_main_threads_alone():
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        with thread_pool(2) as pool:
            assert [pool.submit(torch.get_num_threads).result() for _ in range(4)] == [1] * 4
            assert torch.get_num_threads() == 3
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


def numbered(path):
    """A load that makes (1,) tensors of the names, and takes those of letters for broken."""
    if not path.name.isdigit():
        raise ImageError(path, "it is no number")
    return torch.tensor([int(path.name)])


def load(names, *, batch_size, threads=3):
    return list(
        load_batches(list(map(Path, names)), numbered, batch_size=batch_size, threads=threads)
    )


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("batch_size", [1, 4, 7, 100])
def test_every_file_comes_once_and_in_order(batch_size, threads):
    names = [f"{number}" if number % 5 else f"x{number}" for number in range(23)]
    batches = load(names, batch_size=batch_size, threads=threads)
    assert len(batches) == -(-23 // batch_size)
    assert [str(file) for batch in batches for file in batch.files] == [
        name for name in names if name.isdigit()
    ]
    for batch in batches:
        assert [int(image) for image in batch.images] == [int(file.name) for file in batch.files]
        assert len(batch.files) + len(batch.broken) <= batch_size
    assert [error.path.name for batch in batches for error in batch.broken] == names[::5]


def test_no_files_are_no_batches():
    assert load([], batch_size=4) == []


def test_an_error_that_is_not_the_images_ends_it():
    with pytest.raises(ZeroDivisionError):
        list(load_batches([Path("a")], lambda _: 1 / 0, batch_size=1, threads=1))


def test_little_more_than_a_batch_is_held_ahead():
    begun = []

    def noting(path):
        begun.append(path)
        return torch.zeros(1)

    batches = load_batches([Path("0")] * 100, noting, batch_size=4, threads=2)
    next(batches)
    batches.close()
    assert 4 <= len(begun) <= 10
