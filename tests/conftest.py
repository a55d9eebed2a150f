"""What several test files share: the command line in this process, images, clean endings."""

import atexit
import colorsys
import contextlib
import io
import multiprocessing
import os
import re
import shutil
import signal
import tempfile
from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

# Before torch is imported, here or in a child: tiny networks gain nothing from threads that
# wait for each other, and lose much where the tests are not alone on the machine.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# What is kept from one start to the next is not the user's here.
os.environ["XDG_CACHE_HOME"] = tempfile.mkdtemp(prefix="imgnet-mini-tests-")
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # as the command line does

import numpy as np
import pytest
from PIL import Image

from imgnet_mini import cli as command_line
from imgnet_mini.utils.early_exit import SIGNALS

if TYPE_CHECKING:
    from imgnet_mini.data.pack.format import PackManifest

atexit.register(shutil.rmtree, os.environ["XDG_CACHE_HOME"], ignore_errors=True)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport]:
    """Show what real processes have printed, where a test of theirs fails."""
    report = yield
    folder = getattr(item, "funcargs", {}).get("tmp_path")
    if report.failed and folder is not None:
        for log in sorted(folder.rglob("terminal.log")):
            report.sections.append((f"{log}", log.read_text("utf-8", errors="replace")[-4000:]))
    return report


@pytest.fixture
def default_sighup() -> Generator[None]:
    """SIGHUP ends a process, also where the tests run under `nohup`; children inherit it."""
    if not hasattr(signal, "SIGHUP"):
        yield
        return
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


class Cli:
    """Runs the command line in this process: `cli("train", "--epochs", 2)` is its exit code."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys
        self.out = ""
        self.err = ""

    def __call__(self, *args: object) -> int:
        with pytest.raises(SystemExit) as end:
            command_line.main([str(arg) for arg in args])
        self.out, self.err = map(without_colours, self._capsys.readouterr())
        return int(end.value.code or 0)

    def says(self, text: str) -> bool:
        """Whether a text is in the error, however its panel has wrapped and framed it."""
        return squeezed(text) in squeezed(self.err)


def without_colours(text: str) -> str:
    """CI services make rich write colours into a pipe."""
    return re.sub(r"\x1b\[[0-9;]*m", "", text)


def squeezed(text: str) -> str:
    return re.sub(r"[\s│╭╮╰╯─]+", "", text)


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Cli:
    monkeypatch.setenv("COLUMNS", "100")
    return Cli(capsys)


@pytest.fixture(autouse=True)
def _own_folder_and_nothing_left(tmp_path: Path):
    """No process, no handler of a signal, no variable of the environment outlives its test."""
    before = surroundings()
    with contextlib.chdir(tmp_path):
        yield
    left = multiprocessing.active_children()
    for process in left:  # fail this test, but not all that follow
        process.kill()
        process.join()
    assert left == []
    assert surroundings() == before


def surroundings() -> tuple[list[object], dict[str, str]]:
    handlers = [signal.getsignal(number) for number in SIGNALS]
    return handlers, {k: v for k, v in os.environ.items() if not k.startswith(SET_BY_LIBRARIES)}


SET_BY_LIBRARIES = ("PYTEST_", "KMP_", "TORCHINDUCTOR_")
"""Some when they are first imported."""


@pytest.fixture
def make_folder() -> Callable[..., Path]:
    """`make_folder(root, train=4, val=2, classes=3)` writes so many images per class.

    classes: how many, or their names. The colour of an image tells its class; JPEG and PNG
    take turns, and sides are from 32 to 48 pixels.
    """
    return write_folder


def write_folder(
    root: Path, *, train: int = 4, val: int = 2, classes: int | Sequence[str] = 3
) -> Path:
    names = [f"class_{i:02d}" for i in range(classes)] if isinstance(classes, int) else classes
    generator = np.random.default_rng(0)
    for split, images in (("train", train), ("val", val)):
        for label, name in enumerate(names):
            folder = root / split / name
            folder.mkdir(parents=True)
            for number in range(images):
                suffix = (".JPEG", ".png")[number % 2]
                draw_image(label / len(names), generator).save(folder / f"{number:03d}{suffix}")
    return root


def draw_image(hue: float, generator: np.random.Generator) -> Image.Image:
    """A colour with noise of up to 20 grey levels either way."""
    colour = 255 * np.array(colorsys.hsv_to_rgb(hue, 0.8, 0.8))
    height, width = generator.integers(32, 49, 2)
    pixels = colour + generator.uniform(-20, 20, (height, width, 3))
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


SMALL = (
    *("--data-root", "data", "--arch", "shufflenet_v2_x0_5", "--img-size", 32),
    *("--batch-size", 6, "--workers", 0, "--epochs", 3),
)
"""Options of a run of 3 epochs of 4 steps on `data`, in two seconds."""


@pytest.fixture(scope="session")
def data_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that `data` copies: drawing the images takes longer."""
    return write_folder(tmp_path_factory.mktemp("once") / "data", train=8, val=3, classes=3)


@pytest.fixture
def data(data_once: Path, tmp_path: Path) -> Path:
    """24 training and 9 validation images of 3 classes in `data/`."""
    return shutil.copytree(data_once, tmp_path / "data")  # with the times of the files


@pytest.fixture(scope="session")
def pack_once(data_once: Path) -> "PackManifest":
    """A pack of `data_once`, beside it in `pack/`, that `pack` copies."""
    from helpers.packs import build  # noqa: PLC0415 - imports torch

    return build(data_once.with_name("pack"), root=data_once)


@pytest.fixture
def pack(data: Path, data_once: Path, pack_once: "PackManifest") -> "PackManifest":
    """The manifest of a pack in `data/pack/`, for crops of 32 pixels."""
    shutil.copytree(data_once.with_name("pack"), data / "pack")
    return pack_once


@pytest.fixture
def run_small(cli: Cli, data: Path) -> Callable[..., int]:
    """`run_small("train", "--name", "a")` runs a command on `data` with small settings."""
    return lambda command, *args: cli(command, *SMALL, *args)


def run_quietly(folder: Path, *args: object) -> None:
    """Run the command line in a folder and in this process; it has to succeed."""
    said = io.StringIO()
    with (
        contextlib.chdir(folder),
        contextlib.redirect_stdout(said),
        contextlib.redirect_stderr(said),
        pytest.raises(SystemExit) as end,
    ):
        command_line.main([str(arg) for arg in args])
    assert not end.value.code, said.getvalue()


@pytest.fixture(scope="session")
def copy_run(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., None]:
    """`copy_run(folder, "--epochs", 1)` copies the run `a` on `data` into a folder.

    A run is trained once for all tests that ask for the same options.
    """
    runs: dict[tuple[object, ...], Path] = {}

    def copy(folder: Path, *options: object) -> None:
        if options not in runs:
            made = tmp_path_factory.mktemp("run")
            write_folder(made / "data", train=8, val=3, classes=3)
            run_quietly(made, "train", *SMALL, "--name", "a", *options)
            runs[options] = made
        shutil.copytree(runs[options], folder, dirs_exist_ok=True)

    return copy
