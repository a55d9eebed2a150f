"""Runs that were started by each earlier release go on in this one."""

import lzma
from pathlib import Path

import pytest

from imgnet_mini.runs.records import read_csv

FIXTURES = Path(__file__).parent / "fixtures"
"""`checkpoint-<release>.pth.xz`: what that release saved of a run of `SMALL`, stopped in the second
of its epochs. To keep the file short, its weights and momentum were rounded to a bit or two."""


@pytest.mark.parametrize("release", ["0.1.0"])
def test_a_run_of_an_earlier_release_goes_on(data, cli, release):
    saved = lzma.decompress((FIXTURES / f"checkpoint-{release}.pth.xz").read_bytes())
    checkpoint = Path("checkpoints/old/checkpoint.pth")
    checkpoint.parent.mkdir(parents=True)
    checkpoint.write_bytes(saved)

    assert cli("resume", "--name", "old") == 0

    assert "Resuming old at step 6 of 12 (epoch 1 of 3, batch 2 of 4)" in cli.out
    assert "this run was started by an older version" in cli.out
    records = read_csv(Path("out/old/train_log.csv"))
    assert [(record.epoch, record.phase) for record in records] == [
        (epoch, phase) for epoch in range(3) for phase in ("train", "val")
    ]
    assert f"{records[1].loss:.4f}" == "1.0976"  # of the checkpoint, and not made again
    assert cli("resume", "--name", "old") == 0
    assert "old is finished" in cli.out
