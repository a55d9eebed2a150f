"""What is made to be shown to others tells nothing of the machine, its user or its folders."""

import json
import os
import platform
import socket

import pytest

from conftest import write_folder
from imgnet_mini import cli as command_line

HOME, HOST, VALUE = "secret-marker-home", "secret-marker-host", "secret-marker-value"
MARKER = b"secret-marker"
TEMPLATE = """\
{% import "parts.md.j2" as parts %}
{{ run }}
{% for step in next_steps %}{{ step }}{% endfor %} {{ remarks }} {{ refresh }}
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A home in which everything is: the images and, in its folders, the run."""
    home = tmp_path_factory.mktemp("users") / HOME
    write_folder(home / "images", train=4, val=2)
    (home / "images/train/class_00/empty.png").touch()
    (home / "images/train/class_01/text.jpg").write_text("no image")
    cut = home / "images/val/class_00/000.JPEG"
    cut.write_bytes(cut.read_bytes()[:400])
    (home / "own.md.j2").write_text(TEMPLATE, "utf-8")
    found = {
        "name": "a",
        "time": "2025-01-02T03:04:05+00:00",
        "lr": 0.01,
        "plot": f"{home}/x.png",
        "command": [f"{home}/find-lr", f"{home}"],
    }
    (home / "lr_finder_plots").mkdir()
    (home / "lr_finder_plots/lr_finder_1.json").write_text(json.dumps(found))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        for name in ("HOME", "USERPROFILE"):
            patch.setenv(name, str(home))
        for name in ("USER", "LOGNAME", "HOSTNAME", "API_TOKEN", "IMGNET_MINI_TEST"):
            patch.setenv(name, VALUE)
        patch.setattr(socket, "gethostname", lambda: HOST)
        patch.setattr(platform, "node", lambda: HOST)
        for words in commands(home):
            patch.setattr("sys.argv", [str(home / "bin/imgnet-mini"), *words])
            with pytest.raises(SystemExit) as end:
                command_line.main(words)
            assert not end.value.code, words
    return home


def commands(home):
    runs = ["--output-dir", str(home), "--name", "a"]
    images = ["--data-root", str(home / "images"), "--skip-bad", "--workers", "0"]
    network = ["--arch", "shufflenet_v2_x0_5", "--img-size", "32", "--batch-size", "6"]
    yield ["train", *runs, *images, *network, "--epochs", "2"]
    yield ["evaluate", *runs, *images, "--checkpoint", f"{home}/checkpoints/a/best.pth"]
    yield ["report", *runs, *images]
    yield ["train", *runs[:2], "--name", "b", *images, *network, "--epochs", "2"]
    yield ["compare", "a", "b", *runs[:2]]
    for name in ("results", "experiment", "own"):
        template = f"{home}/own.md.j2" if name == "own" else name
        yield ["readme", *runs, "--readme", f"{home}/{name}.md", "--template", template]


def shown(home):
    """All that a run makes to be looked at by others."""
    logs = [home / "out/a/logs.md", home / "out/a/train_log.csv"]
    reports = [*(home / "reports/a").iterdir(), *(home / "reports/a+b").iterdir()]
    return [*home.glob("*.md"), *reports, *logs]


def test_nothing_that_is_shown_names_the_machine_or_its_user(home):
    names = {path.name for path in shown(home)}
    assert {"results.md", "experiment.md", "own.md", "metrics.json", "skipped_images.txt"} <= names
    assert sum(path.name == "index.html" for path in shown(home)) == 2
    for path in shown(home):
        content = path.read_bytes()
        for secret in (MARKER, os.fsencode(home), os.fsencode(home.parent)):
            assert secret not in content, path


def test_the_markers_were_there_to_be_told(home):
    for path in ("out/a/environment.json", "out/a/config.toml"):
        assert HOME in (home / path).read_text("utf-8")
    (events,) = (home / "runs/a").iterdir()
    assert HOST in events.name
