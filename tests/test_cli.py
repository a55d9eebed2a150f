import os
import signal
import subprocess
import sys
from importlib.metadata import entry_points

import pytest
import typer

import imgnet_mini
from conftest import without_colours
from imgnet_mini import __main__ as own_process
from imgnet_mini import cli as command_line
from imgnet_mini import errors
from imgnet_mini.cli import entry

PANELS = {
    "find-lr": {"Run", "Data", "Model", "Optimizer", "Schedule", "Finder", "Runtime"},
    "train": {"Run", "Data", "Model", "Optimizer", "Schedule", "Runtime"},
    "resume": {"Run", "Data", "Model", "Optimizer", "Schedule", "Runtime"},
    "evaluate": {"Run", "Data", "Model", "Runtime"},
    "predict": {"Run", "Data", "Model", "Runtime"},
    "export": {"Run", "Data", "Model"},
    "report": {"Run", "Data", "Runtime"},
    "readme": {"Run"},
    "recipe": set(),
    "demo": set(),
}
ALL_PANELS = set().union(*PANELS.values())


def run_python(*args):
    environment = os.environ | {"COLUMNS": "100", "PYTHONIOENCODING": "utf-8"}
    done = subprocess.run(
        [sys.executable, *args], capture_output=True, encoding="utf-8", env=environment, check=False
    )
    return done.returncode, without_colours(done.stdout), done.stderr


def panels_of(text):
    return {panel for panel in ALL_PANELS if f"╭─ {panel} ─" in text}


def test_help_lists_every_command(cli):
    assert cli("--help") == 0
    for command in PANELS:
        assert f"│ {command} " in cli.out
    assert "--version" in cli.out


def test_the_overview_is_the_help_of_all_commands(capsys):
    texts = []
    for app in (entry.choose_app(["--help"]), entry.load_commands()):
        with pytest.raises(SystemExit, check=lambda stop: stop.code == 0):
            app(["--help"], prog_name="imgnet-mini")
        texts.append(capsys.readouterr().out)
    assert texts[0] == texts[1]


def test_the_overview_imports_no_settings():
    code, out, err = run_python("-X", "importtime", "-m", "imgnet_mini", "--help")
    assert (code, "find-lr" in out) == (0, True)
    assert "pydantic" not in err


def test_the_shell_completes_the_options_of_a_command(monkeypatch):
    monkeypatch.setenv("_IMGNET_MINI_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", "imgnet-mini train --max-l")
    monkeypatch.setenv("COMP_CWORD", "2")
    code, out, err = run_python("-m", "imgnet_mini")
    assert (code, out) == (0, "--max-lr\n"), err


def test_no_arguments_show_the_help(cli):
    cli()
    assert "Usage: imgnet-mini" in cli.out + cli.err
    assert "find-lr" in cli.out + cli.err


@pytest.mark.parametrize("flag", ["-h", "--help"])
@pytest.mark.parametrize("command", PANELS)
def test_help_of_each_command_has_its_panels(cli, command, flag):
    assert cli(command, flag) == 0
    assert f"Usage: imgnet-mini {command}" in cli.out
    assert panels_of(cli.out) == PANELS[command]


@pytest.mark.parametrize("command", PANELS)
def test_no_line_of_help_is_wider_than_the_terminal(cli, command):
    cli(command, "--help")
    assert max(map(len, cli.out.splitlines())) <= 100


@pytest.mark.parametrize(
    ("command", "shown"),
    [
        (
            "train",
            ["[default: 20]", "[default: 64]", "(at least 1)", "(above 0 and below 1)", "--no-amp"],
        ),
        ("find-lr", ["--num-iter", "[default: 100]", "(at least 2)", "(above 0)"]),
        ("evaluate", ["best|last|PATH", "--no-tta", "--ten-crop", "[default: best]"]),
        ("readme", ["results|experiment|FILE", "--check", "r50_onecycle_amp"]),
        ("demo", ["--dir", "imgnet-mini-demo", "auto|cuda|mps|cpu"]),
    ],
)
def test_help_shows_defaults_bounds_and_choices(cli, command, shown):
    cli(command, "--help")
    text = " ".join(cli.out.replace("│", " ").split())
    for words in shown:
        assert words in text


@pytest.mark.parametrize("command", ["resume", "evaluate", "predict", "export", "report"])
def test_commands_on_an_existing_run_show_no_default_of_its_settings(cli, command):
    cli(command, "--help")
    assert "[default: 64]" not in cli.out
    assert "[default: auto]" not in cli.out


@pytest.mark.parametrize("command", ["evaluate", "predict", "export", "report"])
@pytest.mark.parametrize("flag", ["--seed", "--crop-scale-min", "--flip", "--compile", "--epochs"])
def test_what_matters_to_training_only_is_no_option_of_the_others(cli, command, flag):
    assert cli(command, flag, 1) == 2
    assert cli.says("No such option")


