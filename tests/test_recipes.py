import json
import shlex
from pathlib import Path

import pytest

from imgnet_mini.config import recipes
from imgnet_mini.config.recipes import recipe_names, recipe_purpose, recipe_text
from imgnet_mini.config.run_config import RunConfig
from imgnet_mini.errors import ConfigError

NAMES = ("mini", "reference")
WITH_RECIPE = ("prepare", "check", "find-lr", "train", "bench")
WITH_SETTINGS_OF_A_RUN = ("resume", "evaluate", "report", "predict", "export", "compare", "readme")


@pytest.fixture
def write_recipe(tmp_path, monkeypatch):
    """`write_recipe(name, text)` puts a recipe in the place of the package's own."""
    folder = tmp_path / "shelf"
    folder.mkdir()
    monkeypatch.setattr(recipes, "files", lambda package: folder)
    return lambda name, text: (folder / f"{name}.toml").write_text(text, "utf-8")


def test_these_recipes_come_with_the_package():
    assert tuple(recipe_names()) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_says_what_it_is_for_and_how_it_is_used(name):
    assert 20 < len(recipe_purpose(name)) < 100
    assert recipe_purpose(name).endswith(".")
    head = recipe_text(name).partition("\n\n")[0]
    assert all(line.startswith("#") for line in head.splitlines())
    for told in (f"imgnet-mini train --recipe {name}\n", "# Time: ", "# Accuracy: "):
        assert told in head


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_says_nothing_of_places_and_of_the_machine(name):
    assert RunConfig.from_recipe(name).explicit().keys() <= {
        "data",
        "model",
        "optimizer",
        "schedule",
    }
    assert not RunConfig.from_recipe(name).explicit()["data"].keys() & {"workers", "loader"}


def test_the_reference_is_the_default_but_for_its_length_and_its_peak():
    given = RunConfig.from_recipe("reference").explicit()
    assert (given["schedule"].pop("epochs"), given["schedule"].pop("max_lr")) == (100, 0.0046)
    assert sum(map(len, given.values())) > 10
    for section, values in given.items():
        default = getattr(RunConfig(), section).model_dump()
        assert values == {name: default[name] for name in values}


def test_a_configuration_remembers_the_recipe_that_it_starts_from(tmp_path):
    config = RunConfig.from_recipe("mini")
    assert config.recipe == "mini"
    assert config.override({"schedule": {"epochs": 2}}).recipe == "mini"
    file = tmp_path / "a.toml"
    file.write_text(config.to_toml(), "utf-8")
    assert config.override_from(file).recipe == "mini"
    assert RunConfig.read(file).recipe is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[optimizer]\nmomentum = 2\n", "recipe own: optimizer.momentum: Input should be less"),
        ("[optimizer]\nmomentums = 0.9\n", "recipe own: optimizer.momentums: unknown setting; did"),
        ("optimizer = 3\n", "recipe own: optimizer: Input should be"),
        ("momentum =\n", "recipe own: not a TOML file"),
    ],
)
def test_an_error_in_a_recipe_names_it(write_recipe, text, message):
    write_recipe("own", text)
    with pytest.raises(ConfigError, match=message):
        RunConfig.from_recipe("own")


def test_a_file_need_only_fit_the_recipe_beneath_it(write_recipe, tmp_path):
    write_recipe("high", "[finder]\nend_lr = 10.0\n")
    write_recipe("low", "[finder]\nend_lr = 1e-3\n")
    file = tmp_path / "a.toml"
    file.write_text("[finder]\nstart_lr = 2.0\n", "utf-8")
    high = RunConfig.from_recipe("high").override_from(file)
    assert (high.finder.start_lr, high.finder.end_lr) == (2.0, 10.0)
    with pytest.raises(ConfigError, match=r"a\.toml: finder: end_lr \(0\.001\) must be above"):
        RunConfig.from_recipe("low").override_from(file)


@pytest.mark.parametrize(
    ("head", "purpose"),
    [
        ("# For 0.5 of\n# all. The rest.\n\n# Not this.\n", "For 0.5 of all."),
        ("# No full stop\n[data]\n# inside\n", "No full stop"),
        ("[data]\n", ""),
    ],
)
def test_the_purpose_is_the_first_sentence_of_the_head(write_recipe, head, purpose):
    write_recipe("own", head)
    assert recipe_purpose("own") == purpose


