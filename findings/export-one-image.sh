#!/usr/bin/env bash
# An example batch of one image: torch.export refuses a dynamic batch, torch.onnx.export makes one from the same arguments.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
uv venv --quiet --python 3.11 venv
uv pip install --quiet --python venv/bin/python torch==2.15.0 numpy==2.4.6 onnx==1.23.2 onnxruntime==1.32.0 onnxscript==0.7.2
venv/bin/python -W ignore - 2>log <<'PY'
import logging

import numpy as np
import onnxruntime
import torch

logging.disable(logging.WARNING)
network = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.Flatten()).eval()
one, batch = torch.randn(1, 3, 8, 8), {0: torch.export.Dim("batch")}


def export(images, dynamic):
    try:
        program = torch.export.export(network, (images,), dynamic_shapes=(dynamic,))
        program.module()(torch.randn(5, 3, 8, 8))
    except Exception as error:  # several kinds
        return f"{type(error).__name__}: {str(error).splitlines()[0][:90]}"
    return "takes 5 images"


seen = {
    'Dim("batch"), one image': export(one, batch),
    "Dim.DYNAMIC, one image": export(one, {0: torch.export.Dim.DYNAMIC}),
    "Dim.AUTO, one image": export(one, {0: torch.export.Dim.AUTO}),
    'Dim("batch"), two images': export(torch.randn(2, 3, 8, 8), batch),
}
torch.onnx.export(network, (one,), "network.onnx", dynamic_shapes=(batch,), dynamo=True, verbose=False)
output = onnxruntime.InferenceSession("network.onnx").run(None, {"input": np.zeros((5, 3, 8, 8), np.float32)})[0]

print("torch", torch.__version__, "onnxruntime", onnxruntime.__version__)
print("guess:  the batch is dynamic in all of them (it is declared so), or in none")
for name, value in seen.items():
    print(f"seen:   torch.export, {name}: {value}")
print(f"seen:   torch.onnx.export, Dim(\"batch\"), one image: takes {len(output)} images")
values = list(seen.values())
if "takes" in "".join(values[:3]) or values[3] != "takes 5 images" or len(output) != 5:
    raise SystemExit("changed: no longer as described")
PY
