#!/usr/bin/env bash
# A class folder named "bullet_train" makes the imagefolder builder of `datasets` drop the other classes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
uv venv --quiet --python 3.11 venv
uv pip install --quiet --python venv/bin/python datasets==5.2.0 pillow==13.0.0
HF_HOME="$folder/cache" HF_HUB_OFFLINE=1 HF_DATASETS_DISABLE_PROGRESS_BARS=1 venv/bin/python - <<'PY'
from pathlib import Path

import datasets
from PIL import Image

for name in ("bullet_train", "cat", "dog", "test_tube"):
    Path("images", name).mkdir(parents=True)
    for number in range(3):
        Image.new("RGB", (8, 8), (40 * number, 0, 0)).save(Path("images", name, f"{number}.png"))

found = datasets.load_dataset("imagefolder", data_dir="images")
seen = {split: (len(found[split]), found[split].features["label"].names, found[split]["label"][:]) for split in found}

print("datasets", datasets.__version__)
print("guess:  one split of 12 images, 4 classes (a folder of class folders, as for torchvision's ImageFolder)")
for split, (count, names, labels) in seen.items():
    print(f"seen:   split {split!r}: {count} images, classes {names}, labels {labels}")
print("        'train' and 'test' in class names are read as names of splits; cats and dogs are left out without a word,")
print("        and the training images have no labels")
if {split: value[0] for split, value in seen.items()} != {"train": 3, "test": 3} or seen["train"][2] != [None] * 3:
    raise SystemExit("changed: no longer as described")
PY
