from pathlib import Path
from typing import Annotated

import pytest
import typer

from imgnet_mini.cli import entry
from imgnet_mini.cli.options import config_options
from imgnet_mini.config.run_config import RunConfig, fields_of, former_names

SECTIONS = tuple(RunConfig.model_fields)


class Options:
    """A command with the options of some sections, run through the package's own `main`."""

    def __init__(self, cli, monkeypatch):
        self._cli = cli
        self._monkeypatch = monkeypatch
        self.use(*SECTIONS)

    def use(self, *sections, **settings):
        app = typer.Typer(pretty_exceptions_enable=False)

        @app.command()
        @config_options(*sections, **settings)
        def dummy(
            *, extra: Annotated[bool, typer.Option("--extra")] = False, config: RunConfig
        ) -> None:
            """Keep its arguments."""
            self.config, self.extra = config, extra

        self._monkeypatch.setattr(entry, "choose_app", lambda args: app)

    def __call__(self, *args):
        assert self._cli(*args) == 0, self._cli.err
        return self.config

    def refused(self, *args):
        assert self._cli(*args) == 2
        assert not self._cli.out
        return self._cli

    def help(self):
        assert self._cli("--help") == 0
        return self._cli.out


@pytest.fixture
def options(cli, monkeypatch):
    return Options(cli, monkeypatch)


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "settings.toml"
    path.write_text(
        "[schedule]\nepochs = 5\nmax_lr = 0.5\n[runtime]\namp = false\n[data]\nworkers = 1\n",
        "utf-8",
    )
    return path


def test_without_options_the_configuration_is_the_default(options):
    assert options() == RunConfig()
    assert options.config.explicit() == {}


def test_only_what_was_typed_counts_as_given(options):
    assert options("--epochs", 3, "--no-flip").explicit() == {
        "schedule": {"epochs": 3},
        "data": {"flip": False},
    }


def test_flag_wins_over_file_and_file_over_default(options, file):
    config = options("--config", file, "--epochs", 7)
    assert (config.schedule.epochs, config.schedule.max_lr) == (7, 0.5)
    assert (config.runtime.amp, config.data.workers) == (False, 1)
    assert config.optimizer == RunConfig().optimizer


def test_flag_wins_over_file_even_when_it_equals_the_default(options, file):
    config = options("--config", file, "--epochs", 20, "--amp")
    assert (config.schedule.epochs, config.runtime.amp) == (20, True)


@pytest.mark.parametrize("flag", [None, 7, 20])
@pytest.mark.parametrize("with_file", [False, True])
@pytest.mark.parametrize("recipe", [None, "mini"])
def test_flag_wins_over_file_over_recipe_over_default(options, file, flag, with_file, recipe):
    options.use(*SECTIONS, recipes=True)
    args = ["--epochs", flag] if flag else []
    args += ["--config", file] if with_file else []
    args += ["--recipe", recipe] if recipe else []
    config = options(*args)
    mini = RunConfig.from_recipe("mini")
    unless_typed = 5 if with_file else mini.schedule.epochs if recipe else 20
    assert config.schedule.epochs == (flag or unless_typed)
    assert config.recipe == recipe
    from_recipe = mini.optimizer.weight_decay
    assert config.optimizer.weight_decay == (from_recipe if recipe else 1e-4) != 0
    assert config.runtime.amp is not with_file
    assert ("optimizer" in config.explicit()) is (recipe is not None)
    assert ("runtime" in config.explicit()) is with_file
    assert ("schedule" in config.explicit()) is bool(args)


