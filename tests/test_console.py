from functools import partial

import pytest

from imgnet_mini.utils.console import (
    escape_control_chars,
    escape_line,
    print_lines,
    print_warning,
    show_panel,
    show_table,
    write_stdout,
)


@pytest.fixture(autouse=True)
def _width(monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")


def test_lines_are_printed_without_markup_or_wrapping(capsys):
    lines = ["[bold]no markup[/bold] [Train] :smile:", "x" * 200, "C:\\new\\[1]", ""]
    print_lines(*lines)
    assert capsys.readouterr() == ("".join(f"{line}\n" for line in lines), "")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain ü😀\nsecond", "plain ü😀\nsecond"),
        ("\x1b[2J\x07", "\\x1b[2J\\x07"),
        ("a\rb\tc", "a\\rb\\tc"),
        ("\u202egpj.exe", "\\u202egpj.exe"),
        ("\udcff.jpg", "\\udcff.jpg"),
    ],
)
def test_control_characters_are_escaped(text, shown, capsys):
    assert escape_control_chars(text) == shown
    for show in (
        print_lines,
        print_warning,
        partial(show_panel, "Error", color="red"),
        lambda text: show_table(text, ["x"], [[text]]),
    ):
        show(text)
        out, err = capsys.readouterr()
        for line in shown.splitlines():
            assert line in out + err


def test_warnings_go_to_standard_error(capsys):
    print_warning("Note: [x]", "second")
    assert capsys.readouterr() == ("", "Note: [x]\nsecond\n")


def test_write_stdout_keeps_all_bytes_in_a_pipe(capfdbinary):
    print_lines("first")
    write_stdout('"\x1b[2J\r",\udcff,ü\n')
    out, _ = capfdbinary.readouterr()
    assert out == b'first\n"\x1b[2J\r",\xff,\xc3\xbc\n'


def test_write_stdout_escapes_control_characters_on_a_terminal(capsys, monkeypatch):
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    write_stdout("a\x1b[2J,b\nc,d\n")
    assert capsys.readouterr().out == "a\\x1b[2J,b\nc,d\n"


def test_escape_line_escapes_newlines():
    assert escape_line("a\nb\r\x1b[2J\u202ec") == r"a\nb\r\x1b[2J\u202ec"


def test_errors_and_stops_go_to_standard_error_with_their_title(capsys):
    show_panel("Error", "what [red]went[/red] wrong", color="red")
    out, err = capsys.readouterr()
    assert out == ""
    assert "─ Error ─" in err
    assert "what [red]went[/red] wrong" in err
    show_panel("Stopped", "by SIGINT", color="yellow")
    out, err = capsys.readouterr()
    assert out == ""
    assert "─ Stopped ─" in err


def test_a_long_message_is_wrapped_and_not_cut(capsys):
    message = " ".join(f"word{i}" for i in range(100))
    show_panel("Error", message, color="red")
    words = capsys.readouterr().err.replace("│", " ").split()
    assert [word for word in words if word.startswith("word")] == message.split()


def test_a_table_right_aligns_numbers(capsys):
    show_table("Result [x]", ["metric", "value"], [["top-1 [bold]", "7.00"], ["b", "12.50"]])
    out, err = capsys.readouterr()
    assert err == ""
    assert "Result [x]" in out
    assert "top-1 [bold]" in out
    seven, twelve = (
        next(line for line in out.splitlines() if v in line) for v in ("7.00", "12.50")
    )
    assert seven.index("7.00") + 4 == twelve.index("12.50") + 5
