"""Settings as command-line flags, to paste into a shell."""

import shlex
from collections.abc import Collection

from imgnet_mini.config.run_config import RunConfig
from imgnet_mini.config.settings import RunSection


def run_flags(run: RunSection) -> str:
    """Return the flags that name this run in another command, with a leading space."""
    return config_flags(RunConfig(run=run), "run", leave_out=("data_root", "pack_dir"))


def config_flags(config: RunConfig, *sections: str, leave_out: Collection[str] = ()) -> str:
    """Return the flags that give another command these settings, with a leading space.

    A recipe is named, followed only by the settings that differ from it.
    """
    recipe = config.recipe
    words = [] if recipe is None else ["--recipe", recipe]
    base = RunConfig() if recipe is None else RunConfig.from_recipe(recipe)
    for section in sections:
        values = getattr(config, section)
        for name, value in values:
            is_default = name not in values.model_fields_set
            if is_default or name in leave_out or value == getattr(getattr(base, section), name):
                continue
            flag = name.replace("_", "-")
            if isinstance(value, bool):
                words.append(f"--{flag}" if value else f"--no-{flag}")
            else:
                words += [f"--{flag}", str(value)]
    return "".join(f" {shlex.quote(word)}" for word in words)
