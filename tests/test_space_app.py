"""The page of `export --format space`, started in an environment of its own requirements.

`nox -s extras` makes that environment; `SPACE_PYTHON` names its Python.
"""

import json
import os
import socket
import subprocess
import urllib.request
import uuid
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from conftest import SMALL, run_quietly, write_folder
from helpers.browser import CHROMIUM, DRIVER, MISSING, open_browser

PYTHON = os.environ.get("SPACE_PYTHON")
pytestmark = pytest.mark.skipif(not PYTHON, reason="nox -s extras installs its requirements")

CLASSES = ["<b>", "cat", "n01440764"]
BAD = {"text.jpg": b"<html>", "empty.jpg": b"", "bomb.png": None}


class App:
    """A running page, at `address`; `folder` holds the run, the images and `space`."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.log = folder, folder / "server.log"
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.address = f"http://127.0.0.1:{port}"
        own = {"GRADIO_SERVER_PORT": str(port), "PYTHONUNBUFFERED": "1", "PYTHONPATH": ""}
        with self.log.open("wb") as errors:
            self.process = subprocess.Popen(
                [PYTHON, "app.py"],
                cwd=folder / "space",
                env=os.environ | own | {"GRADIO_TEMP_DIR": str(folder / "uploads")},
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
            )
        while "Running on" not in (line := self.process.stdout.readline()):
            assert line or self.process.poll() is None, self.log.read_text("utf-8")

    def ask(self, image):
        """The last event, `complete` or `error`, and its data."""
        call = f"{self.address}/gradio_api/call/classify"
        (number,) = post(call, json.dumps({"data": [image]}).encode(), "application/json").values()
        with urllib.request.urlopen(f"{call}/{number}") as answer:
            event, data = answer.read().decode().strip().splitlines()[-2:]
        return event.removeprefix("event: "), json.loads(data.removeprefix("data: "))

    def upload(self, name, content):
        mark = uuid.uuid4().hex
        head = (
            f'--{mark}\r\nContent-Disposition: form-data; name="files"; filename="{name}"\r\n\r\n'
        )
        body = head.encode() + content + f"\r\n--{mark}--\r\n".encode()
        kind = f"multipart/form-data; boundary={mark}"
        (path,) = post(f"{self.address}/gradio_api/upload", body, kind)
        return {"path": path, "orig_name": name, "meta": {"_type": "gradio.FileData"}}


def post(address, content, kind):
    request = urllib.request.Request(address, content, {"Content-Type": kind})
    with urllib.request.urlopen(request) as answer:
        return json.load(answer)


@pytest.fixture(scope="module")
def app(tmp_path_factory):
    folder = tmp_path_factory.mktemp("app")
    write_folder(folder / "data", train=8, val=3, classes=CLASSES)
    run_quietly(folder, "train", *SMALL, "--epochs", 1, "--max-lr", 0.05, "--name", "a")
    values = np.random.default_rng(0).integers(0, 256, (40, 60, 4), np.uint8)
    tags = Image.Exif()
    tags[0x0112] = 6
    Image.fromarray(values[..., :3]).save(folder / "data/val/cat/turned.jpg", exif=tags)
    Image.fromarray(values).save(folder / "data/val/cat/clear.png")
    Image.new("1", (8000, 8000)).save(folder / "bomb.png")
    for name, content in BAD.items():
        if content is not None:
            (folder / name).write_bytes(content)
    run_quietly(folder, "export", "--name", "a", "--format", "space", "--output", "space")
    app = App(folder)
    yield app
    app.process.terminate()
    app.process.communicate()


@pytest.fixture(scope="module")
def browser():
    if not (CHROMIUM and DRIVER):
        pytest.skip(MISSING)
    with open_browser() as browser:
        yield browser


def predictions(app, cli):
    run = ("--name", "a", "--output-dir", app.folder)
    assert cli("predict", app.folder / "data/val", *run, "--json") == 0, cli.err
    for image in json.loads(cli.out)["images"]:
        yield Path(image["image"]), {p["name"]: p["probability"] for p in image["predictions"]}


def test_over_http_it_gives_what_predict_gives(app, cli):
    for path, expected in predictions(app, cli):
        event, (answer,) = app.ask(app.upload(path.name, path.read_bytes()))
        assert event == "complete"
        found = {entry["label"]: entry["confidence"] for entry in answer["confidences"]}
        assert found == pytest.approx(expected, abs=2e-5)
        assert answer["label"] == max(expected, key=expected.get)


def test_what_cannot_be_classified_is_one_sentence(app):
    for name, message in (
        ("text.jpg", "This is not an image that can be read. Use JPEG, PNG"),
        ("empty.jpg", "The file is empty."),
        ("bomb.png", "more than 50 million pixels"),
    ):
        event, answer = app.ask(app.upload(name, (app.folder / name).read_bytes()))
        assert event == "error"
        assert message in answer["error"]
    event, answer = app.ask({"url": "data:image/png;base64,AAAA"})
    assert (event, answer["error"]) == ("error", "Upload the image as a file.")
    assert app.ask(None) == ("complete", [{}])
    assert "Traceback" not in app.log.read_text("utf-8")


def test_the_page_shows_bars_and_asks_no_other_host(app, browser, cli):
    path, expected = next(iter(predictions(app, cli)))
    browser.load(app.address)
    browser.wait_for("input[type=file]").send_keys(str(path))
    browser.wait_for("[data-testid='label-output-value']", max(expected, key=expected.get))
    labels = browser.texts(".confidence-set .label .text")
    assert labels == sorted(expected, key=expected.get, reverse=True)
    widths = browser.run(
        "return [...document.querySelectorAll('.confidence-set .bar')].map((e) => e.clientWidth)"
    )
    assert widths[0] > widths[-1]
    assert {address.rsplit(":", 1)[0] for address in browser.requests} == {"http://127.0.0.1"}


@pytest.mark.parametrize(
    ("name", "message"), [("text.jpg", "not an image"), ("bomb.png", "50 million pixels")]
)
def test_the_page_says_what_is_wrong_with_an_image(app, browser, name, message):
    browser.load(app.address)
    browser.wait_for("input[type=file]").send_keys(str(app.folder / name))
    toast = browser.wait_for("[data-testid='toast-body']", message)
    assert "Traceback" not in toast.text
    browser.wait_for(".gallery-item, .gallery button").click()  # an example: the page goes on
    browser.wait_for("[data-testid='label-output-value']")
