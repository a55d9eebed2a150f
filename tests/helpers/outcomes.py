"""All that a run leaves on the disk, to compare bit by bit with another run's."""

import json
from pathlib import Path

import torch

from helpers.events import read_events

TIMED = ("seconds", "imgs_per_sec", "time", "started", "elapsed")
"""Keys whose values differ between any two runs."""


def outcome(folder: Path, name: str) -> dict[str, object]:
    """Return all that a run has written, without timings."""
    checkpoints = folder / "checkpoints" / name
    state = _plain(torch.load(checkpoints / "checkpoint.pth", weights_only=True))
    best = _plain(torch.load(checkpoints / "best.pth", weights_only=True))
    for content in (state, best):
        content.pop("config")
        content.pop("best", None)  # the digest of a file that holds timings
    rows = (folder / "out" / name / "train_log.csv").read_text("utf-8").splitlines()
    events = read_events(folder / "runs" / name)
    return {
        "state": state,
        "best": best,
        "csv": [row.rsplit(",", 1)[0] for row in rows],
        "log": [
            line.split(" | ips")[0]
            for line in (folder / "out" / name / "logs.md").read_text("utf-8").splitlines()
        ],
        "events": {
            tag: [(step, 0.0 if tag.endswith("imgs_per_sec") else value) for step, value in values]
            for tag, values in events.scalars.items()
        },
        "pictures": events.pictures,
        "hparams": events.hparams,
    }


def _plain(value):
    """Replace tensors by their bytes, so that `==` compares bits, and drop timings."""
    if isinstance(value, torch.Tensor):
        flat = value.detach().contiguous().reshape(-1).view(torch.uint8)
        return str(value.dtype), tuple(value.shape), flat.numpy().tobytes()
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items() if key not in TIMED}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value


def differences(ours, theirs, place="") -> list[str]:
    """Return the places where two outcomes differ."""
    if isinstance(ours, dict) and isinstance(theirs, dict):
        return [
            found
            for key in ours.keys() | theirs.keys()
            for found in differences(ours.get(key), theirs.get(key), f"{place}.{key}")
        ]
    return [] if ours == theirs else [place]


def listed_digests(folder: Path, name: str) -> list[str]:
    manifest = json.loads((folder / "checkpoints" / name / "manifest.json").read_text("utf-8"))
    return [entry["sha256"] for entry in manifest["saved"]]
