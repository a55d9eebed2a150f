"""`download`, with the real kagglehub against a server on loopback."""

import errno
import io
import shutil
import sys
import zipfile
from pathlib import Path

import pytest

from conftest import write_folder
from helpers.kaggle_server import serving
from imgnet_mini.data import kaggle

pytest.importorskip("kagglehub")

DEST = Path("data/images")
MIB = 2**20
"""kagglehub writes a transfer in pieces of this size."""
STAGING = Path("data/.images.download")


def zipped(folder):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for path in sorted(folder.rglob("*.*")):
            archive.write(path, path.relative_to(folder))
    return file.getvalue()


@pytest.fixture
def server(monkeypatch, tmp_path):
    """Kaggle with ImageNet-Mini as it is there: in a folder of its own name."""
    write_folder(Path("there/imagenet-mini"), classes=["n01440764", "n01443537"])
    Path("there/imagenet-mini/notes.bin").write_bytes(bytes(3 * MIB))
    with serving(zipped(Path("there"))) as server:
        address = f"http://127.0.0.1:{server.server_port}"
        monkeypatch.setenv("KAGGLE_API_ENVIRONMENT", "LOCALHOST")  # http://localhost, by a proxy
        for name in ("HTTP_PROXY", "http_proxy"):
            monkeypatch.setenv(name, address)
        for name in ("NO_PROXY", "no_proxy"):
            monkeypatch.setenv(name, "")
        for name in ("KAGGLE_API_TOKEN", "KAGGLE_USERNAME", "KAGGLE_KEY", "KAGGLEHUB_CACHE"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("KAGGLE_CONFIG_DIR", str(tmp_path / "no-login"))
        yield server


def files(folder):
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*.*")}


def is_complete(cli):
    assert files(DEST) == files(Path("there/imagenet-mini"))
    assert [path.name for path in Path("data").iterdir()] == ["images"]
    assert "8 training and 4 validation images of 2 classes" in cli.out
    assert "Next: imgnet-mini prepare --recipe mini --data-root data/images" in cli.out
    return True


def test_a_data_set_is_downloaded_to_where_training_looks(cli, server):
    assert cli("download") == 0, cli.err
    assert files(Path("data/imagenet-mini")) == files(Path("there/imagenet-mini"))
    assert "ifigotin/imagenetmini-1000, version 4, " in cli.out
    assert "Next: imgnet-mini prepare --recipe mini\n" in cli.out
    assert cli("download") == 0
    assert "data/imagenet-mini holds images already, and nothing is downloaded" in cli.out
    address = "https://www.kaggle.com/datasets/some-body/images/versions/2"
    assert cli("download", address) == 0, cli.err
    assert "some-body/images, version 2, into data/images" in cli.out
    assert files(DEST) == files(Path("there/imagenet-mini"))


def test_a_transfer_that_is_cut_goes_on_where_it_was(cli, server):
    server.cuts = {0: 3 * MIB // 2, MIB: 3 * MIB // 2}
    assert cli("download", "a/images") == 0, cli.err
    assert server.ranges == [MIB, 2 * MIB]
    assert "The transfer was cut after 2.1 MB: continuing" in cli.out
    assert is_complete(cli)


def test_a_transfer_without_progress_ends_and_the_next_command_goes_on(cli, server):
    server.cuts = {0: 3 * MIB // 2, MIB: 1000}
    assert cli("download", "a/images") == 4
    assert cli.says("Kaggle cannot be reached, or the connection was cut")
    assert cli.says("after 1.0 MB. Run the same command again to continue")
    assert not DEST.exists()
    server.cuts, server.ranges = {}, []
    assert cli("download", "a/images") == 0, cli.err
    assert server.ranges == [MIB]
    assert is_complete(cli)


@pytest.mark.parametrize(
    ("status", "code", "message"),
    [
        (401, 2, "Kaggle refuses a/images (status 401). If the name is right, log in: make an API"),
        (403, 2, "Some data sets ask for consent on their page first"),
        (404, 4, "Kaggle has no data set a/images: compare it with the address of its page"),
        (503, 4, "Kaggle answers with status 503 for a/images: try again later"),
    ],
)
def test_a_refusal_is_one_message(cli, server, status, code, message):
    server.status = status
    assert cli("download", "a/images") == code
    assert cli.says(message)
    assert not Path("data").exists()


def test_without_a_network_the_message_is_one_line(cli, server, monkeypatch):
    for name in ("HTTP_PROXY", "http_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    assert cli("download", "a/images") == 4
    assert cli.says("Kaggle cannot be reached, or the connection was cut (ProxyError)")


def test_a_small_disk_is_noticed_before(cli, server, monkeypatch):
    monkeypatch.setattr(kaggle, "free_bytes", lambda path: 5_000)
    assert cli("download", "a/images") == 5
    assert cli.says("twice its size while it is unpacked, and the disk of")
    assert cli.says("has 5.0 kB free: make room, or choose another disk with --data-root")
    assert not Path("data").exists()


def test_a_disk_that_fills_up_loses_nothing(cli, server, monkeypatch):
    def extractall(self, path):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as full:
        full.setattr(zipfile.ZipFile, "extractall", extractall)
        assert cli("download", "a/images") == 5
    assert cli.says("the disk is full. What has arrived of a/images is kept: make room, and run")
    (archive,) = STAGING.rglob("*.archive")
    assert archive.read_bytes() == server.archive
    assert cli("download", "a/images") == 0, cli.err
    assert is_complete(cli)


def test_a_damaged_archive_is_removed(cli, server):
    intact, server.archive = server.archive, b"no archive"
    assert cli("download", "a/images") == 4
    assert cli.says(
        "the archive of a/images is damaged (Unsupported archive type.), and is removed"
    )
    server.archive = intact
    assert cli("download", "a/images") == 0, cli.err
    assert is_complete(cli)


@pytest.mark.parametrize("handle", ["images", "a/b/c", "a b/c", "../x", "https://kaggle.com/c/x"])
def test_a_wrong_handle_is_refused(cli, server, handle):
    assert cli("download", handle) == 2
    assert cli.says(f"{handle} is no data set of Kaggle: give OWNER/NAME as in its address")


def test_a_folder_of_other_files_is_left_alone(cli, server):
    DEST.mkdir(parents=True)
    (DEST / "thesis.txt").touch()
    assert cli("download", "a/images") == 2
    assert cli.says("data/images holds other files: name a new folder with --data-root")


def test_another_layout_is_named_with_the_next_command(cli, server):
    shutil.rmtree("there/imagenet-mini/val")
    server.archive = zipped(Path("there"))
    assert cli("download", "a/images", "--data-root", "my/set") == 0, cli.err
    assert "Next: imgnet-mini organize my/set my/set-organized --val-split 0.1" in cli.out
    assert cli("organize", "my/set", "my/set-organized", "--val-split", 0.1) == 0


def test_without_kagglehub_the_install_command_is_named(cli, monkeypatch):
    monkeypatch.setitem(sys.modules, "kagglehub", None)
    assert cli("download") == 2
    assert 'pip install "imgnet-mini[download]"' in cli.err
