import io
import struct
from contextlib import closing

import pytest
from PIL import Image
from tensorboard.backend.event_processing import plugin_event_accumulator
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import api_pb2, metadata
from tensorboard.summary.writer import event_file_writer
from tensorboard.summary.writer.event_file_writer import AtomicCounter

from helpers.events import read_events as read_all
from imgnet_mini.runs.logger import METRICS, RunLogger
from imgnet_mini.runs.paths import RunPaths
from imgnet_mini.runs.records import EpochRecord, read_csv, to_csv, to_markdown

STEPS = 5
"""Per epoch."""

STEP_TAGS = {"train/loss_step", "train/lr"}
EPOCH_TAGS = {
    f"{p}/{n}" for p in ("train", "val") for n in ("loss", "top1", "top5", "imgs_per_sec")
}


@pytest.fixture
def paths(tmp_path):
    return RunPaths(tmp_path, "run")


def records(epoch, shift=0.0):
    return (
        EpochRecord(epoch, "train", 6.5 + epoch + shift, 1.0, 5.0, 0.01, 300.0),
        EpochRecord(epoch, "val", 6.0 + epoch + shift, 2.0, 6.0, 0.01, 400.0),
    )


def log_epoch(history, epoch, *, first=0, shift=0.0):
    steps = range(epoch * STEPS + first, (epoch + 1) * STEPS)
    history.log_steps(
        steps.start, [step + shift for step in steps], [0.25 * step for step in steps]
    )
    history.log_epoch(*records(epoch, shift))


def read_events(paths):
    accumulator = EventAccumulator(str(paths.event_dir), size_guidance={"scalars": 0})
    accumulator.Reload()
    return {
        tag: [(event.step, event.value) for event in accumulator.Scalars(tag)]
        for tag in accumulator.Tags()["scalars"]
    }


def assert_whole(events, epochs, shift=0.0):
    """Every step and epoch once, in order."""
    steps = range(epochs * STEPS)
    assert events.keys() == STEP_TAGS | EPOCH_TAGS
    assert events["train/loss_step"] == [(step, step + shift) for step in steps]
    assert events["train/lr"] == [(step, 0.25 * step) for step in steps]
    assert events["train/loss"] == [(epoch, 6.5 + epoch + shift) for epoch in range(epochs)]
    for tag in EPOCH_TAGS:
        assert [step for step, _ in events[tag]] == list(range(epochs))


def test_the_tags_and_steps_are_those_that_other_programs_read(paths):
    with closing(RunLogger(paths, [], step=0)) as history:
        for epoch in range(3):
            log_epoch(history, epoch)
    events = read_events(paths)
    assert_whole(events, 3)
    assert events["val/top5"] == [(0, 6.0), (1, 6.0), (2, 6.0)]
    assert events["train/imgs_per_sec"] == [(0, 300.0), (1, 300.0), (2, 300.0)]


def test_the_text_files_hold_every_record(paths):
    with closing(RunLogger(paths, [], step=0)) as history:
        for epoch in range(2):
            log_epoch(history, epoch)
            history.write()
    expected = [*records(0), *records(1)]
    assert paths.train_log.read_text("utf-8") == to_csv(expected)
    assert paths.markdown_log.read_text("utf-8") == to_markdown(expected)
    assert read_csv(paths.train_log) == expected


def test_a_line_of_the_markdown_log_has_the_agreed_form(paths):
    train = EpochRecord(0, "train", 6.92643, 0.3313, 1.2048, 0.0001963, 314.38)
    with closing(RunLogger(paths, [train], step=0)) as history:
        history.write()
    assert paths.markdown_log.read_text("utf-8").splitlines() == [
        "```text",
        "[Train] Epoch 000 | loss 6.9264 | top1 0.33% | top5 1.20% | lr 0.000196 | ips 314.4",
        "```",
    ]


def test_events_are_on_the_disk_after_an_epoch_without_closing(paths):
    history = RunLogger(paths, [], step=0)
    log_epoch(history, 0)
    assert_whole(read_events(paths), 1)
    history.close()


@pytest.mark.parametrize("lost", [0, 3])
def test_a_resumed_history_has_no_doubled_and_no_missing_steps(paths, lost):
    with closing(RunLogger(paths, [], step=0)) as history:
        for epoch in range(3):
            log_epoch(history, epoch, shift=0.5 if epoch == 2 else 0)
        history.log_steps(3 * STEPS, [99.0] * lost, [99.0] * lost)
    kept = [*records(0), *records(1)]
    with closing(RunLogger(paths, kept, step=2 * STEPS)) as history:
        assert history.records == kept
        for epoch in (2, 3):
            log_epoch(history, epoch)
        history.write()
    assert_whole(read_events(paths), 4)
    assert read_csv(paths.train_log) == [*kept, *records(2), *records(3)]


def test_a_history_resumed_within_an_epoch_keeps_its_first_steps(paths):
    with closing(RunLogger(paths, [], step=0)) as history:
        log_epoch(history, 0)
        history.log_steps(STEPS, [5.0, 6.0, 77.0], [1.25, 1.5, 77.0])
    with closing(RunLogger(paths, records(0), step=STEPS + 2)) as history:
        log_epoch(history, 1, first=2)
    assert_whole(read_events(paths), 2)


