#!/usr/bin/env bash
# timm rounds the size before the center crop down, not to the nearest: at most sizes another image than expected.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
uv venv --quiet --python 3.11 venv
uv pip install --quiet --python venv/bin/python timm==1.0.31 torch==2.15.0 torchvision==0.29.2
venv/bin/python -W ignore - <<'PY'
import timm
from timm.data import create_transform


def resized_to(size):
    """The shortest side before the center crop."""
    transform = create_transform(input_size=(3, size, size), crop_pct=0.875, crop_mode="center")
    return transform.transforms[0].size


sizes = (64, 96, 100, 160, 224, 299, 300)
seen = {size: (resized_to(size), round(size / 0.875)) for size in sizes}
print("timm", timm.__version__)
print("guess:  crop_pct=0.875 means: resize to round(size / 0.875), as 256 for 224")
print("seen:   size: resize by timm, rounded")
for size, (own, rounded) in seen.items():
    print(f"        {size}: {own}, {rounded}{'' if own == rounded else '  <- another image'}")
if seen[96] != (109, 110) or seen[224] != (256, 256):
    raise SystemExit("changed: no longer as described")
PY
