"""What only CUDA GPUs can show of several processes; run by `nox -s gpu`."""

import pytest
import torch

from conftest import write_folder
from helpers.rank_runs import Torchrun
from imgnet_mini.runs.records import read_csv

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU"),
]

two_gpus = pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA GPUs")


def train(folder, launch, *more):
    data = write_folder(folder / "data", train=64, val=8, classes=3)
    words = (
        *("train", "--data-root", data, "--img-size", 64, "--batch-size", 32, "--workers", 2),
        *("--epochs", 2, "--name", "a", "--no-amp", "--deterministic", *more),
    )
    job = Torchrun(folder, ("--standalone", *launch), words)
    try:
        assert job.wait(300) == 0, job.text
    finally:
        job.end()
    return read_csv(folder / "out/a/train_log.csv"), job.text


@two_gpus
def test_two_gpus_take_the_steps_of_one_that_takes_two_parts(tmp_path):
    two, _ = train(tmp_path / "two", ("--nproc-per-node", 2))
    one, _ = train(tmp_path / "one", ("--nproc-per-node", 1), "--grad-accum-steps", 2)
    for ours, theirs in zip(two, one, strict=True):
        if ours.phase == "train":
            assert ours.loss == pytest.approx(theirs.loss, rel=1e-3)


@two_gpus
def test_two_gpus_whose_batch_norms_see_all_take_the_steps_of_one(tmp_path):
    two, _ = train(tmp_path / "two", ("--nproc-per-node", 2), "--sync-bn")
    one, _ = train(tmp_path / "one", ("--nproc-per-node", 1))
    for ours, theirs in zip(two, one, strict=True):
        assert ours.loss == pytest.approx(theirs.loss, rel=1e-2)


def test_more_processes_than_gpus_are_refused_with_the_number_to_use(tmp_path):
    count = torch.cuda.device_count()
    with pytest.raises(AssertionError, match=f"--nproc-per-node {count}"):
        train(tmp_path, ("--nproc-per-node", count + 1))
