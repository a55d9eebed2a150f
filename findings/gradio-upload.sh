#!/usr/bin/env bash
# gradio's Image: type="pil" turns a phone photograph, type="filepath" does not, and both drop transparency.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
uv venv --quiet --python 3.11 venv
uv pip install --quiet --python venv/bin/python gradio==6.31.0 pillow==12.3.0 numpy==2.4.6
GRADIO_ANALYTICS_ENABLED=False venv/bin/python -W ignore - <<'PY'
import gradio
import PIL
from gradio.data_classes import ImageData
from PIL import Image

tag = Image.Exif()
tag[0x0112] = 6  # stored sideways
Image.new("RGB", (40, 20)).save("photo.jpg", exif=tag)
drawing = Image.new("RGBA", (8, 8), (0, 0, 0, 0))  # a black square on nothing
drawing.paste((0, 0, 0, 255), (2, 2, 6, 6))
drawing.save("drawing.png")


def given(name, **options):
    """Return the image that the app's function gets for an upload."""
    value = gradio.Image(**options).preprocess(ImageData(path=name, orig_name=name))
    return Image.open(value) if isinstance(value, str) else value


kinds = {"pil": {"type": "pil"}, "filepath": {"type": "filepath"}, "filepath, image_mode=None": {"type": "filepath", "image_mode": None}}
sizes = {kind: given("photo.jpg", **options).size for kind, options in kinds.items()}
drawings = {kind: given("drawing.png", **options) for kind, options in kinds.items()}
modes = {kind: image.mode for kind, image in drawings.items()}
black = [kind for kind, image in drawings.items() if not any(image.tobytes())]

print("gradio", gradio.__version__, "Pillow", PIL.__version__)
print("guess:  the function gets one and the same picture, as an object or as a path")
for kind, size in sizes.items():
    print(f"seen:   photograph of 40 x 20, stored sideways, type={kind}: {size[0]} x {size[1]}")
print("guess:  with a path the function gets the uploaded file")
for kind, mode in modes.items():
    print(f"seen:   transparent drawing, type={kind}: mode {mode}", "(all black)" if kind in black else "(as uploaded)")
known = [(20, 40), (40, 20), (40, 20)], ["RGB", "RGB", "RGBA"], ["pil", "filepath"]
if (list(sizes.values()), list(modes.values()), black) != known:
    raise SystemExit("changed: no longer as described")
PY
