import pytest
from pydantic import ValidationError

from imgnet_mini.config.run_config import (
    ResolvedConfig,
    RunConfig,
    config_flags,
    fields_of,
    run_flags,
)
from imgnet_mini.errors import ConfigError

SECTIONS = list(RunConfig.model_fields)


def write(path, text):
    path.write_text(text, "utf-8")
    return path


def test_every_setting_has_a_help_text():
    for section in SECTIONS:
        for name, field in fields_of(section).items():
            assert field.description, f"{section}.{name} has no docstring"


def test_names_of_settings_are_unique_over_all_sections():
    names = [name for section in SECTIONS for name in fields_of(section)]
    assert len(names) == len(set(names))


def test_defaults_are_within_their_own_bounds():
    config = RunConfig()
    assert RunConfig.model_validate(config.model_dump()) == config


def test_the_defaults_are_the_documented_workflow():
    config = RunConfig()
    assert (config.run.name, config.model.arch) == ("r50_onecycle_amp", "resnet50")
    assert (config.data.batch_size, config.data.img_size) == (64, 224)
    assert (config.schedule.epochs, config.schedule.max_lr) == (20, None)
    assert (config.optimizer.momentum, config.optimizer.weight_decay) == (0.9, 1e-4)
    assert config.optimizer.label_smoothing == 0.1


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_a_file_may_have_a_byte_order_mark(tmp_path, encoding):
    path = tmp_path / "a.toml"
    path.write_text('[run]\ndata_root = "bildér"\n', encoding)
    assert RunConfig.read(path).run.data_root.name == "bildér"


def test_a_configuration_does_not_change():
    with pytest.raises(ValidationError, match="frozen"):
        RunConfig().data.batch_size = 3


@pytest.mark.parametrize(
    ("section", "name", "value"),
    [
        ("data", "batch_size", 0),
        ("data", "batch_size", 1.5),
        ("data", "img_size", 31),
        ("data", "workers", -1),
        ("data", "crop_scale_min", 0),
        ("data", "crop_scale_min", 1.01),
        ("data", "flip", "perhaps"),
        ("model", "arch", 50),
        ("optimizer", "momentum", 1),
        ("optimizer", "momentum", -0.1),
        ("optimizer", "momentum", "nan"),
        ("optimizer", "weight_decay", -1e-9),
        ("optimizer", "weight_decay", "inf"),
        ("optimizer", "label_smoothing", 1),
        ("optimizer", "clip_grad", 0),
        ("optimizer", "ema_decay", 1),
        ("optimizer", "ema_decay", -0.1),
        ("optimizer", "clip_grad", "inf"),
        ("schedule", "epochs", 0),
        ("schedule", "max_lr", 0),
        ("schedule", "max_lr", -1),
        ("schedule", "max_lr", "nan"),
        ("schedule", "max_lr", "inf"),
        ("schedule", "max_lr", "fast"),
        ("schedule", "pct_start", 0),
        ("schedule", "pct_start", 1),
        ("schedule", "div_factor", 0.5),
        ("schedule", "final_div_factor", 0),
        ("finder", "start_lr", 0),
        ("finder", "end_lr", -1),
        ("finder", "num_iter", 1),
        ("runtime", "device", "tpu"),
        ("runtime", "precision", "fp8"),
        ("runtime", "seed", -1),
        ("runtime", "seed", 2**32),
    ],
)
def test_a_value_out_of_bounds_is_named(section, name, value):
    with pytest.raises(ConfigError) as error:
        RunConfig().override({section: {name: value}})
    assert str(error.value).startswith(f"{section}.{name}: ")
    assert f"(got {value!r})" in str(error.value)


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".",
        "..",
        "a/b",
        "a\\b",
        "-x",
        ".hidden",
        "x.",
        "a b",
        "é",
        "a\n",
        "con",
        "Nul.v2",
        "x" * 65,
    ],
)
def test_a_run_name_that_is_no_plain_folder_everywhere_is_refused(name):
    with pytest.raises(ConfigError, match=r"run\.name"):
        RunConfig().override({"run": {"name": name}})


@pytest.mark.parametrize(
    "name", ["a", "r50_onecycle_amp", "v1.2-b", "_x", "9", "console", "x" * 64]
)
def test_a_plain_run_name_is_accepted(name):
    assert RunConfig().override({"run": {"name": name}}).run.name == name


def test_the_finder_must_rise():
    with pytest.raises(ConfigError, match=r"end_lr \(0\.1\) must be above start_lr \(0\.1\)"):
        RunConfig().override({"finder": {"start_lr": 0.1, "end_lr": 0.1}})


def test_all_problems_are_told_at_once():
    with pytest.raises(ConfigError) as error:
        RunConfig().override({"data": {"batch_size": 0}, "schedule": {"epochs": 0}})
    assert [line.split(":")[0] for line in str(error.value).splitlines()] == [
        "data.batch_size",
        "schedule.epochs",
    ]


def test_override_leaves_the_original_and_all_other_settings_alone():
    base = RunConfig().override({"data": {"batch_size": 8}, "schedule": {"epochs": 3}})
    changed = base.override({"data": {"img_size": 64}, "schedule": {"epochs": 5}})
    assert (base.schedule.epochs, base.data.img_size) == (3, 224)
    assert changed.explicit() == {
        "data": {"batch_size": 8, "img_size": 64},
        "schedule": {"epochs": 5},
    }


