#!/usr/bin/env bash
# Workers of Ray run at nice 15: on a busy machine they get about a thirtieth of what another program's process gets.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
uv venv --quiet --python 3.11 venv
uv pip install --quiet --python venv/bin/python 'ray[default]==2.60.0' psutil
RAY_DEDUP_LOGS=0 venv/bin/python -W ignore - 2>log <<'PY' || { cat log; exit 1; }
import os

import ray

ray.init(num_cpus=1, include_dashboard=False, logging_level="ERROR", object_store_memory=100_000_000)


@ray.remote
def niceness():
    return os.nice(0)


own, worker = os.nice(0), ray.get(niceness.remote())
ray.shutdown()
print("ray", ray.__version__)
print("guess:  a task runs at the priority of the program that started Ray")
print(f"seen:   niceness of the program: {own}, of its task: {worker}; RAY_worker_niceness=0 keeps it as it was")
if worker - own != 15:
    raise SystemExit("changed: no longer as described")
PY
