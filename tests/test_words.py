"""The words of help texts and docstrings: standard terms, in the form that style guides ask for."""

import ast
import re
from pathlib import Path

import pytest
import typer

import imgnet_mini
from imgnet_mini.cli import load_commands
from imgnet_mini.config.run_config import RunConfig, fields_of

PACKAGE = Path(imgnet_mini.__file__).parent
FILES = {path.relative_to(PACKAGE).as_posix(): path for path in PACKAGE.rglob("*.py")}

RIDDLES = re.compile(r"(What|Whether|The same|That which|Where|How|Those|So that)\b")
"""Openings that are neither a verb nor a noun phrase."""
BRITISH = re.compile(
    r"\b(colour|centre|grey|favour|behaviour|neighbour)|[a-z]{3}(is|ys)(e[ds]?|ing|ation)s?\b"
)
NOT_STANDARD = re.compile(
    r"same bits|one after the other|is cut to|whole or not at all|mirror image|goes through"
    r"|let batch norms|parts of each batch|\bpeak rate\b|\b(this|those|ones) (one|own)\b"
    r"|the network runs|\bbit by bit\b|\bgo on\b|\bsays?\b|\bmoves?\b|\bsquares? that\b",
    re.IGNORECASE,
)
"""Wordings that standard terms have replaced."""


def docstrings(source):
    """Every docstring, those of attributes included."""
    for node in ast.walk(ast.parse(source)):
        body = getattr(node, "body", None)
        for statement in body if isinstance(body, list) else ():
            if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant):
                text = statement.value.value
                if isinstance(text, str):
                    yield " ".join(text.split())


def commands(command=None, name="imgnet-mini"):
    command = typer.main.get_command(load_commands()) if command is None else command
    yield name, command
    for part, child in getattr(command, "commands", {}).items():
        yield from commands(child, f"{name} {part}")


def help_texts():
    """Of each command, option and argument, and of each setting, hidden ones left out."""
    for name, command in commands():
        yield name, command.help.split("\n\n")[0]
        for parameter in command.params:
            if not getattr(parameter, "hidden", False) and parameter.name != "help":
                yield f"{name} {parameter.name}", parameter.help
    for section in RunConfig.model_fields:
        for name, field in fields_of(section).items():
            yield f"{section}.{name}", field.description


HELP = dict(help_texts())


@pytest.mark.parametrize("file", FILES)
def test_a_docstring_opens_with_a_verb_or_a_noun(file):
    riddles = [text for text in docstrings(FILES[file].read_text("utf-8")) if RIDDLES.match(text)]
    assert not riddles


@pytest.mark.parametrize("place", HELP)
def test_a_help_text_is_one_phrase_in_standard_terms(place):
    text = " ".join(HELP[place].split())
    assert re.match(r"[A-Z][A-Za-z-]+[ ,:]", text), "it starts with a capitalized word"
    assert not re.match(r"(The|A|An|This|If|So|Also|Only)\b", text), "a verb or a noun comes first"
    assert re.search(r"[^.]\.( ?\([^)]*\))?$", text), "it ends with a full stop"
    assert not RIDDLES.match(text)
    assert not BRITISH.findall(text.replace("noise", "").replace("precise", ""))
    assert not NOT_STANDARD.findall(text)


@pytest.mark.parametrize(
    "text", ["Whether it is.", "What is done.", "The same thing.", "Where it lies.", "How to."]
)
def test_riddles_are_seen(text):
    source = f'class A:\n    x = 1\n    """{text}"""\n'
    assert [bool(RIDDLES.match(found)) for found in docstrings(source)] == [True]
