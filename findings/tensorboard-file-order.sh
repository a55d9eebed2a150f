#!/usr/bin/env bash
# Event files are numbered within a process, without leading zeros, and read in order of their names: a running TensorBoard skips number 10 and later ones of a second.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
uv venv --quiet --python 3.11 venv
uv pip install --quiet --python venv/bin/python tensorboard==2.21.0 torch==2.15.0 numpy==2.4.6 setuptools==80.9.0
venv/bin/python -W ignore - 2>log <<'PY'
import time

import tensorboard
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.utils.tensorboard import SummaryWriter

time.sleep(1 - time.time() % 1)  # all within one second
watching = EventAccumulator("run")
seen = []
for step in range(12):
    with SummaryWriter("run") as writer:
        writer.add_scalar("loss", 0.0, step)
    seen = [event.step for event in watching.Reload().Scalars("loss")]
anew = [event.step for event in EventAccumulator("run").Reload().Scalars("loss")]

print("tensorboard", tensorboard.__version__)
print("guess:    a reader that watches a folder shows all files that writers add to it, one after the other: 0 to 11")
print("watching:", *seen)
print("anew:    ", *anew)
if seen == list(range(12)) or sorted(anew) != list(range(12)):
    raise SystemExit("changed: no longer as described")
PY
