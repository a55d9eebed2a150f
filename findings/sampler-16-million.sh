#!/usr/bin/env bash
# WeightedRandomSampler takes at most 2^24 (16.8 million) images, and says so when the first batch is drawn.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
uv venv --quiet --python 3.11 venv
uv pip install --quiet --python venv/bin/python torch==2.15.0 numpy==2.4.6
venv/bin/python -W ignore - <<'PY'
import torch
from torch.utils.data import WeightedRandomSampler


def draw(images):
    sampler = WeightedRandomSampler(torch.ones(images, dtype=torch.double), num_samples=1)
    try:
        return f"draws one of {images:,}" if next(iter(sampler)) < images else "out of range"
    except RuntimeError as error:
        return f"RuntimeError: {error}"


seen = {images: draw(images) for images in (2**24, 2**24 + 1)}

print("torch", torch.__version__)
print("guess:  a sampler of indices has no limit below 2^63 (memory aside): 17 million images work as 1 million do")
for images, value in seen.items():
    print(f"seen:   {images:,} weights: {value}")
print("        the sampler is made without a word; the error comes from torch.multinomial. ImageNet-21k (14 million) just fits")
if not seen[2**24].startswith("draws") or "2^24" not in seen[2**24 + 1]:
    raise SystemExit("changed: no longer as described")
PY
