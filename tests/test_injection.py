"""No name of a class, an image or a folder does anything but stand there, wherever it is shown."""

import csv
import importlib
import io
import json
import re
import shutil
import sys
import warnings
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text

from conftest import draw_image, without_colours
from helpers.events import read_events
from helpers.pages import Page, WebPage
from imgnet_mini import cli as command_line
from imgnet_mini.reporting.page import render
from imgnet_mini.reporting.style import css_variables
from imgnet_mini.runs.paths import RunPaths
from imgnet_mini.runs.predictions import load_predictions
from imgnet_mini.utils.csv_file import read_table

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="it has few of these names")

SHOWN = {
    "<script>alert(1)<": "<script>alert(1)<",
    "[x](javascript:alert(1))": "[x](javascript:alert(1))",
    "![x](y)": "![x](y)",
    "a|b": "a|b",
    "```": "```",
    "\x1b]0;x\x07": r"\x1b]0;x\x07",
    "\x1b[2J\r\x9b": r"\x1b[2J\r\x9b",
    "new\n# line": r"new\n# line",
    "[red]": "[red]",
    "{{7*7}}": "{{7*7}}",
    "\u202egpj": r"\u202egpj",
    "=cmd()": "=cmd()",
    "@x": "@x",
    "$\\frac{$": "$\\frac{$",
    "\udcff\udcfe": r"\udcff\udcfe",
    "&amp;": "&amp;",
    "'-1": "'-1",
    "x" * 200: "x" * 200,
}
"""Hostile names, and how they are shown."""

ROOT = "data [red]|<b>`\x1b[2J"
SHOWN_ROOT = r"data [red]|<b>`\x1b[2J"
BROKEN = "new\n<!-- imgnet-mini results: end -->\n<img src=x>{{7*7}}\x1b[2J.png"

TRAIN = (
    *("train", "--skip-bad", "--data-root", ROOT, "--arch", "shufflenet_v2_x0_5"),
    *("--img-size", "32", "--epochs", "1", "--batch-size", "6", "--workers", "0"),
)
COMMANDS = {
    "train": TRAIN,
    "evaluate": ("evaluate",),
    "predict": ("predict", f"{ROOT}/val"),
    "export": ("export", "--format", "state-dict"),
    "report": ("report",),
    "compare": ("compare", "a", "b"),
    "README.md": ("readme",),
    "experiment.md": ("readme", "--template", "experiment", "--readme", "experiment.md"),
    "own.md": ("readme", "--template", f"{ROOT}/own.md.j2", "--readme", "own.md"),
}
OWN_TEMPLATE = """{% import "parts.md.j2" as parts %}
# {{ run.data_name | md }}
{{- parts.headline(run) }}
{{- parts.classes(run) }}
{{- parts.settings(run) }}
{{- parts.skipped(run) }}
{{- parts.details("Log by epoch", run.log) }}
{{- parts.details("Model summary by layer", run.model_summary) }}
"""
TAGS = {"details", "summary", "table", "tr", "td", "p", "img", "br", "code"}
WEB_TAGS = {
    *("html", "head", "meta", "link", "title", "style", "body", "main", "header", "nav", "section"),
    *("footer", "h1", "h2", "h3", "p", "div", "span", "small", "b", "i", "a", "code", "pre"),
    *("ul", "ol", "li", "dl", "dt", "dd", "table", "thead", "tbody", "tr", "th", "td", "figure"),
    *("figcaption", "details", "summary", "input", "output", "button", "img", "script"),
    *("svg", "line", "text", "rect", "path", "circle"),
}
RESULTS = ("Accuracy",)
EXPERIMENT = (
    *("Overview", "Data", "Network", "Learning rate", "Results", "Details", "Notes", "Next steps"),
)
FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")


