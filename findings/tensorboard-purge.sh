#!/usr/bin/env bash
# Two loaders of TensorBoard disagree about a run that goes on in a second file: one drops the old points, one shows both.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
uv venv --quiet --python 3.11 venv
uv pip install --quiet --python venv/bin/python tensorboard==2.21.0 torch==2.15.0 numpy==2.4.6 setuptools==80.9.0
venv/bin/python -W ignore - 2>log <<'PY'
import tensorboard
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer
from torch.utils.tensorboard import SummaryWriter


def write(first, last, value, **options):
    with SummaryWriter("run", filename_suffix=f".{value}", **options) as writer:
        for step in range(first, last):
            writer.add_scalar("loss", value, step)


write(0, 5, 1)
write(3, 6, 2, purge_step=3)  # resumed from a checkpoint of step 3
accumulator = EventAccumulator("run").Reload()
multiplexer = EventMultiplexer().AddRun("run").Reload()
one = [event.step for event in accumulator.Scalars("loss")]
other = [event.step for event in multiplexer.Tensors("run" if "run" in multiplexer.Runs() else ".", "loss")]

print("tensorboard", tensorboard.__version__)
print("guess:  purge_step=3 takes steps 3 and 4 of before out of the curve, for every reader: 0 1 2 3 4 5")
print("seen:   EventAccumulator:                ", *one)
print("        EventMultiplexer (slow loader):  ", *other)
if one != [0, 1, 2, 3, 4, 5] or other != [0, 1, 2, 3, 4, 3, 4, 5]:
    raise SystemExit("changed: no longer as described")
PY
