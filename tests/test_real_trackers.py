"""The real trackio and wandb, without an account: `nox -s extras` installs them."""

import importlib.util
import json
import sqlite3
import struct

import pytest

from conftest import SMALL, write_folder
from helpers.real_runs import RealRun

STEPS = 12


@pytest.fixture(params=["trackio", "wandb"])
def tracker(request):
    if importlib.util.find_spec(request.param) is None:
        pytest.skip(f"needs {request.param}")
    return request.param


@pytest.mark.slow
def test_a_stopped_run_goes_on_in_the_same_record(tracker, tmp_path):
    write_folder(tmp_path / "data", train=8, val=3, classes=3)
    environment = {"WANDB_MODE": "offline", "TRACKIO_DIR": str(tmp_path / "trackio")}

    def code(*args, **options):
        real = RealRun(tmp_path, args, environment=environment, **options)
        return real.wait(300), real.log.read_text("utf-8")

    wanted = ["--name", "a", "--track", tracker, "--max-lr", 0.01]
    ended, log = code("train", *SMALL, *wanted, signal_at=8, read_seconds=0)
    assert ended == 143, log
    ended, log = code("resume", "--name", "a")
    assert ended == 0, log
    assert "Warning" not in log
    read = {"trackio": read_trackio, "wandb": read_wandb}[tracker]
    (record,), rows, settings = read(tmp_path)
    assert record.startswith("a-")
    assert [step for step, _ in rows] == list(range(STEPS))
    assert [step for step, metrics in rows if "val/top1" in metrics] == [3, 7, 11]
    assert [step for step, metrics in rows if "val/best_top1" in metrics] == [11]
    assert all({"train/lr", "train/loss_step"} <= metrics.keys() for _, metrics in rows)
    assert settings["max_lr"] == 0.01


def read_trackio(folder):
    (database,) = (folder / "trackio").glob("*.db")
    with sqlite3.connect(database) as connection:
        found = connection.execute("select run_name, step, metrics from metrics order by id")
        rows = [(name, step, json.loads(metrics)) for name, step, metrics in found]
        ((settings,),) = connection.execute("select config from configs").fetchall()
    return {name for name, _, _ in rows}, [row[1:] for row in rows], json.loads(settings)


def read_wandb(folder):
    rows, settings, ids = [], {}, set()
    for path in sorted((folder / "wandb").glob("offline-run-*/run-*.wandb")):
        for record in wandb_records(path.read_bytes()):
            if record.HasField("run"):
                ids.add(record.run.run_id)
                for item in record.run.config.update:
                    settings[item.key] = json.loads(item.value_json)
            if record.HasField("history"):
                found = {
                    "/".join(item.nested_key) or item.key: json.loads(item.value_json)
                    for item in record.history.item
                }
                rows.append((found["_step"], found))
    return ids, rows, settings


def wandb_records(content):
    """The records of a file in LevelDB's log format: blocks of 32 KiB, after 7 bytes."""
    from wandb.proto import wandb_internal_pb2  # noqa: PLC0415

    place, part = 7, b""
    while place + 7 <= len(content):
        left = 2**15 - place % 2**15
        if left < 7:
            place += left
            continue
        length, kind = struct.unpack_from("<HB", content, place + 4)
        part += content[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # a whole record, or the last part of one
            yield wandb_internal_pb2.Record.FromString(part)
            part = b""
