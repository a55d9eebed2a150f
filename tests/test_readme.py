import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import pytest
from markdown_it import MarkdownIt

from helpers.finished_runs import log_run
from imgnet_mini.commands import readme
from imgnet_mini.config.run_config import RunConfig
from imgnet_mini.errors import ConfigError, DataError, StaleError
from imgnet_mini.reporting.class_report import Averages, ClassReport, ClassScore, ConfusedPair
from imgnet_mini.reporting.format import UNKNOWN
from imgnet_mini.runs.paths import RunPaths
from imgnet_mini.runs.records import EpochRecord, to_csv, to_markdown
from imgnet_mini.runs.results import EvaluationResult

TOP1 = [10.0, 30.0, 40.0, 40.0, 35.0]
PICTURES = ("loss_curve", "accuracy_curve", "lr_curve", "confusion_matrix", "samples", "network")
HOSTILE = "<script>|[x](javascript:alert(1))\x1b`*"


def make_run(folder, name="a", *, top1=TOP1, **schedule):
    paths = RunPaths(folder, name)
    records = []
    for epoch, accuracy in enumerate(top1):
        numbers = {"epoch": epoch, "top5": 80.0, "lr": 0.01}
        records += [
            EpochRecord(phase="train", loss=2.0, top1=50.0, imgs_per_sec=100.0 + epoch, **numbers),
            EpochRecord(
                phase="val", loss=3.0 + epoch, top1=accuracy, imgs_per_sec=200.0, **numbers
            ),
        ]
    config = RunConfig().override(
        {
            "run": {
                "name": name,
                "data_root": "/home/bob/imagenet-mini",
                "output_dir": "/home/bob",
            },
            "schedule": {"epochs": 5, "max_lr": 0.025} | schedule,
        }
    )
    paths.log_dir.mkdir(parents=True)
    paths.config.write_text(config.to_toml(), "utf-8")
    paths.train_log.write_text(to_csv(records), "utf-8")
    paths.markdown_log.write_text(to_markdown(records), "utf-8")
    return paths


def complete(paths):
    """Add what find-lr, evaluate and report leave."""
    environment = {
        "device": "GPU <b>x</b>",
        "precision": "fp16",
        "torch": "2.15.0",
        "started": "2025-01-02T03:04:05+00:00",
        "classes": 4,
        "train_images": 40,
        "val_images": 8,
        "parameters": 25557032,
        "command": ["/home/bob/bin/imgnet-mini", "train", "--data-root", "/home/bob/imagenet-mini"],
    }
    paths.environment.write_text(json.dumps(environment), "utf-8")
    paths.report_dir.mkdir(parents=True)
    for picture in PICTURES:
        (paths.report_dir / f"{picture}.png").touch()
    paths.model_summary.write_text("ResNet\n```\n</details>\n# not a heading\n", "utf-8")
    result = EvaluationResult(
        loss=2.5, top1=41.5, top5=70.0, images=8, imgs_per_sec=300.0,
        checkpoint="/home/bob/best.pth", checkpoint_sha256="0" * 64, epoch=2, arch="resnet50",
        img_size=224, resize=256, precision="fp32", device="CPU", torch="2.15.0", classes=("a",),
    )  # fmt: skip
    result.write(paths.metrics)
    score = ClassScore(folder="n1", name=HOSTILE, images=8, correct=4, accuracy=0.5)
    ClassReport(
        images=5,
        accuracy=0.8,
        macro=Averages(precision=0.1, recall=0.2, f1=0.3),
        weighted=Averages(precision=0.4, recall=0.5, f1=0.61239),
        classes=4,
        with_images=3,
        never_predicted=1,
        best=(score,),
        worst=(score,),
        confused=(ConfusedPair(true=HOSTILE, predicted="b", count=3),),
    ).write(paths.class_report)
    paths.finder_dir.mkdir(exist_ok=True)
    (paths.finder_dir / "f.png").touch()
    finder = {
        "name": paths.name,
        "time": "2025-01-02T03:04:05",
        "lr": 0.0046,
        "plot": "f.png",
        "regions": {"flat": [1e-7, 2e-4], "falling": [2e-4, 0.05], "diverging": [0.08, 1.0]},
        "problem": HOSTILE,
    }
    (paths.finder_dir / f"lr_finder_{paths.name}.json").write_text(json.dumps(finder), "utf-8")
    return paths


def write(folder, *names, template="results", path=None, check=False):
    given = RunConfig().override({"run": {"output_dir": folder, "name": "a"}})
    readme.run(given, list(names), template, path, check)
    return (path or folder / "README.md").read_bytes().decode()


