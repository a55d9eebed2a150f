#!/usr/bin/env bash
# timm and torchvision number the same class folders differently: class2 comes before class10 only in timm.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
uv venv --quiet --python 3.11 venv
uv pip install --quiet --python venv/bin/python timm==1.0.31 torch==2.15.0 torchvision==0.29.2 pillow==13.0.0 numpy==2.4.6
venv/bin/python - <<'PY'
from pathlib import Path

import timm
import torchvision
from PIL import Image

for name in ("class1", "class2", "class10", "Zebra"):
    Path("images", name).mkdir(parents=True)
    Image.new("RGB", (8, 8)).save(Path("images", name, "1.png"))
ours = torchvision.datasets.ImageFolder("images").class_to_idx
theirs = timm.data.create_dataset("", "images").reader.class_to_idx

print("timm", timm.__version__, "torchvision", torchvision.__version__)
print("guess:  the same numbers, from the sorted names of the class folders")
print("seen:   torchvision", ours)
print("        timm       ", theirs)
print("        timm sorts numbers in names by value and ignores case: a checkpoint of one, evaluated by the other, is scored")
print("        against the wrong classes, and both report an accuracy")
if list(ours) != ["Zebra", "class1", "class10", "class2"] or list(theirs) != ["class1", "class2", "class10", "Zebra"]:
    raise SystemExit("changed: no longer as described")
PY
