"""Arrays that one process writes and others map."""

import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest

from helpers.real_runs import FORKED
from imgnet_mini.distributed.shared_arrays import share_arrays

NAMES = np.array([b"a/1.jpg", b"b/22.jpg"])
NUMBERS = np.arange(5)


def load(shared, results):
    found = shared.load()
    names, numbers = found["names"], found["numbers"]
    is_mapped = (
        shared.path.name in Path("/proc/self/maps").read_text("utf-8") and not numbers.flags.owndata
    )
    results.put(
        (found["text"], names.tolist(), numbers.tolist(), numbers.flags.writeable, is_mapped)
    )


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_another_process_maps_the_arrays_read_only_and_the_file_is_removed():
    results = FORKED.Queue()
    with share_arrays({"text": "x", "names": NAMES, "numbers": NUMBERS}) as shared:
        other = FORKED.Process(target=load, args=(shared, results))
        other.start()
        found = results.get(timeout=60)
        other.join()
    assert found == ("x", NAMES.tolist(), NUMBERS.tolist(), False, True)
    assert not shared.path.parent.exists()


def test_arrays_stay_readable_after_the_file_is_removed():
    with share_arrays(NUMBERS) as shared:
        loaded = shared.load()
    assert loaded.tolist() == NUMBERS.tolist()


def test_without_a_temporary_folder_the_arrays_are_pickled(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", f"{tmp_path / 'missing'}")
    with share_arrays([NUMBERS, NUMBERS[:0]]) as shared:
        assert [array.tolist() for array in shared.load()] == [NUMBERS.tolist(), []]
