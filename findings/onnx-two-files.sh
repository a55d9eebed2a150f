#!/usr/bin/env bash
# torch.onnx.export writes two files even for 16 KB of weights, and renaming both of them alike breaks the model.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
uv venv --quiet --python 3.11 venv
uv pip install --quiet --python venv/bin/python torch==2.15.0 numpy==2.4.6 onnx==1.23.2 onnxruntime==1.32.0 onnxscript==0.7.2
venv/bin/python -W ignore - 2>log <<'PY'
import logging
from pathlib import Path

import onnxruntime
import torch

logging.disable(logging.WARNING)


def export(size, name, **options):
    network = torch.nn.Linear(size, size).eval()
    torch.onnx.export(network, (torch.ones(1, size),), f"{name}.onnx", dynamo=True, verbose=False, **options)
    return {path.name: path.stat().st_size for path in sorted(Path().glob(f"{name}.*"))}


tiny, small, whole = export(2, "tiny"), export(64, "small"), export(64, "whole", external_data=False)
for path in Path().glob("small.*"):
    path.rename(path.name.replace("small", "final"))
try:
    onnxruntime.InferenceSession("final.onnx")
    renamed = "loads"
except Exception as error:  # onnxruntime's own kinds
    renamed = f"{type(error).__name__}: the location of the weights is not valid"

print("torch", torch.__version__, "onnxruntime", onnxruntime.__version__)
print("guess:  one file: weights are put beside a model only near the 2 GB that protobuf allows")
print("seen:   6 numbers:    ", tiny)
print("        4,160 numbers:", small)
print("        4,160 numbers, external_data=False:", whole)
print("guess:  both files, renamed alike, still belong together")
print("seen:   final.onnx and final.onnx.data:", renamed)
if tiny["tiny.onnx.data"] != 0 or small["small.onnx.data"] != 64 * 64 * 4 or len(whole) != 1 or renamed == "loads":
    raise SystemExit("changed: no longer as described")
PY
