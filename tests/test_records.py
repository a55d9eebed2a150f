import csv
import math
import random

import pytest

from imgnet_mini.errors import DataError
from imgnet_mini.runs.records import (
    EpochRecord,
    best_record,
    read_csv,
    selection_records,
    to_csv,
    to_markdown,
)

TRAIN = EpochRecord(0, "train", 6.92643, 0.3313, 1.2048, 0.0001963, 314.38)
VAL = EpochRecord(0, "val", 6.9, 0.5, 2.0, 0.0001963, 500.0)


def write(path, text):
    path.write_text(text, "utf-8", newline="")
    return path


def test_a_line_has_the_form_that_other_programs_read():
    assert (
        TRAIN.to_line()
        == "[Train] Epoch 000 | loss 6.9264 | top1 0.33% | top5 1.20% | lr 0.000196 | ips 314.4"
    )
    assert VAL.to_line().startswith("[Val] Epoch 000 | loss 6.9000 | ")
    assert EpochRecord(1234, "val", 1, 100, 100, 0.5, 12345).to_line() == (
        "[Val] Epoch 1234 | loss 1.0000 | top1 100.00% | top5 100.00% | lr 0.500000 | ips 12345.0"
    )


def test_the_csv_has_the_header_that_other_programs_read():
    text = to_csv([TRAIN, VAL])
    assert text.splitlines()[0] == "epoch,phase,loss,top1,top5,lr,imgs_per_sec"
    assert "\r" not in text
    assert text.endswith("\n")
    rows = list(csv.DictReader(text.splitlines()))
    assert [(row["epoch"], row["phase"]) for row in rows] == [("0", "train"), ("0", "val")]
    assert float(rows[0]["loss"]) == TRAIN.loss


def test_markdown_is_the_lines_in_one_fenced_block():
    lines = to_markdown([TRAIN, VAL]).split("\n")
    assert lines == ["```text", TRAIN.to_line(), VAL.to_line(), "```", ""]
    assert to_markdown([]) == "```text\n```\n"


def test_records_read_back_exactly(tmp_path):
    chance = random.Random(0)
    records = [
        EpochRecord(epoch, phase, *(chance.random() * 10**power for power in (1, 2, 2, -9, 4)))
        for epoch in range(50)
        for phase in ("train", "val")
    ]
    assert read_csv(write(tmp_path / "train_log.csv", to_csv(records))) == records
    assert read_csv(write(tmp_path / "train_log.csv", to_csv([]))) == []


def test_line_ends_of_windows_are_read_too(tmp_path):
    path = write(tmp_path / "x.csv", to_csv([TRAIN, VAL]).replace("\n", "\r\n"))
    assert read_csv(path) == [TRAIN, VAL]


@pytest.mark.parametrize(
    "text",
    [
        "epoch,phase,loss\n0,train,1\n",
        "epoch,phase,loss,top1,top5,lr,imgs_per_sec\n0,train,1,2\n",
        "epoch,phase,loss,top1,top5,lr,imgs_per_sec\nx,train,1,2,3,4,5\n",
        "epoch,phase,loss,top1,top5,lr,imgs_per_sec\n0,test,1,2,3,4,5\n",
        "something else\nentirely\n",
    ],
)
def test_what_is_no_training_log_is_refused_by_name(tmp_path, text):
    path = write(tmp_path / "x.csv", text)
    with pytest.raises(DataError, match="is not a training log") as error:
        read_csv(path)
    assert str(path) in str(error.value)


def test_bytes_that_are_no_text_are_refused_by_name(tmp_path):
    (tmp_path / "x.csv").write_bytes(b"epoch,phase\n\xff\xfe")
    with pytest.raises(DataError, match=r"x\.csv"):
        read_csv(tmp_path / "x.csv")


def test_a_missing_log_is_named(tmp_path):
    for path in (tmp_path / "absent.csv", tmp_path):
        with pytest.raises(DataError, match="cannot read the training log") as error:
            read_csv(path)
        assert str(path) in str(error.value)


def test_the_best_epoch_is_selected_by_the_ema_weights_if_any():
    rows = [
        EpochRecord(epoch, phase, 1.0, 2.0, 3.0, 0.1, 100.0)
        for epoch in range(2)
        for phase in ("train", "val", "ema")
    ]
    assert selection_records(rows) == [rows[2], rows[5]]
    assert selection_records(row for row in rows if row.phase != "ema") == [rows[1], rows[4]]
    assert selection_records(rows[:1]) == []


def test_the_best_record_is_the_first_with_the_highest_top1_and_nan_is_the_lowest():
    rows = [
        EpochRecord(epoch, "val", 1.0, top1, 3.0, 0.1, 100.0)
        for epoch, top1 in enumerate([math.nan, 20.0, 30.0, 30.0, 25.0])
    ]
    assert best_record(rows).epoch == 2
    assert best_record(rows[:1]) is rows[0]
    assert best_record([]) is None
