from pathlib import Path

import pytest
from PIL import Image

from imgnet_mini.errors import WriteError
from imgnet_mini.reporting.style import fit, new_figure, save_png


def test_name_that_fits_stays_whole() -> None:
    assert fit("n01440764 (tench)", width=150, size=8) == "n01440764 (tench)"


@pytest.mark.parametrize("letter", ["i", "W", "金"])
def test_long_name_is_cut_to_the_width_of_its_letters(letter: str) -> None:
    name = letter * 255
    short = fit(name, width=100, size=8)
    assert short.endswith("…")
    assert name.startswith(short[:-1])
    assert len(fit("W" * 255, width=100, size=8)) < len(fit("i" * 255, width=100, size=8))


def test_name_cannot_break_the_line_or_steer_a_terminal() -> None:
    assert fit("a\nb\x1b[31m", width=150, size=8) == r"a\nb\x1b[31m"


def test_any_name_can_be_drawn(tmp_path: Path) -> None:
    figure = new_figure(4, 2)
    for row, name in enumerate(["$x$ $\\frac{", "金魚", "😀", "\x1b[31m", ""]):
        figure.text(0.1, 0.2 * row, fit(name, width=100, size=8), parse_math=False)
    save_png(figure, tmp_path / "names.png")
    with Image.open(tmp_path / "names.png") as image:
        assert image.format == "PNG"


def test_unwritable_picture_is_a_write_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(WriteError, match=r"picture\.png"):
        save_png(new_figure(1, 1), tmp_path / "file" / "picture.png")
