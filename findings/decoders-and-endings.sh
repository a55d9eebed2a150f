#!/usr/bin/env bash
# Half of the file endings that torchvision's ImageFolder looks for are formats that torchvision.io.decode_image cannot read.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
uv venv --quiet --python 3.11 venv
uv pip install --quiet --python venv/bin/python torch==2.15.0 torchvision==0.29.2 numpy==2.4.6 pillow==13.0.0
venv/bin/python -W ignore - <<'PY'
import PIL
import torchvision
from PIL import Image
from torchvision.datasets.folder import IMG_EXTENSIONS
from torchvision.io import decode_image

frames = [Image.new("RGB", (8, 8), (shade, 0, 0)) for shade in (0, 100, 200)]


def shape(name, **options):
    frames[0].convert("L" if name.endswith(".pgm") else "RGB").save(name, **options)
    try:
        return tuple(decode_image(name).shape)
    except RuntimeError:
        return "RuntimeError"


endings = {ending: shape(f"image{ending}") for ending in IMG_EXTENSIONS}
moving = {ending: shape(f"moving{ending}", save_all=True, append_images=frames[1:]) for ending in (".gif", ".webp")}

print("torchvision", torchvision.__version__, "Pillow", PIL.__version__)
print("guess:  torchvision decodes what torchvision finds, as tensors of 3 dimensions")
for ending, value in endings.items():
    print(f"seen:   {ending:5} {value}")
for ending, value in moving.items():
    print(f"seen:   three frames in {ending:5} {value}")
print("        a GIF has 4 dimensions and an animated WebP is refused; Pillow reads the first frame of both")
refused = [ending for ending, value in endings.items() if value == "RuntimeError"]
if refused != [".ppm", ".bmp", ".pgm", ".tif", ".tiff"] or moving != {".gif": (3, 3, 8, 8), ".webp": "RuntimeError"}:
    raise SystemExit("changed: no longer as described")
PY
