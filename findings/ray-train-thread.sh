#!/usr/bin/env bash
# Ray Train calls the training function in a side thread, in another folder, and returns no metrics without a checkpoint.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
uv venv --quiet --python 3.11 venv
uv pip install --quiet --python venv/bin/python 'ray[train]==2.60.0' torch==2.15.0 numpy==2.4.6
RAY_DEDUP_LOGS=0 RAY_USAGE_STATS_ENABLED=0 PYTHONWARNINGS=ignore venv/bin/python - 2>log <<'PY' || { tail -20 log; exit 1; }
import json
import os
import signal
import threading
from pathlib import Path

import ray.train
from ray.train.torch import TorchTrainer

start = os.getcwd()


def train():
    try:
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        handler = "installed"
    except ValueError as error:
        handler = f"ValueError: {error}"
    facts = {
        "handler": handler,
        "main thread": threading.current_thread() is threading.main_thread(),
        "start folder": os.getcwd() == start,
    }
    if ray.train.get_context().get_world_rank() == 0:
        Path(start, "facts.json").write_text(json.dumps(facts))
    ray.train.report({"loss": 1.0})


ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False)
trainer = TorchTrainer(
    train,
    scaling_config=ray.train.ScalingConfig(num_workers=1),
    run_config=ray.train.RunConfig(storage_path=f"{start}/results"),
)
result = trainer.fit()
ray.shutdown()
facts = json.loads(Path("facts.json").read_text())

print("ray", ray.__version__)
print("guess:  the function is the main program of its worker process and may catch SIGTERM, as under torchrun")
print("seen:   main thread:", facts["main thread"], "- signal.signal:", facts["handler"])
print("guess:  relative paths (data/train) mean the folder of the script")
print("seen:   start folder:", facts["start folder"], "- a folder of Ray's session")
print("guess:  result.metrics is what the last report said: {'loss': 1.0}")
print("seen:  ", result.metrics, "- kept only for reports that have a checkpoint")
if facts["main thread"] or facts["start folder"] or not facts["handler"].startswith("ValueError") or result.metrics is not None:
    raise SystemExit("changed: no longer as described")
PY
