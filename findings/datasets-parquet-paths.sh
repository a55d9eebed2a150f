#!/usr/bin/env bash
# The parquet file that `datasets` writes from an image folder has no images in it, only their absolute paths.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
uv venv --quiet --python 3.11 venv
uv pip install --quiet --python venv/bin/python datasets==5.2.0 pillow==13.0.0 numpy==2.4.6
HF_HOME="$folder/cache" HF_HUB_OFFLINE=1 HF_DATASETS_DISABLE_PROGRESS_BARS=1 venv/bin/python - <<'PY'
from pathlib import Path

import datasets
import numpy as np
from PIL import Image

rng = np.random.default_rng(0)
for name in ("cat", "dog"):
    Path("images", name).mkdir(parents=True)
    for number in range(5):
        Image.fromarray(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(Path("images", name, f"{number}.png"))
size = sum(path.stat().st_size for path in Path("images").rglob("*.png"))
datasets.load_dataset("imagefolder", data_dir="images", split="train").to_parquet("images.parquet")
written = Path("images.parquet").stat().st_size

Path("images").rename("moved")  # as on another machine
copied = datasets.load_dataset("parquet", data_files="images.parquet", split="train")
try:
    seen = str(copied[0]["image"].size)
except FileNotFoundError:
    seen = "FileNotFoundError"

print("datasets", datasets.__version__)
print(f"guess:  to_parquet puts the images into the file, which then has some {size:,} bytes and can be moved")
print(f"seen:   {written:,} bytes; after the folder of images was moved, the first image: {seen}")
if written > size // 10 or seen != "FileNotFoundError":
    raise SystemExit("changed: no longer as described")
PY
