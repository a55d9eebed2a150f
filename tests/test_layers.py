"""Imports inside the package only go down the floors, folder by folder."""

import ast
from pathlib import Path

import pytest

import imgnet_mini

FLOORS = [  # top first; folders on one floor never import one another
    {"__main__", "torchx"},
    {"cli", "api"},
    {"commands"},
    {"inference"},
    {"training", "export"},
    {"data", "reporting"},
    {"checkpoint", "lr_finder", "distributed"},
    {"config"},
    {"runs"},
    {"utils"},
    {"errors", "__init__"},
]
FLOOR = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
PACKAGE = Path(imgnet_mini.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))
LONGEST_FILE = 300  # lines


def room(path):
    """The folder of a file: `data` for data/loaders.py; `errors` for errors.py itself."""
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def imported_rooms(source):
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
                yield rest[0] if rest and rest[0] in FLOOR else "__init__"


def short_name(path):
    return path.relative_to(PACKAGE).as_posix()


def test_every_folder_has_its_floor():
    assert {room(path) for path in FILES} == set(FLOOR)


@pytest.mark.parametrize("path", FILES, ids=short_name)
def test_imports_go_down(path):
    own = room(path)
    if path == PACKAGE / "__init__.py":  # re-exports the Python API, and imports it on first use
        own = "__main__"
    for imported in set(imported_rooms(path.read_text("utf-8"))) - {own}:
        assert FLOOR[imported] > FLOOR[own], f"{own} imports {imported}"


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("import imgnet_mini.training", "training"),
        ("from imgnet_mini import training", "training"),
        ("from imgnet_mini import __version__", "__init__"),
        ("def f():\n    from imgnet_mini.data.images import read_image", "data"),
    ],
)
def test_each_way_to_import_is_seen(source, found):
    assert list(imported_rooms(source)) == [found]


@pytest.mark.parametrize("path", FILES, ids=short_name)
def test_only_the_command_line_knows_typer(path):
    assert "typer" not in path.read_text("utf-8") or room(path) == "cli"


@pytest.mark.parametrize("path", FILES, ids=short_name)
def test_no_file_is_longer_than_a_reader_can_hold(path):
    assert len(path.read_text("utf-8").splitlines()) <= LONGEST_FILE
