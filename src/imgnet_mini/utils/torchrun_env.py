"""What torchrun says of this process; but for `at_once`, the only reader of RANK and its like."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

from imgnet_mini.errors import ConfigError


@dataclass(frozen=True)
class TorchrunEnv:
    """The place of this process among those that were started together.

    local_rank, local_size: the same among those of its own machine.
    """

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    local_world_size: int = 1

    @classmethod
    def from_environment(cls, variables: Mapping[str, str] = os.environ) -> Self:
        """The place that torchrun has given; that of a process alone, where it gave none.

        Raises:
            ConfigError: the variables contradict one another.
        """
        if "RANK" not in variables or "WORLD_SIZE" not in variables:
            return cls()
        launch = cls(
            rank=_number(variables, "RANK", 0),
            world_size=_number(variables, "WORLD_SIZE", 1),
            local_rank=_number(variables, "LOCAL_RANK", 0),
            local_world_size=_number(variables, "LOCAL_WORLD_SIZE", 1),
        )
        if not (launch.rank < launch.world_size and launch.local_rank < launch.local_world_size):
            raise ConfigError(
                f"the environment says RANK={launch.rank} of WORLD_SIZE={launch.world_size}, and "
                f"LOCAL_RANK={launch.local_rank} of LOCAL_WORLD_SIZE={launch.local_world_size}: "
                "unset them, or start with torchrun, which sets them"
            )
        return launch

    @property
    def is_main_process(self) -> bool:
        """Whether this is the process that prints and writes."""
        return self.rank == 0


def is_main_process() -> bool:
    """Whether this process prints: alone, or as the first of several."""
    return os.environ.get("RANK", "0") == "0"


def is_distributed() -> bool:
    """Whether other processes were started together with this one."""
    return "RANK" in os.environ and os.environ.get("WORLD_SIZE", "1") != "1"


def local_world_size_from_env() -> int:
    """How many ranks share its processors; a number that makes no sense counts as one."""
    text = os.environ.get("LOCAL_WORLD_SIZE", "1")
    return max(1, int(text)) if text.isdecimal() else 1


def _number(variables: Mapping[str, str], name: str, default: int) -> int:
    text = variables.get(name, str(default))
    if not text.isdecimal():
        raise ConfigError(
            f"the environment says {name}={text!r}, which is no number: unset it, or start with "
            "torchrun, which sets it"
        )
    return int(text)