def test_resuming_many_times_keeps_one_whole_history(paths):
    for epoch in range(5):
        kept = [record for earlier in range(epoch) for record in records(earlier)]
        with closing(RunLogger(paths, kept, step=epoch * STEPS)) as history:
            log_epoch(history, epoch)
    assert_whole(read_events(paths), 5)


def test_a_history_that_starts_anew_forgets_the_old_one(paths):
    for shift in (0.5, 0.0):
        with closing(RunLogger(paths, [], step=0)) as history:
            log_epoch(history, 0, shift=shift)
    assert_whole(read_events(paths), 1)


@pytest.mark.parametrize("cut", [1, 7, 30])
def test_a_torn_last_event_does_no_harm(paths, cut):
    with closing(RunLogger(paths, [], step=0)) as history:
        log_epoch(history, 0)
        history.log_steps(STEPS, [55.0], [55.0])
    (file,) = paths.event_dir.iterdir()
    file.write_bytes(file.read_bytes()[:-cut])
    with closing(RunLogger(paths, records(0), step=STEPS)) as history:
        log_epoch(history, 1)
    assert_whole(read_events(paths), 2)


def test_an_event_file_of_garbage_at_its_end_does_no_harm(paths):
    with closing(RunLogger(paths, [], step=0)) as history:
        log_epoch(history, 0)
    (file,) = paths.event_dir.iterdir()
    with file.open("ab") as events:
        events.write(struct.pack("<Q", 40) + bytes(60))
    with closing(RunLogger(paths, records(0), step=STEPS)) as history:
        log_epoch(history, 1)
    assert_whole(read_events(paths), 2)


def test_an_empty_event_file_does_no_harm(paths):
    paths.event_dir.mkdir(parents=True)
    (paths.event_dir / "events.out.tfevents.1.host.1.0").write_bytes(b"")
    with closing(RunLogger(paths, [], step=0)) as history:
        log_epoch(history, 0)
    assert_whole(read_events(paths), 1)


def test_other_files_in_the_folder_are_left_alone(paths):
    paths.event_dir.mkdir(parents=True)
    other = paths.event_dir / "notes.txt"
    other.write_text("mine", "utf-8")
    for _ in range(2):
        RunLogger(paths, [], step=0).close()
    assert other.read_text("utf-8") == "mine"


def test_a_planted_link_is_removed_and_what_it_leads_to_is_not(paths, tmp_path):
    precious = tmp_path / "precious"
    precious.write_text("mine")
    paths.event_dir.mkdir(parents=True)
    for name, target in (("1", precious), ("2", tmp_path / "absent")):
        (paths.event_dir / f"events.out.tfevents.{name}").symlink_to(target)
    RunLogger(paths, [], step=0).close()
    assert precious.read_text() == "mine"
    assert not (tmp_path / "absent").exists()
    assert not any(path.is_symlink() for path in paths.event_dir.iterdir())


def seen_by_tensorboard(reader, tag):
    reader.Reload()
    if isinstance(reader, EventAccumulator):
        return [(event.step, event.value) for event in reader.Scalars(tag)]
    return [(event.step, event.tensor_proto.float_val[0]) for event in reader.Tensors(tag)]


@pytest.mark.parametrize(
    ("reader", "guidance"),
    [
        (EventAccumulator, {"scalars": 0}),
        (plugin_event_accumulator.EventAccumulator, {"tensors": 0}),  # --load_fast false
    ],
    ids=["old", "slow"],
)
@pytest.mark.parametrize("writers", [0, 9])
def test_a_watching_tensorboard_sees_each_value_once_after_a_resume(
    paths, reader, guidance, writers, monkeypatch
):
    monkeypatch.setattr(event_file_writer, "_global_uid", AtomicCounter(writers))
    with closing(RunLogger(paths, [], step=0)) as history:
        log_epoch(history, 0)
        log_epoch(history, 1, shift=0.5)
    watching = reader(str(paths.event_dir), size_guidance=guidance)
    seen_by_tensorboard(watching, "train/loss_step")
    for _ in range(2):
        with closing(RunLogger(paths, records(0), step=STEPS)) as history:
            log_epoch(history, 1)
        seen = seen_by_tensorboard(watching, "train/loss_step")
        assert seen == [(step, step) for step in range(2 * STEPS)]


def png(number):
    file = io.BytesIO()
    Image.new("RGBA", (30, 20), (number, 0, 0, 255)).save(file, "png")
    return file.getvalue()


def log_everything(history, epoch, *, epochs, shift=0):
    """As a run does: settings where it is taken up, pictures before the epoch's numbers."""
    history.log_hparams({"max_lr": 0.1 + shift, "arch": "resnet50"}, f"[a]\nx = {epoch}\n")
    for number in range(epoch, epochs):
        history.log_image("val/samples", png(number + shift), number)
        if number + 1 == epochs:
            history.log_image("val/confusion_matrix", png(99), number)
            history.log_end(42.0, number)
        log_epoch(history, number)


