import shutil
import warnings
from pathlib import Path

import matplotlib
import pytest
from matplotlib.font_manager import fontManager

from imgnet_mini.reporting import fonts
from imgnet_mini.reporting.fonts import to_drawable
from imgnet_mini.reporting.style import fit_text, new_figure, to_png


@pytest.fixture
def only_bundled_fonts(monkeypatch):
    """The plots have no font but those of matplotlib."""
    bundled = [
        font for font in fontManager.ttflist if font.fname.startswith(matplotlib.get_data_path())
    ]
    monkeypatch.setattr(fontManager, "ttflist", bundled)
    monkeypatch.setitem(matplotlib.rcParams, "font.family", ["sans-serif"])
    fonts._find_font.cache_clear()
    yield
    fonts._find_font.cache_clear()


@pytest.mark.usefixtures("only_bundled_fonts")
def test_names_in_a_script_without_a_font_stay_apart():
    assert to_drawable("Löwe, λέων, лев, أسد") == "Löwe, λέων, лев, أسد"
    assert to_drawable("n02 猫") == r"n02 \u732b"
    assert fit_text("犬", 100, 8) != fit_text("猫", 100, 8)


@pytest.mark.usefixtures("only_bundled_fonts")
def test_a_font_of_the_system_draws_what_the_default_one_lacks(tmp_path):
    char = "\N{LATIN LETTER SMALL CAPITAL OU}"  # in DejaVu Serif, and not in DejaVu Sans
    if to_drawable(char) == char:
        char = "\N{LATIN LETTER AIN}"
    assert to_drawable(char) != char
    path = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSerif.ttf"
    fontManager.addfont(shutil.copy(path, tmp_path))
    fonts._find_font.cache_clear()
    assert to_drawable(char) == char
    figure = new_figure(2, 1)
    figure.text(0.1, 0.5, char)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        to_png(figure)
    assert matplotlib.rcParams["font.family"][1:] == ["DejaVu Serif"]
