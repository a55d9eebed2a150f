#!/usr/bin/env bash
# torchinfo counts a linear layer once, however many tokens pass through it: 13 to 130 times too few multiply-adds.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
uv venv --quiet --python 3.11 venv
uv pip install --quiet --python venv/bin/python torchinfo==1.8.0 torch==2.15.0 torchvision==0.29.2 numpy==2.4.6
venv/bin/python -W ignore - <<'PY'
import torch
import torchinfo
import torchvision

print("torchinfo", torchinfo.__version__, "torch", torch.__version__, "torchvision", torchvision.__version__)
print("guess:  torchinfo's multiply-adds of one image of 224 x 224 are the published ones, for every architecture")
ratios = {}
for name in ("resnet18", "convnext_tiny", "vit_b_32", "swin_t"):
    network = torchvision.models.get_model(name).eval()
    weights = torchvision.models.get_model_weights(name).DEFAULT
    told = torchinfo.summary(network, (1, 3, 224, 224), verbose=0).total_mult_adds / 1e9
    published = weights.meta["_ops"]
    ratios[name] = published / told
    print(f"seen:   {name:13} torchinfo {told:6.3f}, published {published:6.3f} (in 10^9): {ratios[name]:.0f} times as many")
if not 0.99 < ratios["resnet18"] < 1.01 or any(ratios[name] < 10 for name in ("convnext_tiny", "vit_b_32", "swin_t")):
    raise SystemExit("changed: no longer as described")
PY