def test_settings_pictures_and_the_end_are_there_for_tensorboard(paths):
    with closing(RunLogger(paths, [], step=0)) as history:
        log_everything(history, 0, epochs=3)
    shown = read_all(paths.event_dir)
    assert shown.kinds == {"scalars", "images", "tensors"}
    assert shown.pictures == {
        "val/samples": [(epoch, png(epoch)) for epoch in range(3)],
        "val/confusion_matrix": [(2, png(99))],
    }
    assert shown.texts == {"settings/text_summary": [(0, "```toml\n[a]\nx = 0\n```")]}
    assert shown.scalars["val/best_top1"] == [(2, 42.0)]
    ((_, experiment),) = shown.hparams[metadata.EXPERIMENT_TAG]
    assert {info.name for info in experiment.hparam_infos} == {"max_lr", "arch"}
    assert [info.name.tag for info in experiment.metric_infos] == list(METRICS)
    assert set(METRICS) <= shown.scalars.keys()
    ((_, start),) = shown.hparams[metadata.SESSION_START_INFO_TAG]
    assert start.hparams["max_lr"].number_value == 0.1
    assert start.hparams["arch"].string_value == "resnet50"
    ((_, end),) = shown.hparams[metadata.SESSION_END_INFO_TAG]
    assert end.status == api_pb2.STATUS_SUCCESS


def test_a_picture_has_its_size(paths):
    with closing(RunLogger(paths, [], step=0)) as history:
        history.log_image("val/samples", png(1), 0)
    (image,) = EventAccumulator(str(paths.event_dir)).Reload().Images("val/samples")
    assert (image.width, image.height) == (30, 20)


@pytest.mark.parametrize("done", [0, 1, 2])
def test_a_resumed_history_shows_each_picture_and_the_newest_settings_once(paths, done):
    with closing(RunLogger(paths, [], step=0)) as history:
        log_everything(history, 0, epochs=3, shift=1)
    kept = [record for epoch in range(done) for record in records(epoch)]
    with closing(RunLogger(paths, kept, step=done * STEPS)) as history:
        log_everything(history, done, epochs=3)
    shown = read_all(paths.event_dir)
    assert shown.pictures == {
        "val/samples": [(epoch, png(epoch + (epoch < done))) for epoch in range(3)],
        "val/confusion_matrix": [(2, png(99))],
    }
    assert shown.texts == {"settings/text_summary": [(0, f"```toml\n[a]\nx = {done}\n```")]}
    assert {tag: len(events) for tag, events in shown.hparams.items()} == {
        metadata.EXPERIMENT_TAG: 1,
        metadata.SESSION_START_INFO_TAG: 1,
        metadata.SESSION_END_INFO_TAG: 1,
    }
    ((_, start),) = shown.hparams[metadata.SESSION_START_INFO_TAG]
    assert start.hparams["max_lr"].number_value == 0.1


def test_a_run_that_goes_on_after_its_end_has_not_ended(paths):
    with closing(RunLogger(paths, [], step=0)) as history:
        log_everything(history, 0, epochs=2)
    with closing(RunLogger(paths, [*records(0), *records(1)], step=2 * STEPS)) as history:
        history.log_hparams({"epochs": 4}, "")
    shown = read_all(paths.event_dir)
    assert metadata.SESSION_END_INFO_TAG not in shown.hparams
    assert [step for step, _ in shown.pictures["val/confusion_matrix"]] == [1]


def test_a_text_holds_nothing_that_is_no_text(paths):
    with closing(RunLogger(paths, [], step=0)) as history:
        history.log_hparams({}, 'x = "\udcff\x1b[2J```"\n')
    ((_, text),) = read_all(paths.event_dir).texts["settings/text_summary"]
    assert text == '```toml\nx = "\\udcff\\x1b[2J```"\n```'


def test_losses_and_rates_belong_together(paths):
    with closing(RunLogger(paths, [], step=0)) as history, pytest.raises(ValueError, match="zip"):
        history.log_steps(0, [1.0, 2.0], [0.1])


def test_a_history_with_averaged_weights_drops_what_was_logged_beyond_its_epochs(paths):
    def epoch(number, shift=0.0):
        averaged = EpochRecord(number, "ema", 5.0 + number + shift, 3.0, 7.0, 0.01, 400.0)
        return (*records(number, shift), averaged)

    with closing(RunLogger(paths, [], step=0)) as history:
        for number in range(3):
            history.log_epoch(*epoch(number, shift=number == 2))
    kept = [*epoch(0), *epoch(1)]
    with closing(RunLogger(paths, kept, step=2 * STEPS)) as history:
        history.log_epoch(*epoch(2))
        history.write()
    events = read_events(paths)
    assert events["ema/loss"] == [(0, 5.0), (1, 6.0), (2, 7.0)]
    assert events["val/loss"] == [(0, 6.0), (1, 7.0), (2, 8.0)]
    assert read_csv(paths.train_log) == [*kept, *epoch(2)]
    assert "[Ema] Epoch 001 | loss 6.0000" in paths.markdown_log.read_text("utf-8")
