#!/usr/bin/env bash
# A network built on the meta device loads a state dict strictly and "all keys match", but its non-persistent buffers still hold no data.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
uv venv --quiet --python 3.11 venv
uv pip install --quiet --python venv/bin/python timm==1.0.31 torch==2.15.0 torchvision==0.29.2
venv/bin/python -W ignore - 2>log <<'PY'
import timm
import torch

name = "swin_tiny_patch4_window7_224"
whole = timm.create_model(name, num_classes=2)
with torch.device("meta"):
    empty = timm.create_model(name, num_classes=2)
answer = empty.load_state_dict(whole.state_dict(), strict=True, assign=True)
without_data = [place for place, buffer in empty.named_buffers() if buffer.is_meta]
weights_without_data = [place for place, weight in empty.named_parameters() if weight.is_meta]
try:
    empty.to("cpu")
    moved = "moved"
except NotImplementedError as error:
    moved = str(error).split(";")[0]

print("torch", torch.__version__, "timm", timm.__version__)
print("guess:    strict loading without an error means that nothing is left on the meta device")
print("answer:  ", answer)
print("no data: ", len(weights_without_data), "weights,", len(without_data), "buffers, such as", without_data[:1])
print("to(cpu): ", moved)
if answer.missing_keys or weights_without_data or not without_data or "meta tensor" not in moved:
    raise SystemExit("changed: no longer as described")
PY