class Page(HTMLParser):
    def __init__(self, markdown):
        super().__init__()
        self.tags, self.open, self.images, self.links, self.text = [], [], [], [], ""
        self.feed(MarkdownIt("commonmark", {"html": True}).enable("table").render(markdown))
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        if tag == "a":
            self.links.append(dict(attrs)["href"])
        if tag == "img":
            self.images.append(dict(attrs)["src"])
        elif tag not in ("br", "hr"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def row(markdown, first):
    line = next(line for line in markdown.splitlines() if line.startswith(f"| {first}"))
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_the_block_shows_the_first_epoch_of_the_best_top1_and_the_final_one(tmp_path):
    make_run(tmp_path)
    text = write(tmp_path)
    assert row(text, "Best") == ["Best epoch", "2", "**40.00 %**", "80.00 %", "5.0000", "200.0"]
    assert row(text, "Final") == ["Final epoch", "4", "35.00 %", "80.00 %", "7.0000", "200.0"]
    assert "training ran at 102.0 images/s and validation at 200.0" in text


def test_a_bare_run_has_no_empty_parts_and_no_advice(tmp_path):
    make_run(tmp_path)
    text = write(tmp_path)
    assert "img" not in Page(text).tags
    assert "finder" not in text.lower()
    assert "reports/" not in text


@pytest.mark.parametrize("template", ["results", "experiment"])
@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("names", [["a"], ["a", "b"]])
def test_every_page_is_well_formed_and_the_same_again(tmp_path, template, full, names):
    for name in names:
        paths = make_run(tmp_path, name)
        if full:
            complete(paths)
    text = write(tmp_path, *names, template=template)
    page = Page(text)
    assert page.open == []
    assert "script" not in page.tags
    assert all((tmp_path / unquote(link)).is_file() for link in page.links)
    assert "# not a heading" not in page.text
    assert "\n\n\n" not in text
    assert write(tmp_path, *names, template=template) == text
    assert write(tmp_path, *names, template=template, check=True) == text


def test_the_block_links_logs_and_tables_and_stays_short(tmp_path):
    complete(make_run(tmp_path, top1=[40.0] * 300, epochs=300))
    text = write(tmp_path)
    names = {Path(link).name for link in Page(text).links}
    assert names == {"logs.md", "config.toml", "environment.json", "model_summary.txt"}
    assert len(text.splitlines()) < 120


@pytest.mark.parametrize("template", ["results", "experiment"])
def test_a_page_tells_nothing_of_the_machine_it_was_written_on(tmp_path, template):
    complete(make_run(tmp_path))
    text = write(tmp_path, template=template)
    assert "bob" not in text
    assert str(tmp_path) not in text
    assert tmp_path.name not in text


@pytest.mark.parametrize("place", ["README.md", "docs/deep/README.md"])
def test_every_picture_is_linked_from_where_the_readme_lies(tmp_path, place):
    complete(make_run(tmp_path))
    path = tmp_path / place
    images = Page(write(tmp_path, template="experiment", path=path)).images
    assert len(images) == len(PICTURES) + 1
    assert all((path.parent / unquote(image)).is_file() for image in images)


def test_the_overall_rows_are_those_of_the_report_file(tmp_path):
    complete(make_run(tmp_path))
    text = write(tmp_path)
    assert row(text, "Accuracy")[1:] == [UNKNOWN, UNKNOWN, "0.8000", "5"]
    assert row(text, "Macro avg")[1:] == ["0.1000", "0.2000", "0.3000", "5"]
    assert "\nAverages are over the 3 of 4 classes that have validation images. 1 class is " in text
    assert row(text, "Weighted avg")[1:] == ["0.4000", "0.5000", "0.6124", "5"]


def test_several_runs_are_compared_by_the_settings_that_differ(tmp_path):
    make_run(tmp_path, "a")
    make_run(tmp_path, "b", top1=[20.0, 60.0], max_lr=0.1)
    text = write(tmp_path, "a", "b", "a")
    header = row(text, "Run")
    assert header[:3] == ["Run", "`max_lr`", "Epochs"]
    assert row(text, "`a`")[:5] == ["`a`", "0.025", "5", "40.00 %", "80.00 %"]
    assert row(text, "`b`")[:5] == ["`b`", "0.1", "2 of 5", "**60.00 %**", "80.00 %"]
    assert text.count("<summary><b>") == 2


def test_the_experiment_says_what_the_run_was_and_what_is_next(tmp_path):
    paths = make_run(tmp_path)
    bare = write(tmp_path, template="experiment")
    assert "imgnet-mini find-lr --config out/a/config.toml" in bare
    assert "imgnet-mini report --name a" in bare
    complete(paths)
    text = write(tmp_path, template="experiment")
    assert "find-lr --config" not in text
    assert "imgnet-mini report" not in text
    assert "--max-lr 0.0046" in text
    assert "imgnet-mini train --data-root imagenet-mini" in text
    for fact in ("one of 4 classes", "40 training images", "25,557,032 parameters", "fp16"):
        assert fact in text
    assert "From 1e-7 to 2e-4 the loss is flat" in text
    assert "GPU <b>x</b>" in Page(text).text


def test_the_experiment_says_how_images_are_made(tmp_path):
    make_run(tmp_path)
    plain = write(tmp_path, template="experiment")
    data = {"progressive": "160:224", "eval_size": 256, "trivial_augment": True, "mixup": 0.2}
    data |= {"cutmix": 1.0, "random_erasing": 0.1}
    config = make_run(tmp_path / "other").config
    config.write_text(RunConfig.read(config).override({"data": data}).to_toml(), "utf-8")
    text = write(tmp_path / "other", template="experiment")
    for fact in (
        "`--progressive 160:224`",
        "TrivialAugment applies one random transform",
        "A random rectangle is erased in 10 % of them",
        "mixed by MixUp or CutMix",
        "to 256 \N{MULTIPLICATION SIGN} 256 pixels.",
    ):
        assert fact in text
        assert fact not in plain


def test_the_notes_of_an_experiment_are_kept(tmp_path):
    make_run(tmp_path)
    text = write(tmp_path, template="experiment")
    noted = re.sub(r"\*Your own notes.*\*", "I saw it.", text)
    (tmp_path / "README.md").write_text(noted, "utf-8", newline="\n")
    assert write(tmp_path, template="experiment") == noted != text


def test_an_experiment_never_replaces_another_readme(tmp_path):
    make_run(tmp_path)
    (tmp_path / "README.md").write_text("# Mine\n")
    with pytest.raises(ConfigError, match=r"--readme OTHER\.md"):
        write(tmp_path, template="experiment")
    assert (tmp_path / "README.md").read_text() == "# Mine\n"


def test_check_fails_on_a_stale_readme_and_writes_nothing(tmp_path):
    paths = make_run(tmp_path)
    with pytest.raises(StaleError, match="imgnet-mini readme --name a") as caught:
        write(tmp_path, check=True)
    assert caught.value.exit_code == 1
    assert not (tmp_path / "README.md").exists()
    before = write(tmp_path)
    (paths.train_log).write_text(paths.train_log.read_text().replace("40.0", "41.0"))
    with pytest.raises(StaleError):
        write(tmp_path, check=True)
    assert (tmp_path / "README.md").read_bytes().decode() == before


def test_a_readme_that_is_up_to_date_is_not_touched(tmp_path):
    make_run(tmp_path)
    write(tmp_path)
    before = (tmp_path / "README.md").stat()
    write(tmp_path)
    after = (tmp_path / "README.md").stat()
    assert (before.st_mtime_ns, before.st_ino) == (after.st_mtime_ns, after.st_ino)


def test_a_readme_with_one_marker_is_refused_and_left(tmp_path):
    make_run(tmp_path)
    broken = b"# T\n<!-- imgnet-mini results: start -->\n"
    (tmp_path / "README.md").write_bytes(broken)
    with pytest.raises(DataError, match=r"README\.md, line 2"):
        write(tmp_path)
    assert (tmp_path / "README.md").read_bytes() == broken


def test_a_missing_run_is_named_with_the_path_and_what_to_do(tmp_path):
    with pytest.raises(DataError) as error:
        write(tmp_path)
    assert f"no run a: {tmp_path / 'out/a/train_log.csv'} does not exist" in str(error.value)
    assert f"Runs in {tmp_path}: none. Give another --name or --output-dir" in str(error.value)
    assert str(error.value).endswith(", or train it first")


def test_a_run_without_a_validated_epoch_is_refused(tmp_path):
    make_run(tmp_path, top1=[])
    with pytest.raises(DataError, match="imgnet-mini resume --name a"):
        write(tmp_path)


def test_a_run_name_cannot_lead_out_of_the_folder(tmp_path):
    with pytest.raises(ConfigError, match="run name"):
        write(tmp_path, "../a")


@pytest.mark.parametrize("file", ["metrics", "environment", "class_report"])
@pytest.mark.parametrize("text", ["{", "[1]", '{"top1": "x", "device": 7}'])
def test_a_damaged_file_of_the_run_is_named(tmp_path, file, text):
    paths = complete(make_run(tmp_path))
    getattr(paths, file).write_text(text)
    with pytest.raises(DataError, match=re.escape(str(getattr(paths, file)))):
        write(tmp_path)


def test_a_diverged_epoch_is_never_the_best_one(tmp_path):
    make_run(tmp_path, top1=[float("nan"), 5.0, float("nan")])
    text = write(tmp_path)
    assert row(text, "Best")[1:3] == ["1", "**5.00 %**"]
    assert row(text, "Final")[2] == "\N{EN DASH} %"


def test_a_template_of_ones_own_fills_the_block_and_may_use_the_packaged_parts(tmp_path):
    make_run(tmp_path)
    own = tmp_path / "own.md.j2"
    own.write_text(
        '{% import "parts.md.j2" as parts %}Best: {{ run.best.top1 | fixed(1) }}\n'
        "{{- parts.metrics(run) }}\n",
        "utf-8",
    )
    (tmp_path / "README.md").write_bytes(b"# Mine\r\n")
    text = write(tmp_path, template=str(own))
    assert text.startswith(
        "# Mine\r\n\r\n<!-- imgnet-mini results: start -->\r\n\r\nBest: 40.0\r\n"
    )
    assert "| Best epoch |" in text


@pytest.mark.parametrize(
    ("source", "place"),
    [
        ("x\n{{ nothing }}", "line 2"),
        ("x\n\n{{ run.nothing }}", "line 3"),
        ("{% if %}", "line 1"),
        ("x\n{{ 1 / 0 }}", "line 2"),
        ("x\n{{ run.name | nothing }}", "line 2"),
        ("x\n{{ run.name + 1 }}", "line 2"),
        ("x\n{{ 5 | fence }}", "line 2"),
        ("x\n{% include 'nothing' %}", "line 2"),
        ("x\n{{ run.name.__class__.__mro__ }}", "line 2"),
        ("{% include 'own.md.j2' %}", "line 1"),
        ("<!-- imgnet-mini results: end -->", ""),
    ],
)
def test_a_wrong_template_is_named_with_its_line(tmp_path, source, place):
    make_run(tmp_path)
    own = tmp_path / "own.md.j2"
    own.write_text(source, "utf-8")
    with pytest.raises(ConfigError) as caught:
        write(tmp_path, template=str(own))
    assert str(own) in str(caught.value)
    assert place in str(caught.value)
    assert not (tmp_path / "README.md").exists()


def test_a_missing_template_is_named_with_the_packaged_ones(tmp_path):
    make_run(tmp_path)
    with pytest.raises(ConfigError, match=r"nothing.*results, experiment"):
        write(tmp_path, template="nothing")


def test_a_template_that_is_not_utf8_is_named(tmp_path):
    make_run(tmp_path)
    own = tmp_path / "own.j2"
    own.write_bytes(b"\xff")
    with pytest.raises(ConfigError, match=r"own\.j2"):
        write(tmp_path, template=str(own))


@pytest.mark.skipif(sys.platform == "win32", reason="links need a privilege there")
def test_a_readme_that_is_a_link_stays_one(tmp_path):
    make_run(tmp_path)
    (tmp_path / "real.md").write_text("# T\n")
    (tmp_path / "README.md").symlink_to("real.md")
    write(tmp_path)
    assert (tmp_path / "README.md").is_symlink()
    assert (
        (tmp_path / "real.md").read_text().startswith("# T\n\n<!-- imgnet-mini results: start -->")
    )


def test_the_command_never_loads_torch(tmp_path):
    script = (
        "import sys\n"
        "import imgnet_mini.commands.readme\n"
        "sys.exit(bool({'torch', 'matplotlib', 'sklearn'} & set(sys.modules)))"
    )
    subprocess.run([sys.executable, "-c", script], check=True, cwd=Path(__file__).parent)


def test_the_results_of_a_run_with_ema_weights_are_theirs(tmp_path):
    settings = {"nesterov": True, "norm_decay": False, "clip_grad": 2.5, "ema_decay": 0.9999}
    log_run(tmp_path, "a", settings={"optimizer": settings}, ema=True)
    text = write(tmp_path)
    assert row(text, "Best epoch")[:3] == ["Best epoch", "2", "**40.00 %**"]
    assert row(text, "Final epoch")[:3] == ["Final epoch", "3", "1.00 %"]
    assert "All validation results are those of the EMA weights." in text
    experiment = write(tmp_path, template="experiment", path=tmp_path / "experiment.md")
    assert row(experiment, "Optimizer")[1] == (
        "SGD, Nesterov momentum 0.9, weight decay 1e-4 (not of norms and biases), label smoothing "
        "0.1, gradient norm clipped to 2.5, EMA of the weights with decay 0.9999"
    )


def test_a_run_with_none_of_them_is_told_as_ever(tmp_path):
    make_run(tmp_path)
    assert "EMA" not in write(tmp_path)
    experiment = write(tmp_path, template="experiment", path=tmp_path / "experiment.md")
    assert row(experiment, "Optimizer")[1] == (
        "SGD, momentum 0.9, weight decay 1e-4, label smoothing 0.1"
    )
