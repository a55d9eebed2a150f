from pathlib import Path

import pytest

from imgnet_mini.run_paths import RunPaths


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
        ("model_summary", "reports/r1/model_summary.txt"),
        ("finder_dir", "lr_finder_plots"),
    ],
)
def test_files_are_where_other_programs_look_for_them(name, path):
    assert getattr(RunPaths(Path("here"), "r1"), name) == Path("here", path)
