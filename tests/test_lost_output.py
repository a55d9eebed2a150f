"""Commands whose output cannot be written: a full device, or a closed pipe."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from conftest import SMALL, squeezed

pytestmark = pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a full device")

TRAIN = ("train", *map(str, SMALL), "--name", "a")
MODULE = (sys.executable, "-m", "imgnet_mini")


def with_full_output(*words: str) -> subprocess.CompletedProcess[str]:
    with Path("/dev/full").open("w") as full:
        return subprocess.run(
            [*MODULE, *words],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=100,
            check=False,
        )


def test_training_continues_if_standard_output_is_full(data, cli):
    done = with_full_output(*TRAIN)
    assert (done.returncode, done.stderr) == (0, "")
    assert cli("resume", "--name", "a") == 0
    assert "a is finished" in cli.out
    done = with_full_output("evaluate", "--name", "a")
    assert done.returncode == 5
    assert squeezed("cannot write to standard output: No space left") in squeezed(done.stderr)
    assert "Traceback" not in done.stderr
    assert Path("reports/a/metrics.json").exists()


def test_a_pack_is_written_if_standard_output_is_full(data):
    done = with_full_output("prepare", "--data-root", "data", "--img-size", "32")
    assert (done.returncode, done.stderr) == (0, "")
    assert Path("data/pack/manifest.json").exists()


def test_training_continues_if_the_pipe_is_closed(data, cli):
    process = subprocess.Popen([*MODULE, *TRAIN], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stdout.readline()  # as `head -1` does
    process.stdout.close()
    errors = process.stderr.read()
    assert (process.wait(100), errors) == (0, b"")
    process.stderr.close()
    assert cli("resume", "--name", "a") == 0
    assert "a is finished" in cli.out


@pytest.mark.parametrize("gone", ["full", "closed"])
def test_an_error_keeps_its_exit_code_if_standard_error_is_lost(tmp_path, gone):
    reader, writer = os.pipe()
    if gone == "full":
        os.close(writer)
        writer = os.open("/dev/full", os.O_WRONLY)
    os.close(reader)
    words = [*MODULE, "train", "--data-root", "absent"]
    done = subprocess.run(words, stderr=writer, stdout=subprocess.PIPE, timeout=100, check=False)
    os.close(writer)
    assert (done.returncode, done.stdout) == (4, b"")
