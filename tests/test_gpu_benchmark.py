"""The GPU benchmark, in a tiny form on the CPU."""

import json
import sys
from pathlib import Path

import pytest
import torch
from torch.optim.optimizer import register_optimizer_step_post_hook

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"
TINY = (
    *("--device", "cpu", "--arch", "shufflenet_v2_x0_5", "--img-size", 32, "--images", 16),
    *("--batch-sizes", 4, "--precisions", "fp32", "--seconds", 0.1, "--compile-modes"),
    *("--workers", 0, "--plain-workers", 0),
)


@pytest.fixture
def measure(monkeypatch, capsys):
    """`measure(*options)` runs the script in this process and returns what it prints."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    import gpu  # noqa: PLC0415

    def run(*options):
        monkeypatch.setattr(sys, "argv", ["gpu.py", *map(str, options)])
        gpu.main()
        return capsys.readouterr().out

    return run


def test_every_case_is_measured_and_the_tables_are_made_from_the_json(measure, data, tmp_path):
    recipe = "--arch shufflenet_v2_x0_5 --img-size 32 --batch-size 6 --workers 0 --epochs 2"
    options = ("--recipe-root", data, "--recipes", "reference", "--recipe-options", recipe)
    printed = measure(*TINY, *options, "--json", "gpu.json")
    results = json.loads(Path("gpu.json").read_text("utf-8"))
    rates = {row["case"]: row["images_per_second"] for row in results["speed"]}
    assert list(rates) == [
        *("compute alone", "files", "pack copied ahead", "bare loop", "timm", "plain script"),
    ]
    assert all(rate > 0 for case, rate in rates.items() if case != "timm")
    notes = {row["case"]: row["note"] for row in results["speed"]}
    assert notes["timm"] in ("timm has no shufflenet_v2_x0_5", "timm is not installed")
    assert results["about"]["versions"]["torch"]
    (run,) = results["recipes"]
    assert run["recipe"] == "reference"
    assert run["seconds"] > 0
    assert 0 <= run["top1"] <= 100
    tables = measure("--show", "gpu.json")
    assert printed.endswith(tables)
    assert "| images/s (of compute alone) | fp32, 4 |" in tables
    assert f"| files | {rates['files']:,.0f} ({rates['files'] / rates['compute alone']:.2f}) |" in (
        tables
    )
    assert f"| reference | {run['seconds']:.0f} | {run['top1']:.2f} |" in tables


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, None], ids=str)
def test_the_step_of_timm_trains_in_each_precision(monkeypatch, dtype):
    pytest.importorskip("timm")
    monkeypatch.syspath_prepend(BENCHMARKS)
    from gpu_steps import fixed_batch, timm_step  # noqa: PLC0415

    taken = []
    hook = register_optimizer_step_post_hook(lambda optimizer, *_: taken.append(optimizer))
    try:
        step = timm_step("resnet18", *fixed_batch(32, 2, torch.device("cpu")), dtype)
        for _ in range(9):
            step()
            if taken:  # by fp16, once the scale does not overflow
                break
    finally:
        hook.remove()
    states = taken[-1].state.values()
    assert any(state["momentum_buffer"].abs().max() > 0 for state in states)


def test_what_does_not_fit_into_the_time_is_left_out_and_named(measure):
    printed = measure(*TINY, "--minutes", 0)
    assert "| plain script | no time left |" in printed
