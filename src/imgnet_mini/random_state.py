"""The generators of torch that a run's next random numbers come from."""

from collections.abc import Sequence

import torch
from torch import Tensor


def random_state() -> dict[str, Tensor]:
    """The generators that layers such as dropout draw from."""
    state = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def set_random_state(states: Sequence[dict[str, Tensor]], rank: int, *, fallback: int) -> None:
    """Go on from what `random_state` gave on this rank.

    fallback: the seed of a rank that there was none of before.
    """
    if rank >= len(states):
        torch.manual_seed(fallback)
        return
    state = states[rank]
    torch.set_rng_state(state["cpu"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])
