#!/usr/bin/env bash
# Offline, wandb neither continues a run (resume="allow") nor notices that there is none (resume="must").
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
uv venv --quiet --python 3.11 venv
uv pip install --quiet --python venv/bin/python wandb==0.31.0
WANDB_MODE=offline WANDB_SILENT=true venv/bin/python - <<'PY'
from pathlib import Path

import wandb

run = wandb.init(project="test", id="first", resume="allow")
for step in range(3):
    run.log({"loss": 3 - step}, step=step)
run.finish()
run = wandb.init(project="test", id="first", resume="allow")
again = run.step, run.resumed
run.finish()
run = wandb.init(project="test", id="never", resume="must")
must = run.step, run.resumed
run.finish()
folders = sorted(path.name.split("-")[-1] for path in Path("wandb").glob("offline-run-*"))

print("wandb", wandb.__version__)
print("guess:  the second init of run 'first' goes on at step 3, resumed=True; 'must' for an id never used is an error")
print("seen:   second init: step, resumed =", again)
print("        'must' for a new id: step, resumed =", must, "- no error")
print("        folders, one for each init:", folders)
print("        a resumed run has to give its own steps: the counter starts at 0 again")
if again != (0, False) or must != (0, False) or folders != ["first", "first", "never"]:
    raise SystemExit("changed: no longer as described")
PY
