"""The name of a run is the name of its folders, and leads nowhere else."""

import json
import shutil
import sys
from pathlib import Path

import pytest

from conftest import SMALL
from helpers.checkpoints import checkpoint_at, store_at
from imgnet_mini.checkpoint.store import CheckpointStore
from imgnet_mini.runs.paths import RunPaths

WRONG = [
    *("../x", "/etc/x", "a/b", ".", "..", "", "CON", "con.txt", "a\0b", "x" * 300, "-x", "x "),
    *("a\nb", "\x1b[2J", "a\\b", "é", "..\\x", "~", "$HOME", "a\u202eb", ".hidden", "a\n"),
]
RULE = "a run name has 1 to 64 letters, digits, '.', '_' or '-'"
COMMANDS = ["train", "resume", "evaluate", "report", "readme", "find-lr"]


def tree(folder):
    return sorted(folder.rglob("*"))


@pytest.fixture
def work(tmp_path, monkeypatch):
    """An empty folder to work in, in a folder of which nothing else is to be touched."""
    folder = tmp_path / "outside" / "work"
    folder.mkdir(parents=True)
    monkeypatch.chdir(folder)
    return folder


@pytest.mark.parametrize("name", WRONG, ids=map(ascii, WRONG))
@pytest.mark.parametrize("command", COMMANDS)
def test_a_wrong_name_is_refused_by_the_rule_and_nothing_is_written(cli, work, command, name):
    before = tree(work.parent)
    assert cli(command, "--name", name) == 2
    rule = "Windows reserves this name" if name.lower().startswith("con") else RULE
    assert cli.says(f": {rule}")
    assert cli.err.count("Error") == 1
    assert "Traceback" not in cli.err
    assert all(char.isprintable() or char == "\n" for char in cli.out + cli.err)
    assert tree(work.parent) == before
    assert not Path("/etc/x").exists()


@pytest.mark.parametrize("command", COMMANDS[:4])
def test_a_wrong_name_in_a_file_of_settings_is_refused_too(cli, work, command):
    Path("run.toml").write_text('[run]\nname = "../x"\n', "utf-8")
    before = tree(work.parent)
    assert cli(command, "--config", "run.toml") == 2
    assert cli.says(f"run.toml: run.name: {RULE}")
    assert tree(work.parent) == before


@pytest.mark.parametrize("command", ["evaluate", "report"])
def test_a_wrong_name_in_the_settings_of_a_run_is_not_followed(cli, work, command):
    paths = RunPaths(work, "a")
    paths.log_dir.mkdir(parents=True)
    paths.config.write_text('[run]\nname = "../../x"\n', "utf-8")
    before = tree(work.parent)
    assert cli(command, "--name", "a") == 2
    assert cli.says(RULE)
    assert tree(work.parent) == before


@pytest.mark.parametrize("command", ["evaluate", "report"])
def test_the_settings_of_a_run_do_not_say_where_it_is(run_small, cli, tmp_path, command):
    """Its folders may have been moved, or come from somebody else."""
    assert run_small("train", "--name", "a", "--epochs", 1) == 0, cli.err
    config = tmp_path / "out/a/config.toml"
    text = config.read_text("utf-8").replace('output_dir = "."', 'output_dir = "elsewhere"')
    config.write_text(text.replace('name = "a"', 'name = "b"'), "utf-8")
    assert "elsewhere" in text
    assert cli(command, "--name", "a", "--workers", 0) == 0, cli.err
    assert (tmp_path / "reports/a/metrics.json").is_file()
    assert not (tmp_path / "elsewhere").exists()


@pytest.mark.skipif(sys.platform == "win32", reason="links need a privilege there")
@pytest.mark.parametrize("folder", ["checkpoints", "out", "runs", "reports"])
@pytest.mark.parametrize("command", ["train", "resume", "evaluate", "report"])
def test_a_run_folder_that_links_elsewhere_is_refused(run_small, cli, work, command, folder):
    store_at(work, 10)
    there = work / folder / "a"
    there.mkdir(parents=True, exist_ok=True)
    shutil.move(there, work.parent / "elsewhere")
    there.symlink_to(work.parent / "elsewhere")
    before = tree(work.parent)
    assert cli(command, "--name", "a", *(SMALL if command == "train" else ())) == 2
    assert cli.says(f"{folder}/a is a link out of {folder}")
    assert tree(work.parent) == before


@pytest.mark.parametrize("field", ["file", "path", "kind", "step"])
def test_a_name_in_the_manifest_is_not_followed(tmp_path, field):
    paths = RunPaths(tmp_path / "work", "a")
    store_at(paths.output_dir, 10)
    other = RunPaths(tmp_path / "other", "a")
    store_at(other.output_dir, 20)
    outside = paths.output_dir / "x"
    outside.write_bytes(other.checkpoint.read_bytes())
    manifest = json.loads(paths.manifest.read_bytes())
    manifest["saved"] += json.loads(other.manifest.read_bytes())["saved"]
    manifest["saved"][-1][field] = "../../x"
    paths.manifest.write_text(json.dumps(manifest))

    store = CheckpointStore(paths, keep=1)
    taken = store.load_latest()
    assert (taken.checkpoint.state.step, taken.path) == (10, paths.checkpoint)
    assert f"{paths.manifest} is damaged" in taken.notes[0]
    store.save(checkpoint_at(30))
    assert outside.read_bytes() == other.checkpoint.read_bytes()
    assert "../../x" not in paths.manifest.read_text("utf-8")
