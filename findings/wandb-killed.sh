#!/usr/bin/env bash
# Offline, wandb keeps the newest seconds of a run in memory: SIGKILL loses them, and the file may be all but empty.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
uv venv --quiet --python 3.11 venv
uv pip install --quiet --python venv/bin/python wandb==0.31.0
export WANDB_MODE=offline WANDB_SILENT=true
cat >run.py <<'PY'
import time

import wandb

run = wandb.init(project="test")
for step in range(10):
    run.log({"loss": 1 / (step + 1)}, step=step)
print("logged", flush=True)
time.sleep(60)
PY
venv/bin/python - <<'PY'
import signal
import subprocess
import sys
import time
from pathlib import Path

process = subprocess.Popen([sys.executable, "run.py"], stdout=subprocess.PIPE, text=True)
process.stdout.readline()
time.sleep(2)
process.send_signal(signal.SIGKILL)
process.wait()
time.sleep(2)
(record,) = Path("wandb").glob("offline-run-*/*.wandb")
content = record.read_bytes()
print("wandb", __import__("wandb").__version__)
print("guess:  ten rows that were logged two seconds before SIGKILL are in the file, as lines of a log are")
print(f"seen:   {record.name.split('-')[0]}-*.wandb has {len(content)} bytes; it holds 'loss': {b'loss' in content}")
if b"loss" in content:
    raise SystemExit("changed: no longer as described")
PY
