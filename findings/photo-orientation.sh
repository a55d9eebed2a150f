#!/usr/bin/env bash
# One phone photograph, six readers: datasets, gradio and OpenCV turn it upright, torchvision and Pillow do not (but for TIFF).
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
uv venv --quiet --python 3.11 venv
uv pip install --quiet --python venv/bin/python pillow==12.3.0 numpy==2.4.6 torch==2.15.0 torchvision==0.29.2 datasets==5.2.0 gradio==6.31.0 opencv-python-headless==5.0.0.93
export HF_HOME="$folder/cache" HF_HUB_OFFLINE=1 HF_DATASETS_DISABLE_PROGRESS_BARS=1 GRADIO_ANALYTICS_ENABLED=False
venv/bin/python -W ignore - 2>log <<'PY' || { tail -5 log; exit 1; }
from pathlib import Path

import cv2
import datasets
import gradio
import PIL
import torchvision
from gradio.data_classes import ImageData
from PIL import Image

tag = Image.Exif()
tag[0x0112] = 6  # stored sideways, to be turned by 90 degrees
for name in ("cat", "dog"):
    Path("images", name).mkdir(parents=True)
    Image.new("RGB", (40, 20)).save(Path("images", name, "1.jpg"), exif=tag)
photo = "images/cat/1.jpg"
Image.new("RGB", (40, 20)).save("photo.tif", exif=tag)
seen = {
    "Pillow": Image.open(photo).size,
    "torchvision ImageFolder": torchvision.datasets.ImageFolder("images")[0][0].size,
    "torchvision decode_image": tuple(torchvision.io.decode_image(photo).shape[:0:-1]),
    "datasets imagefolder": datasets.load_dataset("imagefolder", data_dir="images", split="train")[0]["image"].size,
    "gradio Image": gradio.Image(type="pil").preprocess(ImageData(path=photo, orig_name="1.jpg")).size,
    "OpenCV imread": cv2.imread(photo).shape[1::-1],
    "Pillow, as TIFF": Image.open("photo.tif").size,
}

print(f"Pillow {PIL.__version__}, torchvision {torchvision.__version__}, datasets {datasets.__version__},", end=" ")
print(f"gradio {gradio.__version__}, OpenCV {cv2.__version__}")
print("guess:  all readers for training agree, as stored (40 x 20): the demo sees what the network learned from")
for name, size in seen.items():
    print(f"seen:   {name:25} {size[0]} x {size[1]}")
print("        a network trained through ImageFolder meets turned images in a gradio app, one trained through datasets does not")
if [name for name, size in seen.items() if tuple(size) == (20, 40)] != [
    "datasets imagefolder",
    "gradio Image",
    "OpenCV imread",
    "Pillow, as TIFF",
]:
    raise SystemExit("changed: no longer as described")
PY
