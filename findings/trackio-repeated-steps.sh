#!/usr/bin/env bash
# A step logged again after a resume: trackio keeps both points, and counts on from the furthest step.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
uv venv --quiet --python 3.11 venv
uv pip install --quiet --python venv/bin/python trackio==0.43.0
TRACKIO_DIR="$folder/trackio" venv/bin/python - <<'PY'
import sqlite3
from pathlib import Path

import trackio

trackio.init(project="test", name="run", embed=False)
for step in range(4):
    trackio.log({"loss": 4.0 - step}, step=step)
trackio.log({"loss": float("nan")}, step=4)
trackio.finish()
trackio.init(project="test", name="run", embed=False, resume="must")  # from a checkpoint of step 2
trackio.log({"loss": 9.0}, step=3)
trackio.log({"loss": 9.0})
trackio.finish()
[database] = Path("trackio").rglob("*.db")
seen = sqlite3.connect(database).execute("select step, metrics from metrics order by id").fetchall()
seen = [(step, bytes(metrics).decode()) for step, metrics in seen]

print("trackio", trackio.__version__)
print("guess:  with resume='must' the second loss of step 3 replaces the first; the log without a step is step 4")
for step, metrics in seen:
    print(f"seen:   step {step}: {metrics}")
print("        both losses of step 3 stay, the next step counts from the furthest one of before the resume, and NaN is stored as text")
if [step for step, _ in seen] != [0, 1, 2, 3, 4, 3, 5]:
    raise SystemExit("changed: no longer as described")
PY
