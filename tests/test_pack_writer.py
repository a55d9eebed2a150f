import contextlib
import errno
import json
import os
import random
import shutil
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from filelock import FileLock

from conftest import write_folder
from helpers.packs import DATA, PACK, arrays, build, jpeg, opened, siblings
from imgnet_mini.data.pack import builder as pack_builder
from imgnet_mini.data.pack.arrays import GrowingArray
from imgnet_mini.data.pack.plan import ImagePacker
from imgnet_mini.errors import DataError, ImgnetMiniError, InUseError, WriteError
from imgnet_mini.utils.signals import StopRequestedError

posix = pytest.mark.skipif(os.name != "posix", reason="Windows has no such limits and signals")

PARTIAL = Path("data/pack.partial")
IMAGE = DATA / "train" / "class_01" / "001.png"


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A data folder, to be copied for each test; and the arrays of its pack at 40 px."""
    folder = tmp_path_factory.mktemp("built")
    with contextlib.chdir(folder):
        write_folder(DATA, train=2, val=1)
        build(Path("undisturbed"), pack_size=40)
        return folder / DATA, arrays(Path("undisturbed"))


@pytest.fixture
def data(built):
    """6 training and 3 validation images in `data/`; sides from 32 to 48 pixels."""
    shutil.copytree(built[0], DATA)  # with the times of the files


@pytest.fixture
def expected(data, built):
    """The arrays of an undisturbed build at 40 px."""
    return built[1]


@pytest.fixture
def decoded(monkeypatch):
    """The files decoded so far."""
    paths = []
    pack = ImagePacker.__call__

    def remember(self, path):
        paths.append(path)
        return pack(self, path)

    monkeypatch.setattr(ImagePacker, "__call__", remember)
    return paths


def stop_at(number):
    """An `on_image` that ends the build with its n-th image."""
    left = iter(range(number - 1, -1, -1))

    def on_image(*_):
        if next(left, None) == 0:
            raise StopRequestedError(signal.SIGINT)

    return on_image


def stop(number, **settings):
    with pytest.raises(StopRequestedError):
        build(on_image=stop_at(number), **settings)


def fail(*_args, **_settings):
    raise OSError(errno.EIO, os.strerror(errno.EIO))


def assert_complete(expected):
    opened()
    assert arrays() == expected
    assert siblings() == {"pack"}


def assert_nothing_wrong(*right):
    """Any pack that can be opened is one of these."""
    for folder in (PACK, PARTIAL, DATA / "pack.old"):
        try:
            opened(folder)
        except DataError:
            continue
        assert arrays(folder) in right


def test_a_build_leaves_nothing_but_the_pack(expected):
    manifest = build(pack_size=40)
    assert_complete(expected)
    assert opened().manifest == manifest


def test_parent_folders_are_created(data, tmp_path):
    build(tmp_path / "a" / "b" / "pack")
    assert [path.name for path in (tmp_path / "a" / "b").iterdir()] == ["pack"]
    opened(tmp_path / "a" / "b" / "pack")


def test_on_image_is_called_with_split_and_count(data):
    told = []
    build(on_image=lambda *args: told.append(args))
    assert told == [("train", n) for n in range(1, 7)] + [("val", n) for n in range(1, 4)]


@pytest.mark.parametrize("number", range(1, 10))
def test_a_build_stopped_after_any_image_and_continued_is_the_same(expected, decoded, number):
    stop(number, pack_size=40)
    assert siblings() == {"pack.partial"} | siblings() & {".pack.partial.lock"}
    with pytest.raises(DataError, match="no pack"):
        opened()
    with pytest.raises(DataError):
        opened(PARTIAL)
    told = []
    del decoded[:]
    manifest = build(pack_size=40, on_image=lambda *args: told.append(args))
    assert len(told) == len(decoded) == 9 - number
    assert_complete(expected)
    pixels = np.load(PACK / "train_images.npy").reshape(-1, 3)
    assert manifest.mean == pytest.approx(pixels.mean(0), abs=5.01e-4)
    assert manifest.std == pytest.approx(pixels.std(0), abs=5.01e-4)


def test_a_build_stopped_after_every_image_gives_the_same_pack(expected):
    for _ in range(9):
        stop(1, pack_size=40)
    build(pack_size=40)
    assert_complete(expected)


def test_problems_and_suspects_found_before_the_stop_are_kept(data):
    IMAGE.write_bytes(b"<html>")
    content = jpeg()
    half = len(content) // 2
    suspect = IMAGE.with_name("000.JPEG")
    suspect.write_bytes(content[:half] + b"\xff\xd3" + content[half + 2 :])
    whole = build(DATA / "whole", skip=True)
    assert len(whole.skipped) == len(whole.suspect) == 1
    stop(5, skip=True)
    manifest = build(skip=True)
    assert manifest.skipped == whole.skipped
    assert manifest.suspect == whole.suspect
    assert arrays() == arrays(DATA / "whole")


def grow(image):
    image.write_bytes(image.read_bytes() + b"  ")


def touch(image):
    os.utime(image, ns=(0, 1))


def replace(image):
    stat = image.stat()
    image.write_bytes(IMAGE.with_name("000.JPEG").read_bytes())
    os.utime(image, ns=(0, stat.st_mtime_ns + 1))


def add(image):
    image.with_name("000.png").write_bytes(image.read_bytes())


@pytest.mark.parametrize("change", [grow, touch, replace, add], ids=lambda change: change.__name__)
@pytest.mark.parametrize("image", [IMAGE, DATA / "val" / "class_00" / "000.JPEG"])
def test_a_source_changed_after_the_stop_restarts_the_build(data, change, image):
    stop(8)
    change(image)
    told = []
    build(on_image=lambda *args: told.append(args))
    assert len(told) == 9 + (change is add)
    build(DATA / "undisturbed")
    assert arrays() == arrays(DATA / "undisturbed")
    opened()


@pytest.mark.parametrize("settings", [{"pack_size": 33}, {"img_size": 33}])
def test_other_settings_after_the_stop_restart_the_build(data, settings):
    stop(8, **({"pack_size": 40} | settings))
    told = []
    build(pack_size=40, on_image=lambda *args: told.append(args))
    assert len(told) == 9
    build(DATA / "undisturbed", pack_size=40)
    assert arrays() == arrays(DATA / "undisturbed")


def test_a_source_changed_during_the_build_makes_the_pack_outdated(data):
    last = DATA / "val" / "class_02" / "000.JPEG"
    build(on_image=lambda split, count: grow(last) if (split, count) == ("train", 1) else None)
    with pytest.raises(DataError, match=r"1 files .* have changed \(first: class_02/000\.JPEG\)"):
        opened()
    build()
    opened()


@posix
def test_an_open_pack_can_be_replaced_and_keeps_its_contents(expected):
    build(pack_size=40)
    packed = opened().train
    build(pack_size=33)
    assert packed.pixels.tobytes() == expected["train_images.npy"][-packed.pixels.nbytes :]


class KilledError(BaseException):
    """Ends a build without a chance to save."""


def kill_at(number, monkeypatch):
    def give_up(self):
        raise KilledError

    def on_image(split, count):
        if (split, count) == ("train", number):
            monkeypatch.setattr(pack_builder.PackBuilder, "_save", give_up)
            raise KilledError

    return on_image


@pytest.mark.parametrize("number", [1, 5])
def test_a_killed_build_of_other_settings_in_between_has_no_effect(expected, monkeypatch, number):
    stop(4, pack_size=40)
    with monkeypatch.context() as patch, pytest.raises(KilledError):
        build(pack_size=33, on_image=kill_at(number, patch))
    build(pack_size=40)
    assert_complete(expected)


def test_a_build_refused_for_lack_of_space_in_between_has_no_effect(expected, monkeypatch):
    stop(4, pack_size=40)
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(9, 9, 0))
        with pytest.raises(WriteError):
            build(pack_size=2048)
    build(pack_size=40)
    assert_complete(expected)


@pytest.mark.parametrize("name", ["train_images.npy", "train_index.npy", "val_skipped.npy"])
@pytest.mark.parametrize("loss", ["gone", "cut"])
def test_lost_files_of_a_partial_pack_are_rebuilt(expected, name, loss):
    stop(7, pack_size=40)
    if loss == "gone":
        (PARTIAL / name).unlink()
    else:
        os.truncate(PARTIAL / name, 130)
    build(pack_size=40)
    assert_complete(expected)


@pytest.mark.parametrize("content", ["", "{", "[]", "7", "{}"])
def test_a_damaged_progress_file_restarts_the_build(expected, content):
    stop(7, pack_size=40)
    (PARTIAL / "progress.json").write_text(content)
    build(pack_size=40)
    assert_complete(expected)


def test_progress_is_saved_during_the_build(data, monkeypatch):
    monkeypatch.setattr(pack_builder, "SAVE_SECONDS", 0.0)
    seen = []

    def on_image(split, count):
        rows = json.loads((PARTIAL / "progress.json").read_text())["rows"]
        pixels = (PARTIAL / f"{split}_images.npy").stat().st_size
        index = (PARTIAL / f"{split}_index.npy").stat().st_size
        seen.append((rows[f"{split}_images.npy"], rows[f"{split}_index.npy"], pixels, index))

    manifest = build(on_image=on_image)
    dtype = np.load(PACK / "train_index.npy").dtype
    side = {"train": manifest.pack_size, "val": manifest.img_size}
    head = {
        (split, what): (PACK / f"{split}_{what}.npy").stat().st_size - manifest.images[split] * size
        for split in side
        for what, size in (("images", 3 * side[split] ** 2), ("index", dtype.itemsize))
    }
    assert seen == [
        (
            n,
            n,
            head[split, "images"] + n * 3 * side[split] ** 2,
            head[split, "index"] + n * dtype.itemsize,
        )
        for split, count in (("train", 6), ("val", 3))
        for n in range(1, count + 1)
    ]


@posix
def test_rows_are_flushed_before_the_progress_that_counts_them(data, monkeypatch):
    monkeypatch.setattr(pack_builder, "SAVE_SECONDS", 0.0)
    calls = []
    fsync, replace = os.fsync, Path.replace
    monkeypatch.setattr(os, "fsync", lambda fd: (calls.append("flush"), fsync(fd)))
    monkeypatch.setattr(Path, "replace", lambda *paths: (calls.append(paths[1]), replace(*paths)))
    with pytest.raises(StopRequestedError):
        build(on_image=stop_at(1))
    one = ["flush"] * 9 + [PARTIAL / "progress.json"] + ["flush"]  # 8 arrays, the note, the folder
    assert calls == one * 2


def failing_at(number, whole, error, *, afterwards=False):
    """A function that fails in its n-th call, and one that tells whether it has."""
    calls = 0

    def step(*args, **settings):
        nonlocal calls
        calls += 1
        if calls == number and not afterwards:
            raise error
        result = whole(*args, **settings)
        if calls == number:
            raise error
        return result

    return step, lambda: calls >= number


def test_an_interruption_between_any_two_writes_does_not_change_the_pack(expected, monkeypatch):
    IMAGE.write_bytes(b"<html>")
    whole = build(DATA / "whole", pack_size=40, skip=True)
    append = GrowingArray.append
    for number in range(1, 100):
        step, came = failing_at(number, append, KeyboardInterrupt(), afterwards=True)
        with monkeypatch.context() as patch, suppress(KeyboardInterrupt):
            patch.setattr(GrowingArray, "append", step)
            build(pack_size=40, skip=True)
        if not came():
            break
        assert not PACK.exists()
        manifest = build(pack_size=40, skip=True)
        assert arrays() == arrays(DATA / "whole"), f"interrupted at write {number}"
        assert manifest.model_copy(update={"created": whole.created}) == whole
        shutil.rmtree(PACK)
    assert number == 26  # one more than the writes: 3 of each of 8 images, 1 of the broken one


STEPS = [
    (os, "fsync"),
    (Path, "replace"),
    (Path, "unlink"),
    (Path, "rmdir"),
    (Path, "mkdir"),
    (GrowingArray, "append"),
    (GrowingArray, "finish"),
    (GrowingArray, "flush"),
    (np, "save"),
]


@pytest.mark.parametrize(("place", "name"), STEPS, ids=lambda value: str(value).split(".")[-1])
def test_a_failure_at_any_step_leaves_the_old_pack_or_the_new_one_or_none(
    expected, monkeypatch, place, name
):
    build(pack_size=33)
    shutil.copytree(PACK, "old")
    whole = getattr(place, name)
    for number in range(1, 100):
        shutil.rmtree(PACK)
        shutil.copytree("old", PACK)
        step, came = failing_at(number, whole, OSError(errno.EIO, os.strerror(errno.EIO)))
        with monkeypatch.context() as patch, suppress(WriteError):
            patch.setattr(place, name, step)
            build(pack_size=40)
        if not came():
            break
        assert_nothing_wrong(arrays(Path("old")), expected)
        build(pack_size=40)
        assert_complete(expected)
    assert 1 < number < 99


def test_a_failed_rename_does_not_lose_the_built_pack(expected, decoded, monkeypatch):
    build(pack_size=33)
    replace = Path.replace

    def busy(self, target):
        return fail() if self == PACK else replace(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", busy)
        with pytest.raises(WriteError, match="are kept"):
            build(pack_size=40)
    del decoded[:]
    build(pack_size=40)
    assert_complete(expected)
    assert decoded == []


@posix
@pytest.mark.parametrize("limit", [100, 300, 1000, 4000, 12_000, 20_000, 28_000])
def test_a_disk_full_during_the_build_is_reported_and_the_next_build_continues(expected, limit):
    import resource  # noqa: PLC0415 - not on Windows

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        with pytest.raises(WriteError, match=r"cannot write .*pack"):
            build(pack_size=40)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not PACK.exists()
    build(pack_size=40)
    assert_complete(expected)


def test_a_disk_full_from_one_image_on_keeps_the_earlier_images(expected, decoded, monkeypatch):
    append = GrowingArray.append

    def full(self, rows):
        if self._file.name.endswith("train_images.npy") and self.rows == 4:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        append(self, rows)

    with monkeypatch.context() as patch:
        patch.setattr(GrowingArray, "append", full)
        with pytest.raises(WriteError) as error:
            build(pack_size=40)
    assert os.strerror(errno.ENOSPC) in str(error.value)
    assert "--pack-dir" in str(error.value)
    del decoded[:]
    build(pack_size=40)
    assert len(decoded) == 5
    assert_complete(expected)


def test_a_disk_too_small_is_reported_before_anything_is_written(data, decoded, monkeypatch):
    gib = 2**30
    usage = shutil._ntuple_diskusage(gib, gib - 50, 50)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(WriteError, match=r"75\.5 MB.* 0\.1 kB free") as error:
        build(pack_size=2048)
    for words in ("--pack-dir", "--pack-size", str(DATA)):
        assert words in str(error.value)
    assert decoded == []
    assert sum(path.stat().st_size for path in DATA.glob("pack*/*")) == 0


def test_rows_already_written_need_no_more_space(expected, monkeypatch):
    stop(8, pack_size=40)
    room = 3 * 40 * 40 * 6 // 4
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(9, 9, room))
    build(pack_size=40)
    assert_complete(expected)


def test_all_broken_files_are_listed_and_no_pack_is_written(data):
    broken = [IMAGE, DATA / "val" / "class_02" / "000.JPEG"]
    for path in broken:
        path.write_bytes(b"")
    with pytest.raises(DataError, match=r"^2 file\(s\)") as error:
        build()
    lines = (PARTIAL / "problems.txt").read_text("utf-8").splitlines()
    assert len(lines) == 2
    for path, line in zip(broken, lines, strict=True):
        assert path.relative_to(DATA).as_posix() in line
        assert line in str(error.value)
    assert str(PARTIAL / "problems.txt") in str(error.value)
    assert "--skip-bad" in str(error.value)
    assert not PACK.exists()
    with pytest.raises(DataError):
        opened(PARTIAL)


def test_broken_files_do_not_remove_the_old_pack(data):
    build()
    before = arrays()
    content, stat = IMAGE.read_bytes(), IMAGE.stat()
    IMAGE.write_bytes(b"")
    with pytest.raises(DataError):
        build()
    IMAGE.write_bytes(content)
    os.utime(IMAGE, ns=(0, stat.st_mtime_ns))
    opened()
    assert arrays() == before


def test_skip_continues_without_decoding_again(data, decoded):
    IMAGE.write_bytes(b"")
    with pytest.raises(DataError):
        build()
    del decoded[:]
    manifest = build(skip=True)
    assert decoded == []
    assert len(manifest.skipped) == 1
    assert manifest.images == {"train": 5, "val": 3}
    assert siblings() == {"pack"}
    assert not list(PACK.glob("problems*"))
    build(DATA / "whole", skip=True)
    assert arrays() == arrays(DATA / "whole")


def test_a_class_without_any_remaining_image_is_refused_by_name(data):
    (DATA / "val" / "class_02" / "000.JPEG").write_bytes(b"")
    with pytest.raises(DataError, match=r"class_02 of data/val"):
        build(skip=True)
    assert not PACK.exists()
    with pytest.raises(DataError):
        opened(PARTIAL)


@pytest.mark.parametrize("held", [True, False])
def test_a_second_build_is_refused_while_the_lock_is_held(expected, held):
    build(pack_size=33)
    before = arrays()
    lock = FileLock(DATA / ".pack.partial.lock")
    lock.acquire()
    if held:
        with pytest.raises(InUseError, match="another prepare"):
            build(pack_size=40)
        assert arrays() == before
    lock.release()
    build(pack_size=40)
    assert_complete(expected)


def test_a_build_inside_another_is_refused(data):
    refused = []

    def on_image(split, count):
        if (split, count) == ("train", 3):
            with pytest.raises(InUseError):
                build()
            refused.append(count)

    build(on_image=on_image)
    assert refused == [3]
    opened()
    assert siblings() == {"pack"}


def test_a_file_in_place_of_a_folder_is_a_write_error(data):
    Path("file").write_text("mine")
    with pytest.raises(WriteError, match="--pack-dir"):
        build(Path("file/pack"))
    PARTIAL.write_text("mine")
    with pytest.raises(WriteError, match=r"pack\.partial"):
        build()
    assert Path("file").read_text() == PARTIAL.read_text() == "mine"


@pytest.mark.parametrize("name", ["notes.txt", "manifest.json"])
def test_a_foreign_folder_beside_the_pack_keeps_its_files(data, name):
    build(pack_size=33)
    mine = DATA / "pack.old"
    mine.mkdir()
    (mine / name).write_text("mine")
    (mine / "sub").mkdir()
    with suppress(ImgnetMiniError):
        build(pack_size=40)
    assert (mine / name).read_text() == "mine"
    opened()


def test_a_foreign_file_in_a_pack_is_not_removed_with_it(data):
    build(pack_size=33)
    (PACK / "notes.txt").write_text("mine")
    with pytest.raises(ImgnetMiniError):
        build(pack_size=40)
    assert [path.read_text() for path in DATA.rglob("notes.txt")] == ["mine"]


@posix
@pytest.mark.parametrize("state", ["empty", "stale", "dangling"])
def test_a_link_to_a_folder_on_another_disk_is_followed(expected, tmp_path, state):
    disk = tmp_path / "disk"
    disk.mkdir()
    if state == "stale":
        build(disk / "pack", pack_size=33)
    elif state == "empty":
        (disk / "pack").mkdir()
    PACK.symlink_to(disk / "pack", target_is_directory=True)
    for _ in range(2):
        build(pack_size=40)
        assert_complete(expected)
        assert arrays(disk / "pack") == expected
        assert [path.name for path in disk.iterdir()] == ["pack"]


def test_temporary_files_of_a_killed_build_do_not_enter_the_pack(expected):
    stop(5, pack_size=40)
    for name in (".progress.json.abc.tmp", ".manifest.json.x.tmp", ".classes.npy.y.tmp"):
        (PARTIAL / name).write_bytes(b"half")
    build(pack_size=40)
    assert sorted(path.name for path in PACK.iterdir()) == sorted([*expected, "manifest.json"])


KILLER = """
import os, signal, sys, time
from pathlib import Path
import numpy.ma  # by numpy.setdiff1d
import imgnet_mini.data.pack.builder as builder
from imgnet_mini.commands import prepare as command
from imgnet_mini.config.run_config import RunConfig

