#!/usr/bin/env bash
# A process group for a GPU that is not there starts without an error; the first operation fails.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
uv venv --quiet --python 3.11 venv
uv pip install --quiet --python venv/bin/python torch==2.15.0 numpy==2.4.6
venv/bin/python -W ignore - 2>log <<'PY'
import torch
import torch.distributed as dist


def ask(backend):
    dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)
    outcomes = {}
    for name, action in {
        "all_reduce": lambda: dist.all_reduce(torch.ones(2)),
        "barrier": dist.barrier,
        "all_gather_object": lambda: dist.all_gather_object([None], "text"),
    }.items():
        try:
            action()
            outcomes[name] = "works"
        except RuntimeError as error:
            outcomes[name] = str(error).splitlines()[0][:75]
    dist.destroy_process_group()
    return outcomes


print("torch", torch.__version__, "CUDA available:", torch.cuda.is_available())
print('guess:  init_process_group("cuda:gloo") fails at once where there is no GPU; "cpu:gloo,cuda:gloo" too')
seen = {backend: ask(backend) for backend in ("cuda:gloo", "cpu:gloo,cuda:gloo")}
for backend, outcomes in seen.items():
    print(f"seen:   {backend}: the group starts;")
    for name, outcome in outcomes.items():
        print(f"          {name}: {outcome}")
values = [set(outcomes.values()) for outcomes in seen.values()]
if torch.cuda.is_available() or "works" in values[0] or values[1] != {"works"}:
    raise SystemExit("changed: no longer as described (or there is a GPU)")
PY
