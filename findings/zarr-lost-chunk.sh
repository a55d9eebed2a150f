#!/usr/bin/env bash
# A zarr array of images whose chunk file was lost reads as black images, without an error.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
uv venv --quiet --python 3.11 venv
uv pip install --quiet --python venv/bin/python zarr==3.1.6 numpy==2.4.6
venv/bin/python - <<'PY'
from pathlib import Path

import numpy as np
import zarr

images = np.random.default_rng(0).integers(1, 256, (8, 4, 4, 3), dtype=np.uint8)
pack = zarr.create_array(store="images.zarr", shape=images.shape, chunks=(2, 4, 4, 3), dtype="uint8")
pack[:] = images
Path("images.zarr/c/1/0/0/0").unlink()  # images 2 and 3
seen = [int(image.max()) for image in zarr.open("images.zarr", mode="r")[:]]

print("zarr", zarr.__version__)
print("guess:  reading the array fails: a chunk that was written is not there")
print("seen:   brightest pixel of each image:", seen)
print("        a missing chunk means 'all fill value', so no reader can tell an unfinished copy from black images")
if [number for number, value in enumerate(seen) if value == 0] != [2, 3]:
    raise SystemExit("changed: no longer as described")
PY
