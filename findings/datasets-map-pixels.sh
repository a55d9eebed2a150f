#!/usr/bin/env bash
# A `map` of `datasets` that only looks at an image compresses it again: the next epoch sees other pixels.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
uv venv --quiet --python 3.11 venv
uv pip install --quiet --python venv/bin/python datasets==5.2.0 pillow==13.0.0 numpy==2.4.6
HF_HOME="$folder/cache" HF_HUB_OFFLINE=1 HF_DATASETS_DISABLE_PROGRESS_BARS=1 venv/bin/python - <<'PY'
import io

import datasets
import numpy as np
from PIL import Image

noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8))
buffer = io.BytesIO()
noise.resize((64, 64)).save(buffer, "JPEG", quality=95)
table = {"image": [{"bytes": buffer.getvalue(), "path": None}]}  # as in a parquet file of images
images = datasets.Dataset.from_dict(table).cast_column("image", datasets.Image())


def pixels(dataset):
    return np.asarray(dataset[0]["image"]).astype(int)


def stored(dataset):
    return len(dataset.cast_column("image", datasets.Image(decode=False))[0]["image"]["bytes"])


maps = {
    "images.map(lambda row: {'kind': 1})": images.map(lambda row: {"kind": 1}),
    "images.map(lambda row: {'width': row['image'].width})": images.map(lambda row: {"width": row["image"].width}),
}
changes = [int(np.abs(pixels(dataset) - pixels(images)).max()) for dataset in maps.values()]

print("datasets", datasets.__version__)
print(f"guess:  a map that adds a column leaves the others as they are: a JPEG of {stored(images)} bytes")
for (name, dataset), change in zip(maps.items(), changes, strict=True):
    print(f"seen:   {name}: {stored(dataset)} bytes, largest change of a pixel {change} of 255")
print("        an image that the function has read is encoded again, a JPEG with Pillow's standard quality of 75")
if changes[0] != 0 or changes[1] < 20:
    raise SystemExit("changed: no longer as described")
PY
