import errno
import os

import numpy as np
import pytest

from imgnet_mini.data.pack.arrays import ArraySpec, GrowingArray
from imgnet_mini.data.pack.format import index_dtype

SOURCES = [
    pytest.param(np.arange(60, dtype=np.uint8).reshape(5, 2, 2, 3), id="pixels"),
    pytest.param(np.arange(5, dtype="<i8"), id="numbers"),
    pytest.param(
        np.array([(b"a/%d.jpg" % n, n, n, n, n, -n) for n in range(5)], index_dtype(7)), id="rows"
    ),
]


def grown(path, source, *, keep=0):
    """An array that kept some rows of the source and got the others."""
    array = GrowingArray(ArraySpec(path, source.dtype, source.shape[1:]), keep=keep)
    for row in source[keep:]:
        array.append(row[None])
    return array


@pytest.fixture
def path(tmp_path):
    return tmp_path / "x.npy"


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("rows", [0, 1, 5])
def test_a_finished_file_equals_that_of_numpy_save(path, tmp_path, source, rows):
    array = grown(path, source[:rows])
    array.finish()
    array.close()
    np.save(tmp_path / "whole.npy", source[:rows])
    assert path.read_bytes() == (tmp_path / "whole.npy").read_bytes()
    loaded = np.load(path)
    assert loaded.dtype == source.dtype
    assert np.array_equal(loaded, source[:rows])


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("keep", range(6))
def test_any_number_of_rows_can_be_kept_and_the_rest_appended_again(path, source, keep):
    whole = grown(path, source)
    whole.finish()
    whole.close()
    before = path.read_bytes()
    again = grown(path, source, keep=keep)
    assert again.rows == len(source)
    again.finish()
    again.close()
    assert path.read_bytes() == before


def test_half_a_row_at_the_end_is_dropped(path):
    source = np.arange(60, dtype=np.uint8).reshape(5, 12)
    grown(path, source[:3]).close()
    with path.open("ab") as file:
        file.write(b"half")
    array = grown(path, source, keep=3)
    array.finish()
    array.close()
    assert np.array_equal(np.load(path), source)


def test_an_unfinished_file_claims_no_rows(path):
    source = np.arange(60, dtype=np.uint8).reshape(5, 12)
    array = grown(path, source)
    array.flush()
    assert np.load(path).shape == (0, 12)
    array.finish()
    array.close()
    again = GrowingArray(ArraySpec(path, source.dtype, (12,)), keep=5)
    again.flush()
    assert np.load(path).shape == (0, 12)
    again.close()


def test_without_rows_to_keep_the_file_is_replaced(path):
    grown(path, np.arange(5, dtype="<i8")).close()
    array = GrowingArray(ArraySpec(path, np.dtype("<i8"), ()), keep=0)
    array.finish()
    array.close()
    assert np.load(path).tolist() == []


def test_the_header_has_room_for_any_number_of_rows(path):
    array = GrowingArray(ArraySpec(path, np.dtype(np.uint8), (2048, 2048, 3)), keep=0)
    before = path.stat().st_size
    array.rows = 10**15
    array.finish()
    array.close()
    assert path.stat().st_size == before


def test_rows_of_any_layout_and_dtype_are_converted(path):
    source = np.arange(24).reshape(4, 6)
    array = GrowingArray(ArraySpec(path, np.dtype(np.uint8), (6,)), keep=0)
    array.append(np.asfortranarray(source)[:2])
    array.append(source[2:, ::-1][:, ::-1])
    array.finish()
    array.close()
    assert np.array_equal(np.load(path), source)


def test_flushed_rows_are_on_the_disk(path):
    array = grown(path, np.arange(5, dtype="<i8"))
    array.flush()
    assert path.read_bytes().endswith(np.arange(5, dtype="<i8").tobytes())
    array.close()


def test_an_existing_symlink_is_replaced_and_its_target_unchanged(path, tmp_path):
    precious = tmp_path / "precious"
    precious.write_bytes(b"mine")
    path.symlink_to(precious)
    array = grown(path, np.arange(5, dtype="<i8"))
    array.finish()
    array.close()
    assert precious.read_bytes() == b"mine"
    assert np.array_equal(np.load(path), np.arange(5))


@pytest.mark.skipif(os.name != "posix", reason="Windows has no such flag")
def test_no_rows_are_kept_through_a_symlink(path, tmp_path):
    source = np.arange(5, dtype="<i8")
    grown(tmp_path / "elsewhere.npy", source).close()
    path.symlink_to(tmp_path / "elsewhere.npy")
    assert not ArraySpec(path, source.dtype, ()).holds_rows(3)
    with pytest.raises(OSError, match=os.strerror(errno.ELOOP)):
        GrowingArray(ArraySpec(path, source.dtype, ()), keep=3)


def test_the_rows_of_an_unfinished_array_are_read(path):
    source = np.arange(24, dtype="<i8").reshape(4, 6)
    array = grown(path, source)
    assert np.array_equal(array.spec.read(3), source[:3])
    assert array.spec.read(0).shape == (0, 6)
    array.close()
