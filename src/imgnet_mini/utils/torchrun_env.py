"""Environment variables set by torchrun; `early_exit` alone reads RANK without this module."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

from imgnet_mini.errors import ConfigError


@dataclass(frozen=True)
class TorchrunEnv:
    """Rank of this process among all processes of the run, and among those of its machine."""

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    local_world_size: int = 1

    @classmethod
    def from_environment(cls, variables: Mapping[str, str] = os.environ) -> Self:
        """Read the variables; a process that torchrun has not started is rank 0 of 1.

        Raises:
            ConfigError: a variable is not a number, or a rank exceeds its world size.
        """
        if "RANK" not in variables or "WORLD_SIZE" not in variables:
            return cls()
        env = cls(
            rank=_number(variables, "RANK", 0),
            world_size=_number(variables, "WORLD_SIZE", 1),
            local_rank=_number(variables, "LOCAL_RANK", 0),
            local_world_size=_number(variables, "LOCAL_WORLD_SIZE", 1),
        )
        if not (env.rank < env.world_size and env.local_rank < env.local_world_size):
            raise ConfigError(
                f"environment variables contradict each other: RANK={env.rank} of "
                f"WORLD_SIZE={env.world_size}, LOCAL_RANK={env.local_rank} of "
                f"LOCAL_WORLD_SIZE={env.local_world_size}: unset them, or start with torchrun, "
                "which sets them"
            )
        return env

    @property
    def is_main_process(self) -> bool:
        """Tell whether this is rank 0, which prints and writes files."""
        return self.rank == 0


def is_main_process_from_env() -> bool:
    """Return whether this process is rank 0, without a check of the variables."""
    return os.environ.get("RANK", "0") == "0"


def is_distributed_from_env() -> bool:
    """Return whether torchrun has started more than one process."""
    return "RANK" in os.environ and os.environ.get("WORLD_SIZE", "1") != "1"


def local_world_size_from_env() -> int:
    """Return the number of ranks on this machine; an invalid value counts as 1."""
    text = os.environ.get("LOCAL_WORLD_SIZE", "1")
    return max(1, int(text)) if text.isdecimal() else 1


def _number(variables: Mapping[str, str], name: str, default: int) -> int:
    text = variables.get(name, str(default))
    if not text.isdecimal():
        raise ConfigError(
            f"environment variable {name}={text!r} is not a number: unset it, or start with "
            "torchrun, which sets it"
        )
    return int(text)