def test_what_was_set_is_known_even_when_it_equals_the_default():
    assert RunConfig().explicit() == {}
    assert RunConfig().override({"schedule": {"epochs": 20}}).explicit() == {
        "schedule": {"epochs": 20}
    }


@pytest.mark.parametrize(
    ("written", "meant"), [(1, 1.0), ("0.25", 0.25), ("auto", "auto"), (None, None)]
)
def test_the_peak_rate_is_a_number_or_auto_or_unset(written, meant):
    assert RunConfig().override({"schedule": {"max_lr": written}}).schedule.max_lr == meant


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"schedule": {"max_lr": 3e-05, "final_div_factor": 1e16}},
        {"schedule": {"max_lr": "auto"}},
        {"run": {"data_root": 'a "b"\\c/ü😀/x\ty', "output_dir": "."}},
        {"run": {"data_root": "delete\x7f and escape\x1b"}},
        {"runtime": {"amp": False, "compile": True, "seed": 2**32 - 1}},
    ],
)
def test_written_as_toml_and_read_again_it_is_the_same(tmp_path, changes):
    config = RunConfig().override(changes)
    assert RunConfig.read(write(tmp_path / "run.toml", config.to_toml())) == config


def test_what_a_file_leaves_out_keeps_its_default(tmp_path):
    config = RunConfig.read(write(tmp_path / "run.toml", "[schedule]\nepochs = 5\n"))
    assert config.explicit() == {"schedule": {"epochs": 5}}
    assert config.data == RunConfig().data


UNKNOWN = "unknown setting"
MEANT = f"{UNKNOWN}; did you mean"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[optimizer]\nmomentun = 1", f"optimizer.momentun: {MEANT} optimizer.momentum?"),
        ("[optimizer]\nmax_lr = 1", f"optimizer.max_lr: {MEANT} schedule.max_lr?"),
        ("epochs = 3", f"epochs: {MEANT} schedule.epochs?"),
        ("[optimiser]\nmomentum = 0.5", f"optimiser: {UNKNOWN}"),
        ("[data]\nbatch_size = 'many'", "data.batch_size: "),
        ("data = 3", "data: "),
        ("[data\n", "not a TOML file"),
    ],
)
def test_a_wrong_file_names_itself_and_the_setting(tmp_path, text, message):
    path = write(tmp_path / "bad.toml", text)
    with pytest.raises(ConfigError) as error:
        RunConfig.read(path)
    assert str(error.value).startswith(f"{path}: ")
    assert message in str(error.value)


def test_a_file_that_cannot_be_read_names_itself(tmp_path):
    (tmp_path / "latin1.toml").write_bytes(b"# \xe9")
    for path in (tmp_path / "absent.toml", tmp_path, tmp_path / "latin1.toml"):
        with pytest.raises(ConfigError) as error:
            RunConfig.read(path)
        assert str(error.value).startswith(f"{path}: ")


def test_only_sections_have_fields():
    with pytest.raises(KeyError):
        fields_of("nothing")


def test_a_resolved_configuration_has_its_peak_rate_as_a_number():
    config = RunConfig.from_recipe("mini").override({"schedule": {"max_lr": "auto"}})
    resolved = config.resolve(0.25, steps=100_000)
    assert isinstance(resolved, ResolvedConfig)
    assert (resolved.schedule.max_lr, resolved.recipe) == (0.25, "mini")
    assert resolved.override({"schedule": {"epochs": 3}}).schedule.max_lr == 0.25
    tables = resolved.model_dump(mode="json")
    assert ResolvedConfig.from_tables(tables).model_dump(mode="json") == tables


@pytest.mark.parametrize(
    ("value", "message"),
    [("auto", "valid number"), (None, "Field required"), (0, "greater than 0"), ("inf", "finite")],
)
def test_a_saved_run_needs_a_peak_rate(value, message):
    tables = RunConfig().model_dump(mode="json")
    tables["schedule"]["max_lr"] = value
    with pytest.raises(ConfigError, match=rf"schedule\.max_lr: .*{message}"):
        ResolvedConfig.from_tables(tables)


def test_a_saved_run_may_name_settings_by_their_earlier_names():
    tables = RunConfig().resolve(0.1).model_dump(mode="json")
    del tables["data"]["grad_accum_steps"], tables["optimizer"]["ema_decay"]
    tables["data"] |= {"accumulate": 2, "eval_size": None}
    tables["optimizer"]["ema"] = 0.5
    saved = ResolvedConfig.from_tables(tables)
    assert (saved.data.grad_accum_steps, saved.optimizer.ema_decay) == (2, 0.5)
    assert saved.data.eval_size == saved.data.img_size


def test_settings_as_flags_are_those_that_differ_from_the_recipe_in_order():
    config = RunConfig.from_recipe("mini").override(
        {"data": {"flip": False, "img_size": 64, "batch_size": 32}, "run": {"name": "a"}}
    )
    assert config_flags(config, "run", "data") == " --recipe mini --name a --img-size 64 --no-flip"
    assert run_flags(config.run) == " --name a"
    assert run_flags(RunConfig().run) == ""


def test_the_size_of_the_evaluation_is_a_flag_only_where_it_was_set():
    small = RunConfig().override({"data": {"img_size": 64}})
    assert config_flags(small, "data") == " --img-size 64"
    other = small.override({"data": {"eval_size": 96}})
    assert config_flags(other, "data") == " --img-size 64 --eval-size 96"
