"""Numbers as text, and addresses of files."""

import os
from pathlib import Path
from urllib.parse import unquote

import pytest

from imgnet_mini.reporting.format import (
    UNKNOWN,
    format_duration,
    format_fixed,
    format_lr,
    format_percent,
    relative_url,
)


def test_an_address_is_relative_with_forward_slashes_and_encoded(tmp_path):
    target = tmp_path / "reports" / "a b#[x]('\"é" / "loss.png"
    address = relative_url(target, tmp_path / "docs")
    assert not set(address) & set(" #[]()'\"\\")
    assert Path(os.path.normpath(tmp_path / "docs" / unquote(address))) == target


def test_numbers_are_short_and_unknown_ones_are_a_dash():
    assert [format_lr(x) for x in (1e-7, 2.34567e-4, 1e-3, 0.0046, 0.025, 1.0)] == [
        "1e-7",
        "2.35e-4",
        "0.001",
        "0.0046",
        "0.025",
        "1",
    ]
    assert format_fixed(12345.678, 1) == "12,345.7"
    assert (
        format_lr(None)
        == format_lr(float("nan"))
        == format_fixed(None)
        == format_fixed(float("nan"))
        == "\N{EN DASH}"
    )


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, UNKNOWN), (0.04, "0.0 s"), (9.96, "10.0 s"), (59.4, "59 s"), (60, "1 min"),
        (61, "1 min 1 s"), (3600, "1 h"), (5000, "1 h 23 min"), (360000, "100 h"),
    ],
)  # fmt: skip
def test_a_duration_has_its_two_largest_units(seconds, text):
    assert format_duration(seconds) == text


def test_a_fraction_is_formatted_as_a_percentage():
    assert [format_percent(0.1234), format_percent(1, 0), format_percent(None)] == [
        "12.3 %",
        "100 %",
        UNKNOWN,
    ]
