from pathlib import Path

import pytest

from helpers.drawings import noting_figures, overlaps, texts_of
from helpers.finished_runs import log_run
from imgnet_mini.reporting.comparison_curves import draw_comparison
from imgnet_mini.reporting.readme.run_view import read_run

LONG = "a-run-with-a-rather-long-name-that-says-all-there-is-of-it-no"


@pytest.mark.parametrize(
    "names", [["a", "b"], [f"{LONG}-{n}" for n in range(3)], [*"abcdefghijkl"]]
)
def test_every_run_has_its_line_and_its_whole_name(names: list[str], tmp_path: Path) -> None:
    runs = [
        read_run(log_run(tmp_path, name, epochs=number + 1), tmp_path)
        for number, name in enumerate(names)
    ]
    with noting_figures() as figures:
        draw_comparison(runs, tmp_path / "here")
    pictures = sorted(path.name for path in (tmp_path / "here").iterdir())
    assert pictures == ["accuracy_curve.png", "loss_curve.png", "lr_curve.png"]
    for figure in figures:
        (axes,) = figure.axes
        looks = {(line.get_color(), line.get_linestyle()) for line in axes.get_lines()}
        assert len(looks) == len(names)
        texts = texts_of(figure)
        assert all(texts.count(name) == 1 for name in names)
        assert overlaps(figure) == []
