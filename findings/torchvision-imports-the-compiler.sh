#!/usr/bin/env bash
# Importing torchvision, be it for transforms alone, imports the compiler of torch: Dynamo and Inductor.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
uv venv --quiet --python 3.11 venv
uv pip install --quiet --python venv/bin/python torch==2.15.0 torchvision==0.29.2
venv/bin/python - <<'PY'
import sys
import time

began = time.process_time()
import torch

torch_seconds, torch_modules = time.process_time() - began, len(sys.modules)
compiler = ("torch._dynamo", "torch._inductor")
early = [name for name in compiler if name in sys.modules]
began = time.process_time()
from torchvision.transforms import v2

seconds, modules = time.process_time() - began, len(sys.modules)
late = [name for name in compiler if name in sys.modules]
importer = "torchvision.ops.roi_align"
print("torch", torch.__version__, "torchvision", sys.modules["torchvision"].__version__)
print("guess:  importing the image transforms adds a few modules to torch; the compiler waits for torch.compile")
print(f"seen:   after torch: {torch_modules} modules, of the compiler: {early or 'none'}")
print(f"        after torchvision.transforms.v2: {modules} modules, of the compiler: {late}")
print(f"        CPU seconds: {torch_seconds:.2f} for torch, {seconds:.2f} more for the transforms")
print(f"        torchvision imports all of itself, and {importer} (loaded: {importer in sys.modules}) asks Dynamo for help")
if early or len(late) != 2 or seconds < torch_seconds / 4:
    raise SystemExit("changed: no longer as described")
PY