def prepare(folder, step):
    def killing(whole):
        def call(*args, **settings):
            nonlocal step
            step -= 1
            if not step:
                os.kill(os.getpid(), signal.SIGKILL)
            return whole(*args, **settings)
        return call
    if step:
        os.fsync = killing(os.fsync)
        for name in ("replace", "unlink", "rmdir", "mkdir"):
            setattr(Path, name, killing(getattr(Path, name)))
    else:
        builder.SAVE_SECONDS = 0.02
    sys.stdout = sys.stderr = open(os.devnull, "w")
    paths = {"data_root": Path("data"), "pack_dir": Path(folder)}
    config = RunConfig().override({"run": paths, "data": {"img_size": 32}})
    try:
        command.run(config)
        os._exit(0)
    finally:
        os._exit(99)

for line in sys.stdin:
    here, folder, delay, step = line.split()
    began = time.monotonic()
    child = os.fork()
    if not child:
        os.chdir(here)
        prepare(folder, int(step))
    if float(delay):
        time.sleep(float(delay))
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    print(os.waitstatus_to_exitcode(status), time.monotonic() - began, flush=True)
"""


@pytest.fixture(scope="module")
def prepare():
    """`prepare(folder)` runs the command in a process; returns its exit code and seconds.

    delay: kill it after so many seconds; step: at the n-th change or flush of files.
    """
    with subprocess.Popen(
        [sys.executable, "-c", KILLER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:

        def run(folder, *, delay=0.0, step=0):
            process.stdin.write(f"{Path.cwd()} {folder} {delay} {step}\n")
            process.stdin.flush()
            code, seconds = process.stdout.readline().split()
            return int(code), float(seconds)

        yield run
        process.stdin.close()


@posix
def test_killed_at_random_times_it_leaves_no_wrong_pack_and_gives_the_same_pack(
    make_folder, prepare
):
    make_folder(DATA, train=30, val=8)
    code, seconds = prepare("undisturbed")
    assert code == 0
    expected = arrays(Path("undisturbed"))
    codes = []
    for _ in range(8):
        code, _ = prepare(PACK, delay=seconds * random.uniform(0.02, 0.4))
        codes.append(code)
        assert_nothing_wrong(expected)
        if code == 0:
            shutil.rmtree(PACK)
    assert codes.count(-signal.SIGKILL) >= 4
    assert prepare(PACK)[0] == 0
    assert_complete(expected)


@posix
def test_killed_at_any_file_operation_it_leaves_no_wrong_pack(data, prepare):
    build(pack_size=33)
    shutil.copytree(PACK, "old")
    build()
    expected = arrays()
    for step in range(1, 100):
        shutil.rmtree(PACK)
        shutil.copytree("old", PACK)
        code, _ = prepare(PACK, step=step)
        assert_nothing_wrong(arrays(Path("old")), expected)
        if code == 0:
            break
        assert code == -signal.SIGKILL
        build()
        assert_complete(expected)
        assert {path.name for path in PACK.iterdir()} == {*expected, "manifest.json"}
    assert 20 < step < 99
