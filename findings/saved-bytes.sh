#!/usr/bin/env bash
# torch.save writes other bytes under another file name: its SHA-256 does not identify the weights.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
uv venv --quiet --python 3.11 venv
uv pip install --quiet --python venv/bin/python torch==2.15.0 numpy==2.4.6 safetensors==0.8.0
venv/bin/python - <<'PY'
import hashlib
import io
import zipfile
from pathlib import Path

import safetensors
import safetensors.torch
import torch

weights = {"weight": torch.arange(6.0)}


def digest(content):
    return hashlib.sha256(content).hexdigest()[:12]


def save(name):
    torch.save(weights, name)
    return digest(Path(name).read_bytes())


buffer = io.BytesIO()
torch.save(weights, buffer)
seen = {name: save(name) for name in ("best.pth", "last.pth", "best.tmp")} | {"a buffer": digest(buffer.getvalue())}
metadata = {key: "1" for key in ("epoch", "classes", "arch", "mean", "std")}
tensors = {digest(safetensors.torch.save(weights, metadata)) for _ in range(8)}

print("torch", torch.__version__, "safetensors", safetensors.__version__)
print("guess:  the same weights saved under three names, and into a buffer, have one digest")
for name, value in seen.items():
    print(f"seen:   {name:9} {value}")
print("        the file's stem is the name of a folder inside:", zipfile.ZipFile("best.pth").namelist()[0])
print("guess:  safetensors, which has no such folder, gives one digest")
print(f"seen:   8 saves in one process, {len(tensors)} digests: the keys of the metadata come in random order")
if seen["best.pth"] == seen["last.pth"] or seen["best.pth"] != seen["best.tmp"] or len(tensors) == 1:
    raise SystemExit("changed: no longer as described")
PY
