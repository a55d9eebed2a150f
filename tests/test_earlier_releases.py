"""Runs that were started by an earlier release are resumed, or refused by its name."""

import lzma
from pathlib import Path

FIXTURES = Path(__file__).parent / "fixtures"
"""`checkpoint-<release>.pth.xz`: what that release saved of a run of `SMALL`, stopped in the second
of its epochs. To keep the file short, its weights and momentum were rounded to a bit or two."""


def test_a_run_of_0_1_0_is_refused_by_name_with_the_cure(data, cli):
    saved = lzma.decompress((FIXTURES / "checkpoint-0.1.0.pth.xz").read_bytes())
    checkpoint = Path("checkpoints/old/checkpoint.pth")
    checkpoint.parent.mkdir(parents=True)
    checkpoint.write_bytes(saved)

    assert cli("resume", "--name", "old") == 6
    assert cli.says("saved by version 0.1.0, whose runs cannot be resumed")
    assert cli.says("start it again with train --overwrite")
    assert checkpoint.read_bytes() == saved