@pytest.mark.parametrize("section", SECTIONS)
def test_every_setting_can_be_typed(options, section):
    samples = {"max_lr": 0.5, "arch": "resnet18", "name": "other", "device": "cpu"}
    samples |= {"precision": "bf16", "end_lr": 2.0, "pack_size": 64, "bit_depth": 12}
    samples |= {"max_minutes": 1.5, "start_lr": 1e-4, "trial_steps": 50}
    samples |= {"progressive": "48:224", "eval_size": 256}
    samples |= {"loader": "pack", "pack_on_device": "off", "data_root": Path("x")}
    samples |= {"pack_dir": Path("y"), "output_dir": Path("z"), "clip_grad": 1.5}
    samples |= {"class_weights": "balanced", "hours": 5.0}
    for name, field in fields_of(section).items():
        flag = "--" + name.replace("_", "-")
        if field.annotation is bool:
            for typed, value in ((flag, True), (flag.replace("--", "--no-", 1), False)):
                assert options(typed).explicit() == {section: {name: value}}
            continue
        value = samples.get(name, getattr(getattr(RunConfig(), section), name))
        assert options(flag, value).explicit() == {section: {name: value}}


@pytest.mark.parametrize(("typed", "value"), [("0.25", 0.25), ("auto", "auto"), ("1e-3", 1e-3)])
def test_a_setting_of_two_types_takes_either(options, typed, value):
    assert options("--max-lr", typed).schedule.max_lr == value


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--epochs", 0], "--epochs 0: should be greater than or equal to 1"),
        (["--epochs", -1], "--epochs -1: should be greater than or equal to 1"),
        (["--epochs", "many"], "--epochs many: should be a whole number"),
        (["--epochs", "10.0"], "--epochs 10.0: should be a whole number"),
        (["--epochs", "1e1"], "--epochs 1e1: should be a whole number"),
        (["--epochs", "1_0"], "--epochs 1_0: should be a whole number"),
        (["--epochs", ""], "--epochs '': should be a whole number"),
        (["--accumulate", 0.5], "--accumulate 0.5: should be a whole number"),
        (["--pack-size", 9999], "--pack-size 9999: should be less than or equal to 2048"),
        (["--momentum", 1], "--momentum 1: should be less than 1"),
        (["--momentum", "0,9"], "--momentum 0,9: should be a number"),
        (["--momentum", "nan"], "--momentum nan: should be a finite number"),
        (["--clip-grad", "inf"], "--clip-grad inf: should be a finite number"),
        (
            ["--weight-decay", "inf"],
            "--weight-decay inf: must be a finite number of at least",
        ),
        (["--max-lr", 0], "--max-lr 0: must be a learning rate above 0, or 'auto'"),
        (["--max-lr", "fast"], "--max-lr fast: should be a number or 'auto'"),
        (["--device", "tpu"], "--device tpu: should be 'auto', 'cuda', 'mps' or 'cpu'"),
        (["--name", "a/b"], "--name a/b: a run name has"),
        (["--start-lr", 2, "--end-lr", 1], "must be above start_lr"),
        (["--epoch", 2], "No such option"),
        (["--config", "nope.toml"], "--config nope.toml: No such file"),
        (["stray"], "unexpected extra argument"),
    ],
)
def test_nonsense_exits_2_and_says_why(options, args, message):
    assert options.refused(*args).says(message)


def test_an_unknown_key_of_a_file_names_file_and_key(options, tmp_path):
    path = tmp_path / "b.toml"
    path.write_text("[optimizer]\nmomentun = 1\n", "utf-8")
    assert options.refused("--config", path).says(f"{path}: optimizer.momentun: unknown setting")


def test_a_wrong_file_is_told_even_if_a_flag_replaces_the_value(options, tmp_path):
    path = tmp_path / "b.toml"
    path.write_text("[schedule]\nepochs = 0\n", "utf-8")
    assert options.refused("--config", path, "--epochs", 3).says("schedule.epochs")


def test_help_shows_panels_defaults_bounds_and_choices(options):
    text = " ".join(options.help().split())
    for section in SECTIONS:
        assert f"─ {section.capitalize()} ─" in text
    assert "--amp --no-amp" in text
    assert "[default: 20]" in text
    assert "(at least 1)" in text
    assert "(above 0 and below 1)" in text
    assert "FLOAT|auto" in text
    assert "auto|cuda|mps|cpu" in text
    assert "--config FILE" in text


