"""README and docs/: short, complete, and true of the command line."""

import re
import shlex
from pathlib import Path

import pytest
import typer

from imgnet_mini.cli import load_commands
from imgnet_mini.config.reference import COMMAND, render_reference

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
PAGES = [README, ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
FENCE = re.compile(r"^ *```(\w*)\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
INLINE_CODE = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")
LINK = re.compile(r"\]\(([^)\s]+)\)|\b(?:src|href)=\"([^\"]+)\"")
PLACEHOLDER = re.compile(r"[A-Z]+")
"""Of a value, in a command line."""

MOST_LINES, WIDEST_LINE = 180, 160  # of the README
FOREIGN_FLAGS = {
    *("--standalone", "--nproc-per-node", "--max-restarts", "--nnodes"),  # torchrun
    *("--rdzv-backend", "--rdzv-id", "--rdzv-endpoint"),
    *("--group", "--shm-size", "--signal", "--dryrun"),  # pip, docker, slurm, torchx
    *("--logdir", "--samples_per_plugin"),  # tensorboard
    *("--page", "--show", "--markdown", "--seeds", "--work-dir", "--images", "--rounds"),
    *("--seeding", "--files", "--classes"),  # benchmarks
    "--repo-type",  # hf
}


def name(path):
    return path.relative_to(ROOT).as_posix()


def prose(text):
    return FENCE.sub("", text)


def own_commands(code):
    """The arguments of each call of imgnet-mini in a shell script."""
    for line in code.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        starts = [
            place
            for place, word in enumerate(words)
            if word == "imgnet-mini" or (word == "imgnet_mini" and words[place - 1] == "-m")
        ]
        if starts:
            arguments = words[starts[0] + 1 :]
            ends = [place for place, word in enumerate(arguments) if word in {">", "|", "&", "&&"}]
            yield arguments[: ends[0]] if ends else arguments


def commands_of(path):
    text = path.read_text("utf-8")
    for language, code in FENCE.findall(text):
        if language in {"bash", "powershell"}:
            yield from own_commands(code)
    for code in INLINE_CODE.findall(prose(text)):
        if code.startswith(("imgnet-mini ", "torchrun ")):
            yield from own_commands(code)


COMMAND_LINES = [
    pytest.param(arguments, id=f"{name(path)}: {' '.join(arguments)}")
    for path in PAGES
    for arguments in commands_of(path)
    if arguments and arguments[0] != "COMMAND"
]


def parse(arguments):
    """The context of the command that these arguments call, which is not run."""
    command = typer.main.get_command(load_commands())
    context, rest = None, ["1" if PLACEHOLDER.fullmatch(word) else word for word in arguments]
    while hasattr(command, "resolve_command") and rest:
        context = command.make_context("imgnet-mini", [], parent=context, resilient_parsing=True)
        context.resilient_parsing = False  # which the command would inherit
        word, command, rest = command.resolve_command(context, rest)
    return command.make_context(word, rest, parent=context) if rest else None


def options_of(command):
    """Flags of a command and its subcommands that its help shows."""
    flags = {
        flag
        for option in command.params
        if not getattr(option, "hidden", False)
        for flag in (*option.opts, *option.secondary_opts)
    }
    return flags.union(*map(options_of, getattr(command, "commands", {}).values()))


FLAGS = options_of(typer.main.get_command(load_commands())) | {"--help"}


def slugs(path):
    """The anchors of a page, as the site makes them of its headings."""
    headings = re.findall(r"^#+ +(.+)$", prose(path.read_text("utf-8")), re.MULTILINE)
    return {
        re.sub(r"[\s-]+", "-", re.sub(r"[^\w\s-]", "", heading).strip().lower())
        for heading in headings
    }


def test_the_readme_is_read_in_three_minutes():
    lines = README.read_text("utf-8").splitlines()
    assert len(lines) <= MOST_LINES
    assert [line for line in lines if len(line) > WIDEST_LINE] == []


def test_the_readme_names_the_test_command_on_a_line_of_its_own():
    assert 'pip install "nox[uv]" && nox' in README.read_text("utf-8").splitlines()


def test_the_readme_names_every_command():
    table = README.read_text("utf-8")
    for command in typer.main.get_command(load_commands()).commands:
        assert f"| `imgnet-mini {command}` |" in table


@pytest.mark.parametrize("arguments", COMMAND_LINES)
def test_every_command_line_in_the_docs_can_be_typed(arguments):
    context = parse(arguments)
    typed = {word.split("=")[0] for word in arguments if word.startswith("--")}
    if context is not None:
        assert typed <= options_of(context.command) | {"--help"}, "an old spelling"


@pytest.mark.parametrize(
    "line", ["train --epoch 3", "train --epochs many", "trane", "recipe shaw mini", "compare a --x"]
)
def test_a_line_that_cannot_be_typed_is_seen(line):
    with pytest.raises(Exception, match=r"[Nn]o such|(is not|be) a valid|be a whole"):
        parse(line.split())


@pytest.mark.parametrize("path", PAGES, ids=name)
def test_every_flag_in_the_docs_exists(path):
    code = " ".join(INLINE_CODE.findall(prose(path.read_text("utf-8"))))
    assert set(re.findall(r"(?<![\w-])--[a-z][a-z0-9-]+", code)) <= FLAGS | FOREIGN_FLAGS


@pytest.mark.parametrize("path", PAGES, ids=name)
def test_every_test_in_the_docs_exists(path):
    for test in re.findall(r"\b(?:tests/)?(test_\w+\.py)\b", path.read_text("utf-8")):
        assert (ROOT / "tests" / test).is_file(), test


@pytest.mark.parametrize("path", PAGES, ids=name)
def test_every_link_and_image_exists(path):
    for link in filter(None, (a or b for a, b in LINK.findall(prose(path.read_text("utf-8"))))):
        if re.match(r"[a-z]+:", link):
            continue
        target, _, anchor = link.partition("#")
        file = (path.parent / target) if target else path
        assert file.is_file(), link
        assert not anchor or anchor in slugs(file), link


def test_every_page_is_in_the_navigation_and_the_readme():
    navigation = (ROOT / "zensical.toml").read_text("utf-8")
    readme = README.read_text("utf-8")
    for page in (ROOT / "docs").glob("*.md"):
        assert f'"{page.name}"' in navigation
        assert page.name == "index.md" or f"(docs/{page.name})" in readme


def test_the_settings_page_is_fresh():
    page = (ROOT / "docs/settings.md").read_text("utf-8")
    assert page == render_reference(), f"docs/settings.md is out of date; run\n  {COMMAND}"


def test_the_example_page_is_fresh(cli):
    folder = ROOT / "docs" / "example"
    example = ["--name", "tiny-imagenet-mini", "--output-dir", folder]
    assert cli("readme", *example, "--readme", folder.with_suffix(".md"), "--check") == 0
