from pathlib import Path

import pytest

from imgnet_mini.errors import ConfigError, DataError
from imgnet_mini.reporting.readme.blocks import (
    EXPERIMENT,
    end_marker,
    replace_block,
    replace_experiment,
    start_marker,
)

START, END = start_marker("results").encode(), end_marker("results").encode()
NOTES_START, NOTES_END = start_marker("notes"), end_marker("notes")
PATH = Path("README.md")
TEXT = "## Results\n\n| a |\n|--|"


def test_the_markers_are_those_that_readmes_in_use_have():
    assert START == b"<!-- imgnet-mini results: start -->"
    assert END == b"<!-- imgnet-mini results: end -->"


@pytest.mark.parametrize("eol", [b"\n", b"\r\n", b"\r"])
@pytest.mark.parametrize(
    "before", [b"", b"\xef\xbb\xbf# T%b", b"bad \xff\xfe utf-8%b", b"\t a  %b%b"]
)
@pytest.mark.parametrize("after", [b"", b"last line without an end", b"\xff\x00%b%b"])
def test_bytes_around_the_block_stay_and_its_lines_end_like_the_files(eol, before, after):
    before, after = before.replace(b"%b", eol), after.replace(b"%b", eol)
    old = before + START + eol + b"old \xff" + eol + END + eol + after
    new = replace_block(old, TEXT, PATH)
    assert new.startswith(before + START + eol)
    assert new.endswith(END + eol + after)
    inside = new[len(before + START) : -len(END + eol + after)]
    assert inside == eol + eol + TEXT.encode().replace(b"\n", eol) + eol + eol
    assert replace_block(new, TEXT, PATH) == new


def test_each_block_has_its_place():
    both = replace_block(replace_block(b"# T\n", "a", PATH), "b", PATH, block="recipes")
    changed = replace_block(both, "c", PATH, block="recipes")
    assert changed == both.replace(b"\nb\n", b"\nc\n")


@pytest.mark.parametrize(
    "old", [b"", b"\xef\xbb\xbf", b"# T", b"# T\n", b"# T\r\nx\r\n", b"# T\r\nx", b"\xff\x00\n\n"]
)
def test_without_markers_the_block_is_appended_once_and_the_rest_is_a_prefix(old):
    new = replace_block(old, TEXT, PATH)
    assert new.startswith(old)
    assert new.count(START) == new.count(END) == 1
    assert replace_block(new, TEXT, PATH) == new
    assert (b"\r\n" in new) == (b"\r\n" in old)


def test_a_marker_that_is_only_mentioned_is_no_marker():
    old = b"The block between `" + START + b"` and its end.\n"
    assert replace_block(old, TEXT, PATH).startswith(old + b"\n" + START)


@pytest.mark.parametrize(
    ("lines", "line"),
    [
        ([b"x", START], "line 2"),
        ([END, b"x"], "line 1"),
        ([END, b"x", START], "line 1"),
        ([START, END, b"x", START, END], "line 4"),
        ([START, b"x", END, END], "line 4"),
    ],
)
def test_markers_that_make_no_block_are_refused_with_their_line(lines, line):
    with pytest.raises(DataError, match=rf"README\.md, {line}: "):
        replace_block(b"\n".join(lines), TEXT, PATH)


@pytest.mark.parametrize(
    ("lines", "line"),
    [
        ([b"```md", START, END, b"```"], "line 2: .* starts in line 1"),
        ([b"x", b"~~~~", b"~~~", END], "line 4: .* starts in line 2"),
        ([b"```", b"```", b" ```python", START, b"old", END], "line 4: .* starts in line 3"),
        ([b"x", b"```", b"``` not its end"], "line 2: .* has no end"),
    ],
)
def test_a_block_inside_a_code_block_is_refused_with_the_lines_of_both(lines, line):
    with pytest.raises(DataError, match=rf"README\.md, {line}"):
        replace_block(b"\n".join(lines), TEXT, PATH)


def test_markers_shown_in_a_code_block_are_no_markers_beside_the_block():
    shown = b"```md\n" + START + b"\n" + END + b"\n```\n"
    block = START + b"\n\n```\nold\n````\n\n" + END + b"\n"
    new = replace_block(shown + block + shown, TEXT, PATH)
    assert new.startswith(shown + START)
    assert new.endswith(END + b"\n" + shown)
    assert b"old" not in new
    inline = b"`a` ```b``` c\n"
    assert replace_block(inline + block, TEXT, PATH).startswith(inline + START)


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
def test_a_utf_16_file_is_refused(encoding):
    with pytest.raises(DataError, match="UTF-8"):
        replace_block("\ufeff# T\n".encode(encoding), TEXT, PATH)


EXPERIMENT_TEXT = f"{EXPERIMENT}\n# T\n{NOTES_START}\n\nyours\n\n{NOTES_END}\nend"


def test_an_experiment_is_written_where_nothing_is():
    assert replace_experiment(None, EXPERIMENT_TEXT, PATH) == f"{EXPERIMENT_TEXT}\n".encode()


@pytest.mark.parametrize("old", [b"", b"# My own\n", b"\n" + EXPERIMENT.encode() + b"\n", b"\xff"])
def test_an_experiment_is_never_written_over_another_readme(old):
    with pytest.raises(ConfigError, match=r"--readme OTHER\.md"):
        replace_experiment(old, EXPERIMENT_TEXT, PATH)


@pytest.mark.parametrize("bom", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("eol", [b"\n", b"\r\n"])
def test_an_experiment_written_again_keeps_notes_line_ends_and_byte_order_mark(bom, eol):
    first = bom + f"{EXPERIMENT_TEXT}\n".encode().replace(b"\n", eol)
    assert replace_experiment(first, EXPERIMENT_TEXT, PATH) == first
    noted = first.replace(b"yours", b"I saw \xff this" + eol + b"and that")
    again = replace_experiment(noted, EXPERIMENT_TEXT.replace("# T", "# New"), PATH)
    assert again == noted.replace(b"# T", b"# New")


def test_an_experiment_whose_notes_were_removed_gets_a_place_for_them_again():
    assert (
        replace_experiment(f"{EXPERIMENT}\n".encode(), EXPERIMENT_TEXT, PATH)
        == f"{EXPERIMENT_TEXT}\n".encode()
    )


def test_an_experiment_with_one_note_marker_is_refused():
    with pytest.raises(DataError, match="line 2"):
        replace_experiment(f"{EXPERIMENT}\n{NOTES_START}\nmine\n".encode(), EXPERIMENT_TEXT, PATH)
