#!/usr/bin/env bash
# Enlarging with antialias=True, which has nothing to smooth, changes bicubic pixels; bilinear ones stay.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
uv venv --quiet --python 3.11 venv
uv pip install --quiet --python venv/bin/python torch==2.15.0 numpy==2.4.6 pillow==13.0.0
venv/bin/python - <<'PY'
import numpy as np
import PIL
import torch
from PIL import Image
from torch.nn.functional import interpolate

image = torch.randint(0, 256, (1, 3, 32, 32), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
pillow = Image.fromarray(image[0].permute(1, 2, 0).numpy())


def enlarge(mode, antialias):
    return interpolate(image, size=(64, 64), mode=mode, antialias=antialias)[0].permute(1, 2, 0).int()


print("torch", torch.__version__, "Pillow", PIL.__version__)
print("guess:  antialias matters only where an image gets smaller: 32 to 64 pixels gives the same image, and Pillow's")
seen = {}
for mode, filter_ in (("bilinear", Image.Resampling.BILINEAR), ("bicubic", Image.Resampling.BICUBIC)):
    reference = torch.from_numpy(np.asarray(pillow.resize((64, 64), filter_)).astype(np.int32))
    plain, smooth = enlarge(mode, False), enlarge(mode, True)
    seen[mode] = int((plain - smooth).abs().max())
    print(f"seen:   {mode:8} largest difference with and without: {seen[mode]} of 255;", end=" ")
    print(f"to Pillow: {(smooth - reference).abs().max()} with, {(plain - reference).abs().max()} without")
print("        with antialias the cubic has another coefficient (-0.5 as Pillow's, in place of -0.75)")
if seen["bilinear"] > 1 or seen["bicubic"] < 10:
    raise SystemExit("changed: no longer as described")
PY
