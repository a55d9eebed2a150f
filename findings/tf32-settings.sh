#!/usr/bin/env bash
# PyTorch's new and old TF32 settings: mixed, reading one fails, on a CPU too, and cudnn.flags() with it.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
uv venv --quiet --python 3.11 venv
uv pip install --quiet --python venv/bin/python torch==2.15.0 numpy==2.4.6
venv/bin/python -W ignore - <<'PY'
import torch

backends = torch.backends


def read(action):
    try:
        return action()
    except RuntimeError as error:
        return f"RuntimeError: {str(error)[:75]}..."


def enter_flags():
    with backends.cudnn.flags(enabled=True, benchmark=True):
        return "entered"


before = read(enter_flags)
torch.set_float32_matmul_precision("high")
backends.cuda.matmul.fp32_precision = "ieee"
precision = torch.get_float32_matmul_precision()
allowed = read(lambda: backends.cuda.matmul.allow_tf32)
backends.cudnn.allow_tf32 = False
backends.cudnn.conv.fp32_precision = "tf32"
flags = read(enter_flags)

print("torch", torch.__version__, "CUDA available:", torch.cuda.is_available())
print('guess:  set_float32_matmul_precision("high"), then cuda.matmul.fp32_precision = "ieee": the last one counts for every reader')
print("seen:   get_float32_matmul_precision():", precision, "- fp32_precision:", backends.cuda.matmul.fp32_precision)
print("        cuda.matmul.allow_tf32:", allowed)
print("guess:  cudnn.allow_tf32 = False, then cudnn.conv.fp32_precision = 'tf32': convolutions only, all else as before")
print("seen:   with cudnn.flags(enabled=True, benchmark=True):", flags, f"(before: {before})")
print("        a library that uses cudnn.flags() fails once an application has mixed the two kinds of setting")
if precision != "high" or not allowed.startswith("RuntimeError") or before != "entered" or not flags.startswith("RuntimeError"):
    raise SystemExit("changed: no longer as described")
PY
