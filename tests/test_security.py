"""No file runs code, and none spends memory before it is refused."""

import importlib.metadata
import os
import pickle
import re
import shutil
import time
from pathlib import Path

import pytest

import imgnet_mini
from conftest import SMALL, write_folder
from helpers.checkpoints import store_at
from helpers.mutations import peak_bytes
from helpers.payloads import BOMBS, PAYLOADS, mutate_checkpoint
from helpers.real_runs import FORKED, run
from imgnet_mini.checkpoint.reader import load_tensors
from imgnet_mini.errors import CheckpointError
from imgnet_mini.runs.paths import RunPaths

MUTATIONS = 500
"""The soak reads 20,000."""

COMMANDS = {
    "resume": ["resume"],
    "resume by name": ["resume", "--checkpoint", "checkpoints/a/checkpoint.pth"],
    "evaluate": ["evaluate"],
    "evaluate last": ["evaluate", "--checkpoint", "last"],
    "evaluate a file": ["evaluate", "--checkpoint", "other.pth"],
    "predict": ["predict", "data/val"],
    "predict by a file": ["predict", "data/val", "--checkpoint", "other.pth", "--arch", "resnet18"],
    "export": ["export"],
    "report": ["report"],
    "readme": ["readme"],
}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run of one epoch of two, evaluated, that has lost its manifest."""
    folder = tmp_path_factory.mktemp("finished")
    write_folder(folder / "data", train=8, val=3, classes=3)
    assert run(folder, "train", *SMALL, "--name", "a", signal_at=7) == 143
    for path in (folder / "checkpoints/a").glob("checkpoint-*.pth"):
        path.unlink()
    (folder / "checkpoints/a/manifest.json").unlink()
    return folder


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("payload", PAYLOADS)
@pytest.mark.parametrize("forced", [False, True], ids=["", "torch-told-to-trust"])
def test_no_payload_is_executed(finished, tmp_path, cli, monkeypatch, payload, command, forced):
    if forced:
        monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    for folder in ("out", "runs"):
        shutil.copytree(finished / folder, tmp_path / folder)
    shutil.copytree(finished / "data", tmp_path / "data")
    (tmp_path / "checkpoints/a").mkdir(parents=True)
    sentinel = tmp_path / "sentinel"
    for path in ("checkpoints/a/checkpoint.pth", "checkpoints/a/best.pth", "other.pth"):
        PAYLOADS[payload](tmp_path / path, sentinel)
    code = cli(*COMMANDS[command], "--name", "a")
    assert not sentinel.exists()
    assert code == (0 if command == "readme" else 6), cli.err
    for words in ("Traceback", "weights_only"):
        assert words not in cli.out + cli.err


def test_the_payloads_are_real(tmp_path):
    for name in ("os.system", "eval", "plain-pickle"):
        path, sentinel = tmp_path / f"{name}.pth", tmp_path / f"{name}.ran"
        PAYLOADS[name](path, sentinel)
        if name == "plain-pickle":
            pickle.loads(path.read_bytes())
        else:
            __import__("torch").load(path, weights_only=False)
        assert sentinel.exists()


@pytest.mark.parametrize("bomb", BOMBS)
def test_a_bomb_is_refused_before_it_takes_memory_or_time(tmp_path, bomb):
    path = tmp_path / "bomb.pth"
    BOMBS[bomb](path, tmp_path / "sentinel")
    answers = FORKED.Queue()
    process = FORKED.Process(target=_read, args=(path, answers))
    process.start()
    refused, seconds, grown = answers.get(timeout=60)
    process.join()
    assert refused
    assert seconds < 5
    assert grown < 200 * 2**20


def _read(path, answers):
    began, before = time.process_time(), peak_bytes()
    try:
        load_tensors(path)
        refused = False
    except CheckpointError as error:
        refused = str(path) in str(error)
    answers.put((refused, time.process_time() - began, peak_bytes() - before))


def test_every_mutation_of_a_checkpoint_is_refused_or_changes_nothing(tmp_path):
    store_at(tmp_path, 10)
    outcomes = mutate_checkpoint(MUTATIONS, 0, RunPaths(tmp_path, "a").checkpoint)
    assert outcomes["refused"] > MUTATIONS / 2
    assert outcomes.total() == MUTATIONS


FORBIDDEN = (
    *(r"weights_only=False", r"pickle\.loads?\(", r"allow_pickle=True", r"yaml\.load\("),
    *(r"(?<![\w.])eval\(", r"(?<![\w.])exec\(", r"shell=True", r"extractall", r"os\.system"),
)


@pytest.mark.parametrize("pattern", FORBIDDEN)
def test_nothing_in_the_package_can_run_what_a_file_says(pattern):
    for path in Path(imgnet_mini.__file__).parent.rglob("*.py"):
        assert not re.search(pattern, path.read_text("utf-8")), path


def test_torch_is_of_a_version_whose_safe_loading_is_safe():
    (torch,) = [
        line
        for line in importlib.metadata.requires("imgnet-mini") or []
        if re.match(r"torch\b(?!-)", line)
    ]
    assert torch == "torch>=2.10"
    assert os.environ.get("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD") is None
