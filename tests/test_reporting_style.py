import re
from pathlib import Path

import pytest
from PIL import Image

from imgnet_mini.errors import WriteError
from imgnet_mini.lr_finder import plot
from imgnet_mini.reporting.fonts import to_drawable
from imgnet_mini.reporting.page.render import page_file
from imgnet_mini.reporting.style import (
    CORRECT,
    FAINT,
    GRID,
    TRAIN,
    WRONG,
    css_variables,
    fit_text,
    new_figure,
    save_png,
    text_width,
)


def test_name_that_fits_stays_whole() -> None:
    assert fit_text("n01440764 (tench)", width=150, size=8) == "n01440764 (tench)"


@pytest.mark.parametrize("letter", ["i", "W", "金"])
def test_long_name_is_cut_to_the_width_of_its_letters(letter: str) -> None:
    name = letter * 255
    short = fit_text(name, width=100, size=8)
    assert short.endswith("…")
    assert to_drawable(name).startswith(short[:-1])  # without a font for it: its code points
    assert 0 < text_width(short, size=8) <= 100
    assert len(fit_text("W" * 255, width=100, size=8)) < len(fit_text("i" * 255, width=100, size=8))


def test_name_cannot_break_the_line_or_steer_a_terminal() -> None:
    assert fit_text("a\nb\x1b[31m", width=150, size=8) == r"a\nb\x1b[31m"


def test_any_name_can_be_drawn(tmp_path: Path) -> None:
    figure = new_figure(4, 2)
    for row, name in enumerate(["$x$ $\\frac{", "金魚", "😀", "\x1b[31m", ""]):
        figure.text(0.1, 0.2 * row, fit_text(name, width=100, size=8), parse_math=False)
    save_png(figure, tmp_path / "names.png")
    with Image.open(tmp_path / "names.png") as image:
        assert image.format == "PNG"


def test_unwritable_picture_is_a_write_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(WriteError, match=r"picture\.png"):
        save_png(new_figure(1, 1), tmp_path / "file" / "picture.png")


def test_the_style_sheet_uses_the_colors_that_are_declared_for_light_and_dark_pages() -> None:
    light, dark = css_variables().split("@media")
    declared = set(re.findall(r"(--[\w-]+):", light))
    assert set(re.findall(r"(--[\w-]+):", dark)) == declared
    used = set(re.findall(r"var\((--[\w-]+)\)", page_file("page.css"))) - {"--c"}
    assert used == declared
    assert f"--train: {TRAIN};" in light
    assert not re.search("#[0-9a-f]{3,6}", page_file("page.css"))


def test_the_finders_plot_has_the_colors_of_the_report() -> None:
    assert (plot._LINE, plot._FAINT, plot._GRID) == (TRAIN, FAINT, GRID)
    assert {"flat": FAINT, "falling": CORRECT, "diverging": WRONG} == plot._REGIONS
