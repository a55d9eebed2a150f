"""When a run copies its state and when it writes the copy; stand-ins for the GPU and the store."""

import threading
from types import SimpleNamespace

import pytest

from imgnet_mini.checkpoint.store import CheckpointStore
from imgnet_mini.config.run_config import RunConfig
from imgnet_mini.runs.paths import RunPaths
from imgnet_mini.training.evaluation import Metrics
from imgnet_mini.training.run import TrainingRun
from imgnet_mini.training.train_state import TrainState

METRICS = Metrics(loss=1.0, top1=50.0, top5=90.0, images=10, imgs_per_sec=5.0)


class CopiedState:
    """A copy that the GPU has still to finish."""

    def __init__(self, events):
        self.events = events

    def wait(self):
        self.events.append("copied")


class Store(CheckpointStore):
    def __init__(self, paths, events):
        super().__init__(paths, keep=1)
        self.events = events

    def save(self, checkpoint):
        self.events.append("saved")

    def save_best(self, best, *, step):
        self.events.append("best saved")


class Run(TrainingRun):
    """Without a network."""

    def _checkpoint(self):
        return CopiedState(self.store.events), SimpleNamespace(state=self.trainer.state)

    def _best_checkpoint(self, checkpoint, metrics):
        return None if metrics is None else "best"

    def _log_images(self, logger, predictions, *, best_top1):
        pass


def build(kind, folder):
    paths = RunPaths(folder, "a")
    ignore = lambda *_: None  # noqa: E731
    logger = SimpleNamespace(flush=ignore, log_epoch=ignore, log_balanced_top1=ignore, records=[])
    config = RunConfig().resolve(0.1)
    trainer = SimpleNamespace(state=TrainState(step=4), state_dict=dict)
    return kind(config, paths, SimpleNamespace(), trainer, logger, Store(paths, []))


@pytest.mark.parametrize(
    ("save", "events"),
    [
        (TrainingRun.save, ["copied", "saved"]),
        (TrainingRun.save_in_background, ["copied", "saved"]),
        (
            lambda run: run.finish_epoch(METRICS, {"val": (METRICS, None)}),
            ["copied", "best saved", "saved"],
        ),
    ],
    ids=["save", "in the background", "after an epoch"],
)
def test_a_state_is_written_once_the_gpu_has_copied_it(tmp_path, save, events):
    run = build(Run, tmp_path)
    save(run)
    run.saving.wait()
    assert run.store.events == events


class Copier:
    """Ends the attempt to save, since there is no state."""

    def __init__(self, events):
        self.events = events

    def copy(self, state):
        self.events.append("copied over it")
        raise InterruptedError


def test_a_copy_is_not_overwritten_while_it_is_being_written(tmp_path):
    run = build(TrainingRun, tmp_path)
    run.__dict__["_host_copier"] = Copier(run.store.events)
    begun = threading.Event()

    def write():
        begun.set()
        threading.Event().wait(0.2)
        run.store.events.append("written")

    run.saving.start(write)
    begun.wait()
    with pytest.raises(InterruptedError):
        run.save()
    assert run.store.events == ["written", "copied over it"]
