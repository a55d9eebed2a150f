"""Signals to real processes during startup and at the end."""

import os
import signal
import subprocess
import sys
import time
from importlib.metadata import entry_points
from pathlib import Path

import pytest

from conftest import SMALL

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="it looks into /proc")

MODULE = ("-m", "imgnet_mini")
SCRIPT = ("-c", "import sys; from {module} import {attr}; sys.exit({attr}())")
"""Script that an installer generates for the entry point."""

TRAINING = ["train", *map(str, SMALL), "--name", "a", "--epochs", "500"]


def start(*words: str, **settings) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        **settings,
    )


def script() -> tuple[str, ...]:
    (point,) = entry_points(group="console_scripts", name="imgnet-mini")
    return SCRIPT[0], SCRIPT[1].format(module=point.module, attr=point.attr)


def wait_for_signal_handlers(process: subprocess.Popen) -> None:
    """Wait for the handlers: before that, Python itself handles signals."""
    status = Path(f"/proc/{process.pid}/status")
    mask = 1 << (signal.SIGTERM - 1)
    deadline = time.monotonic() + 30
    while not any(
        int(line.split()[1], 16) & mask
        for line in status.read_text().splitlines()
        if line.startswith("SigCgt")
    ):
        assert time.monotonic() < deadline
        time.sleep(0.001)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("seconds", [0, 0.05, 0.3, 1, 2])
def test_a_signal_during_startup_ends_it_with_one_line(data, number, seconds):
    words = MODULE if number == signal.SIGTERM else script()
    process = start(*words, *TRAINING)
    wait_for_signal_handlers(process)
    time.sleep(seconds)
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 128 + number, errors
    assert "topped" in errors
    assert number.name in errors
    assert "Traceback" not in errors


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_during_the_import_of_the_command_line_ends_it_with_one_line(number, tmp_path):
    """Importing typer and pydantic takes long enough for a Ctrl-C."""
    (tmp_path / "typer.py").write_text(f"import os\nos.kill(os.getpid(), {int(number)})\n")
    process = start(*MODULE, "train", env=os.environ | path_before(tmp_path))
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert errors == f"Stopped immediately by {number.name}; saved files are intact\n"


def path_before(folder: Path) -> dict[str, str]:
    return {"PYTHONPATH": os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")])}


SWALLOWING = """
import signal, sys
from pathlib import Path
from imgnet_mini.utils.signals import raise_on_signal
Path("swallows.py").write_text('''
import os
try:
    os.kill(os.getpid(), {number})
except BaseException:
    pass
''')
sys.path.insert(0, ".")
with raise_on_signal():
    import swallows
print("went on")
"""


@pytest.mark.parametrize("rank", ["0", "1"])
def test_an_import_that_swallows_exceptions_does_not_swallow_a_signal(rank):
    code = SWALLOWING.format(number=int(signal.SIGTERM))
    process = start("-c", code, env=os.environ | {"RANK": rank})
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 143
    assert output == ""
    assert ("SIGTERM" in errors) == (rank == "0")


def test_signals_after_the_last_message_are_ignored(data):
    process = start(*MODULE, *TRAINING)
    log = Path("out/a/train_log.csv")
    deadline = time.monotonic() + 60
    while not (log.exists() and len(log.read_text().splitlines()) > 3):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    panel = iter(process.stderr.readline, "")
    while not next(panel).startswith("  imgnet-mini resume"):
        pass
    sent = 0
    while process.poll() is None:
        process.send_signal((signal.SIGINT, signal.SIGTERM)[sent % 2])
        sent += 1
        time.sleep(0.005)
    _, errors = process.communicate()
    assert sent > 2
    assert (process.returncode, errors) == (143, "")
