"""Machines of one run that differ: in images, in versions. One message; all ranks end."""

import os
import shutil
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from conftest import write_folder
from helpers.rank_runs import RankProcesses
from imgnet_mini.data.splits import ImageSplits
from imgnet_mini.data.tree import find_splits
from imgnet_mini.distributed import process_group
from imgnet_mini.errors import DataError
from imgnet_mini.training.same_images import Listing, check_same_images

pytestmark = pytest.mark.skipif(os.name != "posix", reason="the ranks are forked")


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return write_folder(tmp_path_factory.mktemp("images") / "data", train=4, val=2, classes=3)


@pytest.fixture
def machines(images, tmp_path):
    """Folders of two machines, each with a copy of the images in `data`."""
    folders = [tmp_path / "machine0", tmp_path / "machine1"]
    for folder in folders:
        shutil.copytree(images, folder / "data")
    return folders


def enter_own_folder():
    os.chdir(f"machine{int(os.environ['RANK']) // int(os.environ['LOCAL_WORLD_SIZE'])}")


def train(folder, ranks, before=enter_own_folder):
    """Return the exit codes of a training on two machines, and what it printed."""
    words = ("--data-root", "data", "--arch", "plain", "--img-size", 32, "--batch-size", 4)
    words += ("--workers", 0, "--max-lr", 0.02, "--epochs", 1)
    began = time.monotonic()
    runs = RankProcesses(folder, ranks, ("train", *words), machines=2, before=before)
    codes = runs.wait(60)
    assert time.monotonic() - began < 50
    text = runs.log.read_text("utf-8")
    assert text.count("╭─ Error") == 1, text
    assert "Traceback" not in text
    return codes, " ".join(text.replace("│", " ").split())


def test_a_machine_with_other_images_ends_all_ranks_with_the_difference(machines, tmp_path):
    (machines[1] / "data/train/class_01/003.png").unlink()
    codes, text = train(tmp_path, 2)
    assert 4 in codes
    assert 0 not in codes
    host = os.uname().nodename
    assert f"differ between machines: only {host} (rank 0) has train/class_01/003.png" in text


def test_a_machine_without_the_images_ends_all_ranks_and_is_named(machines, tmp_path):
    shutil.rmtree(machines[1] / "data")
    codes, text = train(tmp_path, 4)
    assert codes[2] == 4
    assert 0 not in codes
    assert f"rank 2 of 4, on {os.uname().nodename}: " in text


def install_another_version():
    enter_own_folder()
    if os.environ["RANK"] == "1":
        process_group.__version__ = "0.1"


def test_machines_with_different_versions_end_with_both(machines, tmp_path):
    codes, text = train(tmp_path, 2, install_another_version)
    assert 2 in codes
    assert 0 not in codes
    host = os.uname().nodename
    assert f"imgnet-mini {process_group.__version__} on {host} (rank 0), imgnet-mini 0.1" in text


class Ranks:
    """Two ranks in two threads."""

    def __init__(self, rank, values, meeting):
        self.rank, self.values, self.meeting = rank, values, meeting

    def all_gather(self, value):
        self.values[self.rank] = value
        self.meeting.wait(10)
        values = list(self.values)
        self.meeting.wait(10)
        return values


def compare(*listings):
    """Return the message that both ranks end with; None if the images are the same."""
    values, messages, meeting = [None, None], [None, None], threading.Barrier(2)

    def check(rank):
        listing = listings[rank]
        try:
            check_same_images(listing, listing.digest, Path("data"), Ranks(rank, values, meeting))
        except DataError as error:
            messages[rank] = str(error)

    threads = [threading.Thread(target=check, args=(rank,)) for rank in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert messages[0] == messages[1]
    return messages[0]


def listing_of(machine, *, training=True, node=None, pack=None):
    images = ImageSplits(*find_splits(machine / "data"), pack=pack)
    return Listing(images, training, node or machine.name)


def test_equal_images_pass(machines):
    assert compare(*map(listing_of, machines)) is None


@pytest.mark.parametrize(
    ("file", "said"),
    [
        ("train/class_02/003.png", " bytes on machine0, and 5 on machine1"),
        ("val/class_00/more.png", "only machine1 has val/class_00/more.png"),
        ("train/class_00/more.png", "only machine1 has train/class_00/more.png"),
    ],
)
def test_the_first_difference_is_named(machines, file, said):
    (machines[1] / "data" / file).write_bytes(b"other")
    message = compare(*map(listing_of, machines))
    assert message.startswith("the images in data differ between machines: ")
    assert said in message


def test_a_class_of_one_machine_is_named(machines):
    for split in ("train", "val"):
        shutil.rmtree(machines[0] / "data" / split / "class_02")
    assert "only machine1 has train/class_02" in compare(*map(listing_of, machines))


def test_sizes_of_training_images_count_only_if_they_are_read(machines):
    (machines[1] / "data/train/class_00/003.png").write_bytes(b"other")
    assert compare(*(listing_of(machine, training=False) for machine in machines)) is None


def test_image_files_and_a_pack_are_different(machines):
    pack = SimpleNamespace(manifest=SimpleNamespace(pack_size=48, id="0123456789"))
    message = compare(listing_of(machines[0]), listing_of(machines[1], pack=pack))
    assert "machine0 reads image files, and machine1 reads a pack of 48 px (01234567)" in message
