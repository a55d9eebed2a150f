"""Folders and files that may not be read or written, or are not what their names say."""

import shutil
import sys
from pathlib import Path

import pytest

from conftest import SMALL, squeezed, write_folder
from helpers.real_runs import RealRun, run

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs its modes and capabilities")

OUT, CHECKPOINTS, REPORTS = "out/c", "checkpoints/c", "reports/c"

TRAIN = ("train", *SMALL)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    write_folder(folder / "data", train=8, val=3, classes=3)
    assert run(folder, *TRAIN, "--name", "c", signal_at=9) == 143
    return folder


@pytest.mark.parametrize(
    ("place", "mode", "command"),
    [
        *((OUT, 0, command) for command in (TRAIN, (*TRAIN, "--resume"), ("resume",))),
        *((OUT, 0, (command,)) for command in ("evaluate", "report", "readme")),
        *((CHECKPOINTS, 0, command) for command in (TRAIN, (*TRAIN, "--resume"), ("resume",))),
        *((CHECKPOINTS, 0, (command,)) for command in ("evaluate", "report")),
        (CHECKPOINTS, 0o555, ("resume",)),
        (REPORTS, 0o555, ("evaluate",)),
        (".", 0o555, ("find-lr", *SMALL[:-2])),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else str(value),
)
def test_a_folder_without_permission_is_named(trained, place, mode, command):
    folder, log = trained / place, trained / "terminal.log"
    folder.chmod(mode)
    log.unlink(missing_ok=True)
    try:
        code = RealRun(trained, (*command, "--name", "c"), obeys_modes=True).wait()
    finally:
        folder.chmod(0o755)
    text = log.read_text("utf-8")
    assert "Traceback" not in text
    assert code == 5
    assert "Permission denied" in " ".join(text.replace("│", " ").split())
    assert squeezed(place if place != "." else "lr_finder_plots") in squeezed(text)
    assert "images/s" not in text  # it is found out before anything is measured


def test_a_link_that_leads_nowhere_and_a_folder_like_a_left_over_file_are_passed_over(
    trained, tmp_path, cli
):
    shutil.copytree(trained / "data", "data")
    for name in ("checkpoints", "out", "runs"):
        shutil.copytree(trained / name, name)
    folder = Path("checkpoints/c")
    (folder / "checkpoint-3.pth").symlink_to("absent")
    (folder / ".a.tmp").mkdir()
    assert cli("resume", "--name", "c") == 0, cli.err
    assert (folder / ".a.tmp").is_dir()