def test_help_has_the_whole_text_of_each_setting(options, cli, monkeypatch):
    monkeypatch.setenv("COLUMNS", "300")  # no text is broken by another column
    words = "".join(options.help().split())
    for section in SECTIONS:
        for field in fields_of(section).values():
            assert "".join(field.description.split()) in words.replace("│", "")


def test_sections_and_settings_that_a_command_leaves_out_are_no_options(options):
    options.use("data", "runtime", leave_out=("flip", "seed"))
    text = options.help()
    for flag in ("--epochs", "--flip", "--seed", "─ Schedule ─"):
        assert flag not in text
    assert options.refused("--seed", 1).says("No such option")


def test_defaults_are_hidden_where_a_run_has_its_own(options):
    options.use("data", show_defaults=False)
    assert "[default: 64]" not in options.help()
    assert options("--batch-size", 64).explicit() == {"data": {"batch_size": 64}}


def test_a_command_keeps_its_own_options(options):
    options("--extra", "--epochs", 2)
    assert options.extra
    assert "extra" not in str(options.config)


def test_a_clash_of_names_fails_at_import():
    with pytest.raises(ValueError, match="duplicate"):

        @config_options("runtime")
        def command(*, seed: int, config: RunConfig) -> None: ...


FORMER = [
    ("data", "accumulate", "grad_accum_steps", 2),
    ("data", "min_crop", "crop_scale_min", 0.25),
    ("model", "zero_init", "zero_init_residual", True),
    ("optimizer", "clip_norm", "clip_grad", 1.5),
    ("optimizer", "ema", "ema_decay", 0.99),
]
"""Section, earlier name and present name of each renamed setting, and a value."""


def flags(name, value):
    flag = "--" + name.replace("_", "-")
    return [flag] if value is True else [flag, value]


def as_toml(value):
    return str(value).lower()


def test_every_renamed_setting_is_known_by_its_earlier_name():
    found = {(section, *names) for section in SECTIONS for names in former_names(section).items()}
    assert found == {(section, old, new) for section, old, new, _ in FORMER}


@pytest.mark.parametrize(("section", "old", "new", "value"), FORMER)
def test_the_earlier_spelling_of_a_setting_still_works(options, tmp_path, section, old, new, value):
    expected = {section: {new: value}}
    assert options(*flags(old, value)).explicit() == expected
    assert options(*flags(old, value), *flags(new, value)).explicit() == expected
    path = tmp_path / "old.toml"
    path.write_text(f"[{section}]\n{old} = {as_toml(value)}\n", "utf-8")
    assert options("--config", path).explicit() == expected
    assert RunConfig().override({section: {old: value}}).explicit() == expected


@pytest.mark.parametrize(("section", "old", "new", "value"), FORMER)
def test_a_flag_wins_over_a_file_in_whatever_spelling(options, tmp_path, section, old, new, value):
    path = tmp_path / "old.toml"
    for in_file, typed in ((old, new), (new, old)):
        path.write_text(f"[{section}]\n{in_file} = {as_toml(type(value)(0.5))}\n", "utf-8")
        if value == 2:  # 0 is no number of steps
            path.write_text(f"[{section}]\n{in_file} = 3\n", "utf-8")
        assert options("--config", path, *flags(typed, value)).explicit() == {section: {new: value}}


def test_the_negative_flag_has_its_earlier_spelling_too(options):
    assert options("--no-zero-init").explicit() == {"model": {"zero_init_residual": False}}


def test_help_does_not_show_earlier_spellings(options):
    words = options.help().split()
    for _, old, _, _ in FORMER:
        flag = old.replace("_", "-")
        assert not {f"--{flag}", f"--no-{flag}"} & set(words)


def test_both_spellings_with_different_values_are_refused(options, tmp_path):
    message = "data.grad_accum_steps: 4, but its earlier name accumulate is set to 2: leave"
    assert options.refused("--accumulate", 2, "--grad-accum-steps", 4).says(message)
    path = tmp_path / "both.toml"
    path.write_text("[data]\naccumulate = 2\ngrad_accum_steps = 4\n", "utf-8")
    assert options.refused("--config", path).says(f"{path}: {message}")
