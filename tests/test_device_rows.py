"""A pack in GPU memory, on a CUDA device that is not there."""

from contextlib import closing

import numpy as np
import pytest
import torch

from helpers.fake_cuda import GIB, fake_cuda
from helpers.packs import DATA, build, opened
from imgnet_mini.config.data_settings import DataConfig
from imgnet_mini.data.loaders import build_train_loader
from imgnet_mini.data.pack.source import DeviceRows
from imgnet_mini.data.splits import ImageSplits
from imgnet_mini.data.tree import find_splits
from imgnet_mini.errors import ConfigError

CUDA = torch.device("cuda")


@pytest.fixture
def pack(data) -> ImageSplits:
    build()
    return ImageSplits(*find_splits(DATA), opened())


def train_loader(images, **settings):
    data = DataConfig(batch_size=6, workers=0, **{"img_size": 32} | settings)
    return closing(build_train_loader(data, images, seed=3, device=CUDA, epochs=3))


def is_resident(loader) -> bool:
    rows = loader._source._device_rows.tensor
    return rows is not None and rows.is_cuda


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"pack_on_device": "on"}, [True, True, True]),
        ({"pack_on_device": "auto"}, [False, True, True]),
        ({"pack_on_device": "off"}, [False, False, False]),
        ({"img_size": 48, "progressive": "32:48"}, [False, False, False]),
    ],
    ids=["on", "auto", "off", "growing images"],
)
def test_a_pack_is_resident_at_once_or_after_an_epoch_at_full_size_or_never(
    pack, settings, expected
):
    with fake_cuda(), train_loader(pack, **settings) as loader:
        for epoch, resident in enumerate(expected):
            assert len(list(loader.epoch(epoch))) == 4
            assert is_resident(loader) == resident


def test_an_epoch_without_batches_tells_nothing_about_memory(pack):
    """As after a stop in validation: the resumed run has no step left in its first epoch."""
    with fake_cuda(), train_loader(pack) as loader:
        assert list(loader.epoch(0, start=4)) == []
        next(loader.epoch(1))
        assert not is_resident(loader)


ROWS = np.empty((1024, 1024, 1024, 3), np.uint8)  # 3 GiB that are never touched


@pytest.mark.parametrize(("free", "fits"), [(3.3, False), (3.6, False), (4.0, True)])
def test_batches_gathered_on_the_device_and_a_margin_have_to_fit_too(free, fits):
    resident = DeviceRows(ROWS, CUDA, "auto", rows_ahead=100)  # 0.3 GiB, and 0.5 of 10 stay free
    resident.full_size_seen = True
    with fake_cuda(free=round(free * GIB)):
        resident.before_epoch()
    assert (resident.tensor is not None) == fits


def test_a_pack_that_cannot_fit_is_refused_where_it_was_requested():
    resident = DeviceRows(ROWS, CUDA, "on", rows_ahead=1024)
    with (
        fake_cuda(free=5 * GIB),
        pytest.raises(ConfigError, match=r"the pack needs 6\.4 GB .*auto or off"),
    ):
        resident.before_epoch()


def test_memory_is_given_back_once_and_for_good_unless_the_pack_was_requested(pack, capsys):
    with fake_cuda():
        with train_loader(pack, pack_on_device="auto") as loader:
            list(loader.epoch(0))
            assert not loader.can_free_memory
            assert not loader.free_memory()
            list(loader.epoch(1))
            assert loader.can_free_memory
            assert loader.free_memory()
            list(loader.epoch(2))
            assert not is_resident(loader)
        with train_loader(pack, pack_on_device="on") as loader:
            next(loader.epoch(0))
            assert not loader.free_memory()
            assert is_resident(loader)
    assert capsys.readouterr().err.count("GPU memory ran out") == 1
