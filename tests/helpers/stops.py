"""Stopping a run at a chosen place, as a signal would."""

import pytest

from imgnet_mini.utils.signals import StopRequest, StopRequestedError


def stop_at(monkeypatch: pytest.MonkeyPatch, checks: int) -> None:
    """Let the n-th look at the signals, and no other one, find SIGINT."""
    left = iter(range(checks - 1, -1, -1))

    def check(self: StopRequest) -> None:
        if next(left, None) == 0:
            raise StopRequestedError(2)

    monkeypatch.setattr(StopRequest, "check", check)
