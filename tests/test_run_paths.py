from pathlib import Path

import pytest

from imgnet_mini.config.run_settings import RunSection
from imgnet_mini.runs.paths import ComparisonPaths, RunPaths


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("checkpoint", "checkpoints/r1/checkpoint.pth"),
        ("best", "checkpoints/r1/best.pth"),
        ("train_log", "out/r1/train_log.csv"),
        ("markdown_log", "out/r1/logs.md"),
        ("config", "out/r1/config.toml"),
        ("event_dir", "runs/r1"),
        ("report_dir", "reports/r1"),
        ("metrics", "reports/r1/metrics.json"),
        ("predictions", "reports/r1/predictions.csv"),
        ("page", "reports/r1/index.html"),
        ("model_summary", "reports/r1/model_summary.txt"),
        ("finder_dir", "lr_finder_plots"),
    ],
)
def test_files_are_in_their_documented_places(name, path):
    assert getattr(RunPaths(Path("here"), "r1"), name) == Path("here", path)


def test_a_comparison_folder_is_no_valid_run_name():
    paths = ComparisonPaths(Path("here"), ("a", "b-vs-c"))
    assert paths.page == Path("here/reports/a+b-vs-c/index.html")
    with pytest.raises(ValueError, match="a run name has"):
        RunSection(name=paths.folder.name)


def test_many_long_names_make_a_folder_name_of_bounded_length_that_tells_them_apart():
    names = tuple(f"{'x' * 60}-{number}" for number in range(40))
    folders = {ComparisonPaths(Path(), names[:count]).folder.name for count in range(2, 41)}
    assert len(folders) == 39
    assert all(len(folder) <= 200 for folder in folders)
    longest = ComparisonPaths(Path(), names).folder.name
    assert longest.startswith(f"{names[0]}+{names[1]}+38-more-")


def test_two_of_the_longest_names_are_both_in_the_name_of_their_folder():
    names = ("a" * 64, "b" * 64)
    assert ComparisonPaths(Path(), names).folder.name == "+".join(names)
