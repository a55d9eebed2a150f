#!/usr/bin/env bash
# timm's hub export of a network trained from scratch names another training as its origin; its preprocessing is that one's too.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
uv venv --quiet --python 3.11 venv
uv pip install --quiet --python venv/bin/python timm==1.0.31 torch==2.15.0 torchvision==0.29.2 numpy==2.4.6 huggingface-hub==2.4.0
HF_HUB_OFFLINE=1 venv/bin/python -W ignore - <<'PY'
import json
from pathlib import Path

import timm
import torch
from timm.models import save_for_hf

network = timm.create_model("resnet18", num_classes=3).eval()  # random weights: nothing is downloaded
save_for_hf(network, "hub", model_config={"label_names": ["cat", "dog", "fox"]}, safe_serialization=True)
config = json.loads(Path("hub/config.json").read_text())
origin = {key: config["pretrained_cfg"].get(key) for key in ("tag", "license", "paper_ids", "crop_pct", "interpolation")}

Path("hub/config.json").write_text(json.dumps({"architecture": "resnet18", "num_classes": 3}))
short = timm.create_model("local-dir:hub", pretrained=True)
used = timm.data.resolve_model_data_config(short)
images = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
blank = timm.create_model("local-dir:hub").eval()
same = [torch.equal(network(images), other.eval()(images)) for other in (short, blank)]

print("timm", timm.__version__)
print("guess:  config.json of weights that were never downloaded says nothing about where they are from")
print("seen:  ", origin)
print("guess:  a config.json without preprocessing is read with the architecture's (the values above)")
print("seen:  ", {key: used[key] for key in ("crop_pct", "interpolation")})
print("guess:  create_model('local-dir:hub') loads the weights of that folder")
print("seen:   same logits with pretrained=True:", same[0], "- without:", same[1], "(random weights, no warning)")
if origin["tag"] != "a1_in1k" or used["crop_pct"] != 0.875 or same != [True, False]:
    raise SystemExit("changed: no longer as described")
PY