@dataclass
class Published:
    """A run on hostile names: what its commands said and drew, and the folder they wrote to."""

    folder: Path
    names: list[str]
    said: dict[str, str] = field(default_factory=dict)
    drawn: list[Text] = field(default_factory=list)

    @property
    def paths(self):
        return RunPaths(self.folder, "a")

    def files(self, kind):
        found = [path for path in self.folder.rglob(f"*{kind}") if path.is_file()]
        return [path for path in found if ROOT not in path.parts]


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    folder = tmp_path_factory.mktemp("published")
    run = Published(folder, plant(folder / ROOT))
    savefig = Figure.savefig

    def noting(figure, *args, **kwargs):
        savefig(figure, *args, **kwargs)
        run.drawn.extend(figure.findobj(Text))

    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        (folder / ROOT / "own.md.j2").write_text(OWN_TEMPLATE, "utf-8")
        patch.setenv("COLUMNS", "100")
        patch.setattr(Figure, "savefig", noting)
        for command, args in COMMANDS.items():
            words = [*args] if command == "compare" else [*args, "--name", "a"]
            patch.setattr("sys.argv", ["imgnet-mini", *words])
            run.said[command] = said(words)
            if command == "train":  # a run to compare with
                shutil.copytree(folder / "out/a", folder / "out/b")
    return run


def plant(root):
    """Two training images and one to validate on of each class, and one that is broken."""
    names = []
    generator = np.random.default_rng(0)
    for number, name in enumerate(SHOWN):
        image = draw_image(number / len(SHOWN), generator)
        try:
            for place in ("train/{0}/{0}0.png", "train/{0}/{0}1.png", "val/{0}/{0}0.png"):
                path = Path(f"{root}/{place}".format(name))
                path.parent.mkdir(parents=True, exist_ok=True)
                image.save(path)
        except OSError:  # such as those that are not UTF-8, on a Mac
            continue
        names.append(name)
    (root / "train" / names[0] / BROKEN).touch()
    return sorted(names)


