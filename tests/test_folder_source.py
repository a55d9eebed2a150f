import os
import shutil
import subprocess
import sys

import pytest

from conftest import SMALL
from imgnet_mini.data.folder_source import (
    PREFETCH_FACTOR,
    check_shared_memory,
    shared_memory_error,
)
from imgnet_mini.errors import WriteError

linux = pytest.mark.skipif(sys.platform != "linux", reason="shared memory is a folder on Linux")

MB = 10**6
BATCH = 64 * 3 * 224 * 224
"""Bytes of a batch of the default settings: 9.6 MB."""

LITTLE = "mount -t tmpfs -o size=8m tmpfs /dev/shm && exec "


@pytest.fixture
def free(monkeypatch):
    """`free(n)`: from here on, /dev/shm has n bytes free."""

    def set_free(size):
        usage, real = shutil._ntuple_diskusage(64 * MB, 64 * MB - size, size), shutil.disk_usage
        monkeypatch.setattr(
            shutil,
            "disk_usage",
            lambda path: usage if os.fspath(path) == "/dev/shm" else real(path),
        )

    return set_free


@linux
def test_two_batches_for_each_worker_and_one_in_use_must_fit(free):
    need = (2 * PREFETCH_FACTOR + 1) * BATCH
    free(need)
    check_shared_memory(2, BATCH)
    free(need - 1)
    with pytest.raises(WriteError, match="2 worker"):
        check_shared_memory(2, BATCH)


@linux
def test_the_error_says_what_is_there_what_is_needed_and_two_ways_out(free):
    free(8 * MB)
    with pytest.raises(WriteError) as error:
        check_shared_memory(2, BATCH)
    assert str(error.value) == (
        "/dev/shm has 8.0 MB free, and 2 worker(s) need 48.2 MB: use --workers 0, or "
        "docker run --shm-size=1g"
    )
    assert error.value.exit_code == 5


@pytest.mark.parametrize(
    ("batches", "advice"),
    [(0, "--workers 0,"), (2, "--workers 0,"), (3, "--workers 1 or 0,"), (15, "--workers 7 or 0,")],
)
def test_as_many_workers_are_advised_as_would_fit(free, batches, advice):
    free(batches * BATCH)
    assert advice in str(shared_memory_error(8, BATCH))


def test_without_workers_there_is_no_need(free):
    free(0)
    check_shared_memory(0, BATCH)


@linux
def test_training_is_refused_before_it_starts(cli, data, free):
    free(60_000)
    assert cli("train", *SMALL, "--workers", 2) == 5
    assert cli.says("/dev/shm has 60.0 kB free, and 2 worker(s) need 92.2 kB: use --workers 1 or 0")
    assert cli("train", *SMALL, "--workers", 1) == 0, cli.err


def in_little_memory(*command):
    """Run a command where /dev/shm has 8 MB; skips where that cannot be had."""
    if sys.platform != "linux" or os.geteuid() != 0 or shutil.which("unshare") is None:
        pytest.skip("needs root and Linux")
    unshare = ["unshare", "--mount", "sh", "-c"]
    if subprocess.run([*unshare, LITTLE + "true"], check=False, capture_output=True).returncode:
        pytest.skip("a file system cannot be mounted here")
    return subprocess.run(
        [*unshare, LITTLE + '"$@"', "sh", sys.executable, *map(str, command)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.mark.slow
def test_c10_in_8_mb_training_ends_with_5_and_advice(data):
    options = (*SMALL, "--img-size", 256, "--batch-size", 24, "--workers")
    done = in_little_memory("-m", "imgnet_mini", "train", *options, 2)
    assert done.returncode == 5, done.stderr
    assert "/dev/shm has 8.4 MB free, and 2 worker(s) need 23.6 MB" in done.stderr
    assert "Traceback" not in done.stderr


FILLED_UP = """
import torch
from imgnet_mini.config.run_config import RunConfig
from imgnet_mini.data import folder_source
from imgnet_mini.data.splits import open_splits
from imgnet_mini.data.loaders import build_train_loader
from imgnet_mini.errors import WriteError

folder_source.check_shared_memory = lambda *_: None  # as if there had been room then
data = {"img_size": 512, "batch_size": 12, "workers": 2}
config = RunConfig().override({"run": {"data_root": "data"}, "data": data})
images = open_splits(config.run, config.data)
loader = build_train_loader(config.data, images, seed=0, device=torch.device("cpu"))
kept = []
try:
    kept += loader.epoch(0)
except WriteError as error:
    print(error)
loader.close()
"""


@pytest.mark.slow
def test_c10_memory_that_is_filled_later_is_an_error_and_not_a_wait_for_ever(data):
    done = in_little_memory("-c", FILLED_UP)
    assert done.returncode == 0, done.stderr
    assert "2 worker(s) need 47.2 MB: use --workers 0, or docker run" in done.stdout
    assert "Traceback" not in done.stderr
