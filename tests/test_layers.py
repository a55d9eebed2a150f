"""Imports inside the package only go down the list of layers."""

import ast
from pathlib import Path

import pytest

import imgnet_mini

LAYERS = [  # top first; modules on one row never import one another
    {"__main__"},
    {"cli"},
    {"options", "commands"},
    {"throughput", "exporting"},
    {"engine"},
    {"evaluation"},
    {"data", "model", "optim", "ema", "checkpoint", "history", "progress", "finder", "reporting"},
    {"run_paths", "run_lock", "records", "predictions", "train_state"}
    | {"device", "precision", "lockstep", "random_state"},
    {"distributed"},
    {"signals"},
    {"config", "csv_file"},
    {"sections", "atomic_file", "recipes"},
    {"console", "launch"},
    {"errors", "at_once", "__init__"},
]
RANK = {module: rank for rank, layer in enumerate(LAYERS) for module in layer}
PACKAGE = Path(imgnet_mini.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))


def part(path):
    """The name in the list of a file: `data` for data/loaders.py, `config` for config.py."""
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def imported_parts(source):
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports inside the package are absolute"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            package, *rest = name.split(".")
            if package == PACKAGE.name:
                yield rest[0] if rest and rest[0] in RANK else "__init__"


def test_every_module_has_its_row():
    assert {part(path) for path in FILES} == set(RANK)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_imports_go_down(path):
    own = part(path)
    for imported in set(imported_parts(path.read_text("utf-8"))) - {own}:
        assert RANK[imported] > RANK[own], f"{own} imports {imported}"


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("import imgnet_mini.engine", "engine"),
        ("from imgnet_mini import engine", "engine"),
        ("from imgnet_mini import __version__", "__init__"),
        ("def f():\n    from imgnet_mini.data.images import read_image", "data"),
    ],
)
def test_each_way_to_import_is_seen(source, found):
    assert list(imported_parts(source)) == [found]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_only_the_command_line_knows_typer(path):
    text = path.read_text("utf-8")
    assert "typer" not in text or part(path) in ("cli", "options")
