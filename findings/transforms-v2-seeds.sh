#!/usr/bin/env bash
# One seed: crops and flips of torchvision's transforms and transforms.v2 agree, the automatic augmentations do not.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
uv venv --quiet --python 3.11 venv
uv pip install --quiet --python venv/bin/python torch==2.15.0 torchvision==0.29.2 numpy==2.4.6 pillow==13.0.0
venv/bin/python -W ignore - <<'PY'
import numpy as np
import torch
import torchvision
from PIL import Image
from torchvision import transforms
from torchvision.transforms import v2

image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 80, 3), dtype=np.uint8))
augmentations = {
    "RandomResizedCrop": (32,),
    "RandomHorizontalFlip": (),
    "ColorJitter": (0.4, 0.4, 0.4, 0.1),
    "RandomAffine": (30,),
    "TrivialAugmentWide": (),
    "RandAugment": (),
    "AutoAugment": (),
    "AugMix": (),
}


def apply(package, name, seed):
    torch.manual_seed(seed)
    return np.asarray(getattr(package, name)(*augmentations[name])(image))


seen = {name: sum(np.array_equal(*(apply(package, name, seed) for package in (transforms, v2))) for seed in range(20)) for name in augmentations}

print("torchvision", torchvision.__version__)
print("guess:  v2, made to replace transforms, gives the same image under the same seed, for all of them or for none")
for name, count in seen.items():
    print(f"seen:   {name:21} same image for {count:2} of 20 seeds")
print("        changing the import alters a seeded run only where an automatic augmentation is used")
if [count == 20 for count in seen.values()] != [True] * 4 + [False] * 4:
    raise SystemExit("changed: no longer as described")
PY