@pytest.mark.parametrize(
    "args",
    [
        ["nonsense"],
        ["train", "--epochs", 0],
        ["train", "--max-lr", -1],
        ["train", "--img-size", 8],
        ["train", "--name", "../x"],
        ["train", "--config", "absent.toml"],
        ["train", "--resume", "--overwrite"],
        ["find-lr", "--num-iter", 1],
        ["find-lr", "--start-lr", 1, "--end-lr", 0.1],
        ["evaluate", "--batch-size", 0],
        ["predict"],
        ["export", "--format", "pickle"],
        ["predict", ".", "--top-k", 0],
        ["predict", ".", "--json", "--csv"],
        ["readme", "--nonsense"],
        ["demo", "--epochs", 3],
    ],
)
def test_wrong_usage_exits_2_with_a_message_and_no_files(cli, tmp_path, args):
    assert cli(*args) == 2
    assert cli.err
    assert "Traceback" not in cli.err
    assert list(tmp_path.iterdir()) == []


def test_a_file_with_an_unknown_key_is_named_with_the_key(cli, tmp_path):
    path = tmp_path / "bad.toml"
    path.write_text("[schedule]\nepoch = 3\n", "utf-8")
    assert cli("train", "--config", path) == 2
    assert cli.says(f"{path}: schedule.epoch: unknown setting; did you mean schedule.epochs?")


@pytest.mark.parametrize(
    ("error", "code", "title"),
    [
        (errors.ConfigError("why"), 2, "Error"),
        (errors.DataError("why"), 4, "Error"),
        (errors.WriteError("why"), 5, "Error"),
        (errors.CheckpointError("why"), 6, "Error"),
        (errors.DivergedError("why"), 7, "Error"),
        (errors.StaleError("why"), 1, "Error"),
        (errors.FailedImagesError("why"), 1, "Error"),
        (errors.ExportError("why"), 1, "Error"),
        (errors.StoppedError("why", signal.SIGINT), 130, "Stopped"),
        (errors.StoppedError("why", signal.SIGTERM), 143, "Stopped"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else None,
)
def test_each_kind_of_failure_has_its_exit_code_and_no_traceback(
    cli, monkeypatch, error, code, title
):
    monkeypatch.setattr(entry, "choose_app", lambda _: failing_app(error))
    assert cli() == code
    assert f"╭─ {title} ─" in cli.err
    assert cli.says("why")
    assert "Traceback" not in cli.err
    assert cli.out == ""


def test_a_bug_keeps_its_traceback(monkeypatch):
    monkeypatch.setattr(entry, "choose_app", lambda _: failing_app(ZeroDivisionError("bug")))
    with pytest.raises(ZeroDivisionError):
        command_line.main([])


def test_a_file_that_nobody_has_explained_is_named_without_a_traceback(cli, monkeypatch):
    monkeypatch.setattr(
        entry, "choose_app", lambda _: failing_app(PermissionError(13, "No way", "x/y"))
    )
    assert cli() == 5
    assert cli.says("cannot use x/y: No way")


def test_an_error_of_the_system_without_a_file_is_a_bug(monkeypatch):
    monkeypatch.setattr(entry, "choose_app", lambda _: failing_app(OSError(22, "Invalid")))
    with pytest.raises(OSError, match="Invalid"):
        command_line.main([])


def failing_app(error):
    app = typer.Typer(pretty_exceptions_enable=False)

    @app.command()
    def fail() -> None:
        raise error

    return app


def test_version_is_that_of_the_package(cli):
    assert cli("--version") == 0
    assert cli.out == f"imgnet-mini {imgnet_mini.__version__}\n"


def test_the_module_is_the_same_command_line():
    assert run_python("-m", "imgnet_mini", "--version") == (
        0,
        f"imgnet-mini {imgnet_mini.__version__}\n",
        "",
    )


def test_the_installed_script_is_main():
    (script,) = entry_points(group="console_scripts", name="imgnet-mini")
    assert script.load() is own_process.main


def test_help_of_all_commands_needs_neither_torch_nor_numpy():
    code = (
        "import sys\n"
        "from imgnet_mini.cli import main\n"
        f"for command in {list(PANELS)!r}:\n"
        "    try: main([command, '--help'])\n"
        "    except SystemExit: pass\n"
        "heavy = {'torch', 'numpy', 'matplotlib', 'sklearn', 'PIL'} & set(sys.modules)\n"
        "sys.exit(str(heavy) if heavy else 0)"
    )
    code, out, err = run_python("-c", code)
    assert code == 0, err
    assert out.count("Usage: imgnet-mini") == len(PANELS)


def test_errors_go_to_standard_error_as_plain_text_in_a_pipe():
    code, out, err = run_python("-m", "imgnet_mini", "train", "--epochs", "0")
    assert (code, out) == (2, "")
    assert "--epochs" in err
