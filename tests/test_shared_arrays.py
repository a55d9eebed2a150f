"""Arrays that one process writes and others map."""

import pickle
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from helpers.real_runs import FORKED
from imgnet_mini.distributed.shared_arrays import share_arrays


@dataclass(frozen=True)
class Listing:
    text: str
    names: np.ndarray
    numbers: np.ndarray


LISTING = Listing("x", np.array([b"a/1.jpg", b"b/22.jpg"]), np.arange(5))


def describe(listing, results):
    maps = Path("/proc/self/maps").read_text("utf-8")
    names, numbers = listing.names, listing.numbers
    is_mapped = "imgnet-mini-" in maps and not numbers.flags.owndata
    results.put((names.tolist(), numbers.tolist(), numbers.flags.writeable, is_mapped))


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_another_process_maps_the_arrays_read_only():
    results = FORKED.Queue()
    with share_arrays((LISTING, 3)) as (listing, number):
        other = FORKED.Process(target=describe, args=(listing, results))
        other.start()
        found = results.get(timeout=60)
        other.join()
    assert number == 3
    assert found == (LISTING.names.tolist(), LISTING.numbers.tolist(), False, True)


def test_arrays_stay_readable_after_the_files_are_removed(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", f"{tmp_path}")
    with share_arrays(LISTING) as shared:
        loaded = pickle.loads(pickle.dumps(shared))
    assert list(tmp_path.iterdir()) == []
    assert (loaded.text, loaded.numbers.tolist()) == ("x", LISTING.numbers.tolist())


class Pair(NamedTuple):
    first: np.ndarray
    second: str


def test_a_named_tuple_keeps_its_type():
    with share_arrays((Pair(LISTING.numbers, "x"),)) as shared:
        (pair,) = pickle.loads(pickle.dumps(shared))
    assert (type(pair), pair.first.tolist(), pair.second) == (Pair, LISTING.numbers.tolist(), "x")


def test_without_a_temporary_folder_the_arrays_are_pickled(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", f"{tmp_path / 'missing'}")
    empty = Listing("", LISTING.names[:0], LISTING.numbers)
    with share_arrays(empty) as shared:
        loaded = pickle.loads(pickle.dumps(shared))
    assert (loaded.names.tolist(), loaded.numbers.tolist()) == ([], LISTING.numbers.tolist())
