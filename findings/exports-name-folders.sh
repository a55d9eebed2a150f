#!/usr/bin/env bash
# Exported models hold the folders of the machine that made them: the source line of every operation.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
uv venv --quiet --python 3.11 venv
uv pip install --quiet --python venv/bin/python torch==2.15.0 numpy==2.4.6 onnx==1.23.2 onnxscript==0.7.2
mkdir home_of_alice
cat >home_of_alice/model.py <<'PY'
from torch import nn


class Small(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 2)

    def forward(self, x):
        return self.layer(x).relu()
PY
venv/bin/python -W ignore - 2>log <<'PY'
import logging
import sys
import zipfile
from pathlib import Path

import torch

sys.path.insert(0, str(Path("home_of_alice").resolve()))
from model import Small

logging.disable()
network, example = Small().eval(), torch.rand(2, 4)
batch = ({0: torch.export.Dim("batch")},)
torch.export.save(torch.export.export(network, (example,), dynamic_shapes=batch), "model.pt2")
torch.onnx.export(network, (example,), "model.onnx", dynamic_shapes=batch, external_data=False, verbose=False)
torch.jit.trace(network, example).save("model.pt")
torch.save(network.state_dict(), "weights.pth")


def holds_folder(name):
    contents = [Path(name).read_bytes()]
    if zipfile.is_zipfile(name):
        with zipfile.ZipFile(name) as archive:
            contents = [archive.read(entry) for entry in archive.namelist()]
    return sum(content.count(b"home_of_alice") for content in contents)


seen = {name: holds_folder(name) for name in ("model.onnx", "model.pt2", "model.pt", "weights.pth")}
print("torch", torch.__version__)
print("guess:  an exported model is weights and a graph; nothing tells where its source file lay")
print("seen:   times that the folder of the source file stands in the file:")
for name, count in seen.items():
    print(f"        {name:11} {count}")
if not all(seen[name] for name in ("model.onnx", "model.pt2", "model.pt")) or seen["weights.pth"]:
    raise SystemExit("changed: no longer as described")
PY