@pytest.mark.parametrize("command", [*WITH_RECIPE, "recipe show"])
def test_an_unknown_recipe_is_refused_with_the_nearest_and_all(cli, tmp_path, command):
    words = ["recipe", "show", "mimi"] if " " in command else [command, "--recipe", "mimi"]
    assert cli(*words) == 2
    assert cli.says("there is no recipe 'mimi'; did you mean mini?")
    assert cli.says("There are: mini, reference.")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["", "zzz", "../recipes/mini", "mini.toml/.."])
def test_a_name_that_is_like_none_has_no_suggestion_and_no_path(cli, name):
    assert cli("train", "--recipe", name) == 2
    assert cli.says(f"there is no recipe {name!r}")
    assert cli.says("There are: mini, reference.")


@pytest.mark.parametrize("command", WITH_RECIPE)
def test_help_names_the_recipes(cli, command):
    assert cli(command, "--help") == 0
    (line,) = (line for line in cli.out.splitlines() if "--recipe" in line)
    assert "mini|reference" in line


@pytest.mark.parametrize("command", WITH_SETTINGS_OF_A_RUN)
def test_what_takes_the_settings_of_a_run_takes_no_recipe(cli, command):
    assert cli(command, "--recipe", "mini") == 2
    assert cli.says("No such option: --recipe")


def test_the_list_has_each_recipe_with_its_purpose(cli, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    assert cli("recipe", "list") == 0
    for name in NAMES:
        (row,) = (row for row in cli.out.splitlines() if row.startswith(f"│ {name} "))
        assert recipe_purpose(name) in row


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_shown_and_given_as_a_file_is_the_same_settings(cli, monkeypatch, tmp_path, name):
    monkeypatch.setenv("COLUMNS", "40")
    assert cli("recipe", "show", name) == 0
    assert cli.out == recipe_text(name)
    file = tmp_path / "my.toml"
    file.write_text(cli.out, "utf-8")
    assert RunConfig.read(file).explicit() == RunConfig.from_recipe(name).explicit()


def test_images_are_prepared_by_the_recipe(write_recipe, data, cli):
    write_recipe("own", "[data]\nimg_size = 32\n[prepare]\npack_size = 40\n")
    assert cli("prepare", "--data-root", "data", "--recipe", "own") == 0, cli.err
    assert "24 training images at 40 px and 9 validation images at 32 px" in cli.out


def test_find_lr_names_the_recipe_in_the_line_to_paste(data, cli, write_recipe):
    write_recipe("own", "[data]\nflip = false\nmin_crop = 0.25\n[schedule]\nmax_lr = 0.07\n")
    test = ("--start-lr", 1e-4, "--end-lr", 0.1, "--num-iter", 60)
    small = ("--data-root", "data", "--arch", "shufflenet_v2_x0_5", "--img-size", 32)
    small += ("--batch-size", 12, "--workers", 0)
    assert cli("find-lr", *small, "--recipe", "own", "--crop-scale-min", 0.5, *test) == 0, cli.err
    line = next(line for line in cli.out.splitlines() if "imgnet-mini train --max-lr" in line)
    words = shlex.split(line)
    assert words[4:6] == ["--recipe", "own"]
    assert "--no-flip" not in words
    assert words[words.index("--crop-scale-min") + 1] == "0.5"

    assert cli(*words[1:], "--epochs", 2, "--name", "a") == 0, cli.err
    trained = RunConfig.read(Path("out/a/config.toml"))
    assert (trained.data.flip, trained.data.crop_scale_min) == (False, 0.5)
    assert trained.schedule.max_lr == pytest.approx(float(words[3]))
    assert json.loads(Path("out/a/environment.json").read_text("utf-8"))["recipe"] == "own"


def test_a_run_by_a_recipe_is_that_of_its_settings_typed(run_small, write_recipe):
    write_recipe("own", "[optimizer]\nweight_decay = 0.01\n[schedule]\nmax_lr = 0.1\n")
    assert run_small("train", "--name", "a", "--recipe", "own") == 0
    assert run_small("train", "--name", "b", "--weight-decay", 0.01, "--max-lr", 0.1) == 0
    saved = {name: RunConfig.read(Path(f"out/{name}/config.toml")) for name in "ab"}
    assert saved["a"].override({"run": {"name": "b"}}) == saved["b"]
    told = [json.loads(Path(f"out/{name}/environment.json").read_text("utf-8")) for name in "ab"]
    assert [one["recipe"] for one in told] == ["own", None]