@pytest.fixture(scope="module")
def predicted(published):
    """What `predict` hands to other programs, byte by byte."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(published.folder)
        words = ["predict", f"{ROOT}/val", "--name", "a"]
        return {form: written([*words, form]) for form in ("--json", "--csv")}


def said(words):
    return without_colours(written(words).decode())


def written(words):
    stream = io.TextIOWrapper(io.BytesIO(), "utf-8", newline="")
    with redirect_stdout(stream), redirect_stderr(stream), pytest.raises(SystemExit) as end:
        command_line.main(words)
    stream.flush()
    assert not end.value.code, stream.buffer.getvalue()
    return stream.buffer.getvalue()


@pytest.fixture(params=SHOWN, ids=map(ascii, SHOWN.values()))
def name(request, published):
    if request.param not in published.names:
        pytest.skip("this file system does not take the name")
    return request.param


def is_printable(text):
    return all(char.isprintable() or char == "\n" for char in text)


@pytest.mark.parametrize("command", COMMANDS)
def test_no_command_steers_the_terminal(published, command):
    assert published.said[command]
    assert is_printable(published.said[command])
    assert command != "train" or f"images from {SHOWN_ROOT} (" in published.said["train"]


def test_an_error_names_a_place_without_steering_the_terminal(cli):
    for words in (["train", "--data-root", ROOT], ["evaluate", "--checkpoint", ROOT]):
        assert cli(*words) in (4, 6)
        assert is_printable(cli.err)
        assert cli.says(SHOWN_ROOT)


def test_a_message_names_a_class_on_one_line(published, name, cli, make_folder):
    root = make_folder(Path("data"), classes=["a", "b"])
    (root / "train" / name).mkdir()
    (root / "train" / name / f"{name}.png").touch()
    assert cli("train", "--data-root", "data") == 4
    assert is_printable(cli.err)
    assert cli.says(f"only in train/: {SHOWN[name]} Add")
    assert cli("check", "--data-root", "data") == 4
    assert is_printable(cli.out)
    assert f"  data/train/{SHOWN[name]}/{SHOWN[name]}.png: the file is empty\n" in cli.out


@pytest.fixture(params=["README.md", "experiment.md", "own.md"])
def page(request, published):
    return Page(published.folder / request.param)


@pytest.fixture
def own_page(published):
    return Page(published.folder / "own.md")


def test_a_page_has_no_parts_but_its_own(published, page):
    assert not page.kinds & {"image", "code_block"}
    links = [token.attrs["href"] for token in page.tokens if token.type == "link_open"]
    assert all((published.folder / unquote(link)).is_file() for link in links)
    assert page.tags <= TAGS
    assert len(page.images) == len(set(page.images)) in (0, 4, 6)
    assert all((published.folder / unquote(image)).is_file() for image in page.images)
    assert all(text.startswith(("imgnet-mini ", "Written by")) for text in page.comments)
    title = f"shufflenet_v2_x0_5 on {SHOWN_ROOT}"
    assert page.headings in (["Results of a", *RESULTS], [title, *EXPERIMENT], [SHOWN_ROOT])
    assert SHOWN_ROOT in [token.content for token in page.tokens]
    assert {fence.info for fence in page.fences} <= {"text", "sh"}
    assert all(is_printable(fence.content) for fence in page.fences)


def test_a_page_lists_a_broken_file_on_one_line(published, own_page):
    name = next(iter(SHOWN))
    broken = BROKEN.replace("\n", r"\n").replace("\x1b", r"\x1b")
    listed = f"train/{name}/{broken}: the file is empty\n"
    assert listed in [fence.content for fence in own_page.fences]
    assert published.paths.skipped_images.read_text("utf-8") == listed


def test_a_page_shows_a_name_as_it_is_and_in_its_cell(published, own_page, name):
    report = json.loads((published.paths.report_dir / "report.json").read_bytes())
    confused = own_page.tables["Class|Predicted as|Images"]
    assert confused == [
        [SHOWN[pair["true"]], SHOWN[pair["predicted"]], str(pair["count"])]
        for pair in report["confused"]
    ]
    best = own_page.tables["Best classes|Correct|Images"]
    assert best == [
        [SHOWN[one["name"]], f"{100 * one['accuracy']:.1f} %", "1"] for one in report["best"]
    ]
    assert SHOWN[name] in {row[0] for row in confused + best}


@pytest.fixture(params=["reports/a/index.html", "reports/a+b/index.html"])
def web_page(request, published):
    return WebPage(published.folder / request.param)


def test_a_web_page_has_no_parts_but_its_own(web_page):
    assert web_page.open == []
    assert web_page.tags <= WEB_TAGS
    assert not [name for name in web_page.attributes if name.startswith("on") or name == "style"]
    packaged = [css_variables() + render.page_file("page.css"), render.page_file("page.js")]
    assert web_page.scripts == packaged
    address = r"#\w+|data:,|data:image/(png|jpeg);base64,[\w+/=]+|\.\./a/index\.html"
    assert all(re.fullmatch(address, found) for found in web_page.addresses)


def test_every_web_page_is_looked_at(published):
    assert len(published.files(".html")) == 2


def test_a_web_page_shows_a_name_as_it_is_and_in_its_place(published, name):
    page = WebPage(published.paths.page)
    texts = [text.strip() for text in page.texts]
    assert SHOWN[name] in texts  # its row in the table
    assert all(is_printable(text) for text in [*page.texts, *page.titles])
    taken = {
        pair["predicted"]
        for pair in json.loads((published.paths.report_dir / "report.json").read_bytes())[
            "confused"
        ]
    }
    assert name not in taken or texts.count(SHOWN[name]) > 1
    image = f"{SHOWN[name]}/{SHOWN[name]}0.png"
    assert image in page.titles
    assert SHOWN_ROOT in page.texts


def test_a_web_page_lists_a_broken_file_on_one_line(published):
    broken = BROKEN.replace("\n", r"\n").replace("\x1b", r"\x1b")
    assert (
        f"train/{next(iter(SHOWN))}/{broken}: the file is empty"
        in WebPage(published.paths.page).texts
    )


def test_the_markdown_log_is_one_block_of_code(published):
    page = Page(published.paths.markdown_log)
    assert page.kinds == {"fence"}
    assert len(page.fences) == 1


def test_no_kind_of_file_is_written_that_is_not_looked_at_here(published):
    events = {
        path.name for path in published.files("") if path.is_relative_to(published.paths.event_dir)
    }
    assert all(name.startswith("events.out.tfevents.") for name in events)
    kinds = {path.suffix for path in published.files("") if path.name not in events}
    assert kinds == {".md", ".csv", ".json", ".txt", ".png", ".toml", ".pth", ".html", ".npy", ""}


def test_tables_keep_their_columns_and_hold_no_formula(published):
    tables = published.files(".csv")
    assert len(tables) == 6
    for path in tables:
        with path.open(encoding="utf-8", errors="surrogateescape", newline="") as file:
            rows = list(csv.reader(file))
        assert {len(row) for row in rows} == {len(rows[0])}
        assert not [cell for row in rows for cell in row if cell.startswith(FORMULA)]


def test_a_name_comes_back_from_the_tables(published, name):
    index, paths = published.names.index(name), published.paths
    predictions = load_predictions(paths.predictions, tuple(published.names))
    assert predictions.images[index] == f"{name}/{name}0.png"
    assert predictions.targets[index] == index
    confusion = list(read_table(paths.report_dir / "confusion_matrix.csv"))
    assert confusion[0][index + 1] == confusion[index + 1][0] == name
    accuracy = list(read_table(paths.report_dir / "class_accuracy.csv"))
    assert accuracy[index + 1][:3] == [name, name, "1"]


def test_the_list_of_images_holds_each_name_as_it_is_and_no_objects(published, name):
    assert {path.name for path in published.files(".npy")} == {"images.npy"}
    rows = np.load(published.paths.images, allow_pickle=False)
    index = published.names.index(name)
    for split, count in (("train", 2), ("val", 1)):
        listed = rows[(rows["split"] == split.encode()) & (rows["target"] == index)]
        files = [file.decode("utf-8", "surrogateescape") for file in listed["file"]]
        assert files == [f"{name}/{name}{number}.png" for number in range(count)]


def test_the_events_hold_nothing_but_what_stands_under_fixed_tags(published):
    shown = read_events(published.paths.event_dir)
    scalars = {f"{phase}/{name}" for phase in ("train", "val") for name in ("loss", "top1", "top5")}
    scalars |= {"train/imgs_per_sec", "val/imgs_per_sec", "train/loss_step", "train/lr"}
    assert shown.scalars.keys() == scalars | {"val/best_top1", "val/balanced_top1"}
    assert shown.pictures.keys() == {"val/samples", "val/confusion_matrix"}
    assert shown.texts.keys() == {"settings/text_summary"}
    assert shown.kinds == {"scalars", "images", "tensors"}


def test_the_text_in_tensorboard_is_one_block_of_code(published):
    ((_, text),) = read_events(published.paths.event_dir).texts["settings/text_summary"]
    assert is_printable(text)
    assert ROOT.replace("\x1b", r"\u001b") in text
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what TensorBoard brings along
        html = importlib.import_module("tensorboard.plugin_util").markdown_to_safe_html(text)
    assert set(re.findall(r"<(\w+)", html)) == {"pre", "code"}
    assert html.count("<pre>") == 1


def test_a_setting_in_tensorboard_is_no_name_from_a_disk(published):
    hparams = read_events(published.paths.event_dir).hparams
    ((_, start),) = hparams["_hparams_/session_start_info"]
    texts = {value.string_value for value in start.hparams.values()}
    assert texts <= {
        *("", "shufflenet_v2_x0_5", "sgd", "fp32", "bf16", "true", "false", "white", "crop")
    }


def test_a_picture_shows_a_name_as_text(published, name):
    labels = [text for text in published.drawn if SHOWN[name][:20] in text.get_text()]
    assert len(labels) >= 3  # twice beside the matrix, and above a sample
    for label in labels:
        assert not label.get_parse_math()
        assert label.get_text().isprintable()


def test_predictions_for_other_programs_hold_each_name_as_it_is(published, predicted, name):
    assert is_printable(predicted["--json"].decode("ascii"))
    image = f"{ROOT}/val/{name}/{name}0.png"
    (said_of_it,) = [
        one["predictions"]
        for one in json.loads(predicted["--json"])["images"]
        if one["image"] == image
    ]
    table = published.folder / "table"
    table.write_bytes(predicted["--csv"])
    with table.open(encoding="utf-8", errors="surrogateescape", newline="") as file:
        rows = list(csv.reader(file))
    assert {len(row) for row in rows} == {16}
    assert not [cell for row in rows for cell in row if cell.startswith(FORMULA)]
    first = {row[0]: row[1] for row in read_table(table)}
    assert first[image] == said_of_it[0]["class"]
    assert {said["class"] for said in said_of_it} <= set(published.names)
    table.unlink()


def test_the_report_in_text_and_json_holds_every_class_once(published, name):
    paths = published.paths
    text = (paths.report_dir / "classification_report.txt").read_text("utf-8")
    assert is_printable(text)
    (line,) = [line.split() for line in text.splitlines() if line.strip().startswith(SHOWN[name])]
    assert line[-1] == "1"
    assert json.loads(paths.metrics.read_bytes())["classes"] == published.names
    for path in published.files(".json"):
        assert is_printable(path.read_text("ascii"))
        json.loads(path.read_bytes())
