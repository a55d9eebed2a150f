"""Rules of resuming: the settings that may change, and the notes on changes."""

from typing import Any

from imgnet_mini.checkpoint.schema import RunCheckpoint
from imgnet_mini.config.run_config import ResolvedConfig, RunConfig, Tables, fields_of
from imgnet_mini.distributed.context import DistributedContext
from imgnet_mini.errors import CheckpointError, ConfigError

MAY_CHANGE = {
    "run": {"data_root", "pack_dir", "name", "output_dir", "track"},
    "data": {"workers", "pack_on_device", "skip_bad"},
    "checkpoint": {"keep", "save_minutes"},
    "runtime": {"device", "compile", "compile_mode", "dist_timeout"},
}
"""Settings without effect on the results of a run, which may change on resume."""

WORLD_SIZE_DEPENDENT = {"data": {"grad_accum_steps"}, "runtime": {"sync_bn"}}
"""Settings that may change together with the number of processes."""


def merge_resume_config(
    checkpoint: RunCheckpoint,
    overrides: RunConfig,
    *,
    replan: bool = False,
    allow_world_size_change: bool = False,
) -> ResolvedConfig:
    """Return the saved settings of a run with `overrides` applied.

    replan: allow another schedule.
    allow_world_size_change: allow settings that depend on the number of processes to change.

    Raises:
        CheckpointError: the saved settings do not fit this version.
        ConfigError: an override would change the results of the run.
    """
    try:
        saved = ResolvedConfig.from_tables(checkpoint.config)
    except ConfigError as error:
        raise CheckpointError(
            f"the settings in the checkpoint do not fit this version: {error}"
        ) from error
    changes = {
        section: {name: value for name, value in values.items() if value != "auto"}
        for section, values in overrides.explicit().items()
        if section != "finder"
    }
    schedule = changes.get("schedule", {})
    if "hours" in schedule:
        schedule.pop("epochs", None)  # of a recipe or a file: the hours have decided
    _check_same_settings(
        saved,
        changes,
        overrides.recipe,
        replan=replan,
        allow_world_size_change=allow_world_size_change,
    )
    if not replan:
        schedule.setdefault("hours", saved.schedule.hours)
    plan = saved.override(changes | {"schedule": schedule})
    # The run may have been moved since: its saved name and folder do not count.
    place = {"name": overrides.run.name, "output_dir": overrides.run.output_dir}
    plan = plan.override({"run": place})
    if replan:
        _check_new_plan(checkpoint, saved, plan)
    return plan


def _check_same_settings(
    saved: RunConfig,
    changes: Tables,
    recipe: str | None,
    *,
    replan: bool,
    allow_world_size_change: bool,
) -> None:
    may_change = {section: set(names) for section, names in MAY_CHANGE.items()}
    if replan:
        may_change["schedule"] = set(fields_of("schedule")) - {"hours"}
    if allow_world_size_change:
        for section, names in WORLD_SIZE_DEPENDENT.items():
            may_change[section] |= names
    from_recipe = {} if recipe is None else RunConfig.from_recipe(recipe).explicit()
    for section, values in changes.items():
        for name, value in values.items():
            before = getattr(getattr(saved, section), name)
            if value != before and name not in may_change.get(section, ()):
                source = recipe if value == from_recipe.get(section, {}).get(name) else None
                raise ConfigError(_refusal(section, name, before, value, source))


def _check_new_plan(checkpoint: RunCheckpoint, saved: ResolvedConfig, plan: ResolvedConfig) -> None:
    if plan.schedule == saved.schedule:
        raise ConfigError(
            "--replan: the schedule is unchanged; change a setting of it, such as "
            f"--epochs {2 * saved.schedule.epochs}"
        )
    state, epochs = checkpoint.state, plan.schedule.epochs
    if epochs < state.epoch + (state.batch > 0):
        raise ConfigError(
            f"--epochs {epochs}: {state.epoch} epochs and {state.batch} steps of the next "
            "are done; set more"
        )


def check_world_size(
    checkpoint: RunCheckpoint, distributed: DistributedContext, *, allowed: bool
) -> None:
    """Check that the number of processes is that of the run so far.

    Raises:
        ConfigError: the number differs and that is not allowed.
    """
    before = checkpoint.environment.world_size
    if distributed.world_size != before and not allowed:
        raise ConfigError(
            f"this run has {before} process(es), and resumes with {distributed.world_size}: the "
            "data order stays, but results are not bit-identical, since batch-norm statistics "
            f"are per process. Start {before} with torchrun --nproc-per-node, or add "
            "--allow-world-size-change"
        )


def _refusal(section: str, name: str, before: Any, after: Any, recipe: str | None) -> str:
    flag = f"--{name.replace('_', '-')}"
    setting, started = _spell(flag, after), f"with {before}"
    if before is None:
        started = "without it"
    elif isinstance(before, bool):
        started, flag = f"with {_spell(flag, before)}", setting
    is_plan = section == "schedule" and name != "hours"
    cure = "add --replan to resume with a new schedule, " if is_plan else ""
    if name in WORLD_SIZE_DEPENDENT.get(section, ()):
        cure = "add --allow-world-size-change if results need not be bit-identical, "
    if recipe is not None:
        flag, cure = f"--recipe {recipe}", ""  # `resume`, which has --replan, takes no recipe
        setting += f" of {flag}"
    return (
        f"{setting}: this run was started {started}, and another value would change its "
        f"results (schedule, weights or data order). Leave {flag} out to resume, {cure}or start a "
        "new run with another --name"
    )


def _spell(flag: str, value: Any) -> str:
    """Return a setting as it is typed."""
    if isinstance(value, bool):
        return flag if value else flag.replace("--", "--no-", 1)
    return f"{flag} {value}"


def describe_new_schedule(
    checkpoint: RunCheckpoint, config: ResolvedConfig, lr: float
) -> list[str]:
    """Return a note on the learning rate under a new schedule."""
    schedule = config.schedule
    last = schedule.max_lr / schedule.div_factor / schedule.final_div_factor
    before = checkpoint.optimizer.param_groups[0].lr
    return [
        f"New schedule: one cycle over {schedule.epochs} epochs, continued at the present step. "
        f"The learning rate goes from {before:.3g} to {lr:.3g} at once, then along that "
        f"curve (peak {schedule.max_lr:.3g}) down to {last:.3g}",
    ]


def describe_changes(checkpoint: RunCheckpoint, now: dict[str, Any]) -> list[str]:
    """Return a note on changes of machine and versions since the run was saved, if any."""
    changed = [
        f"{key} {value} -> {now[key]}"
        for key, value in checkpoint.environment.model_dump().items()
        if key in now and value != now[key]
    ]
    if not changed:
        return []
    return [f"Note: {', '.join(changed)}: same data order, results not bit-identical"]
