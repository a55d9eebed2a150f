#!/usr/bin/env bash
# Lightning refuses the checkpoint that it has just written; torch.load refuses those of timm's trainer and torchvision's scripts.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
uv venv --quiet --python 3.11 venv
uv pip install --quiet --python venv/bin/python lightning==2.6.6 timm==1.0.31 torch==2.15.0 torchvision==0.29.2 numpy==2.4.6
venv/bin/python -W ignore - 2>log <<'PY' || { tail -5 log; exit 1; }
import argparse
import pickle

import lightning
import timm
import torch
from timm.models import load_state_dict
from timm.utils import CheckpointSaver
from torch.utils.data import DataLoader, TensorDataset


class Network(lightning.LightningModule):
    def __init__(self, optimizer=torch.optim.SGD):
        super().__init__()
        self.save_hyperparameters()
        self.layer = torch.nn.Linear(2, 2)

    def training_step(self, batch, _):
        return self.layer(batch[0]).sum()

    def configure_optimizers(self):
        return self.hparams.optimizer(self.parameters(), lr=0.1)


def read(action):
    try:
        action()
    except pickle.UnpicklingError as error:
        return "UnpicklingError: " + str(error).split("Unsupported global: GLOBAL ")[1].split(" was")[0]
    return "read"


trainer = lightning.Trainer(max_epochs=1, accelerator="cpu", logger=False, enable_progress_bar=False, enable_checkpointing=False)
trainer.fit(Network(), DataLoader(TensorDataset(torch.randn(4, 2)), batch_size=2))
trainer.save_checkpoint("lightning.ckpt")

options = argparse.Namespace(model="resnet18", lr=0.1)  # timm's train.py and torchvision's references/classification do so
network = timm.create_model("resnet18", num_classes=2)
saver = CheckpointSaver(network, torch.optim.SGD(network.parameters()), args=options, checkpoint_dir=".", recovery_dir=".")
saver.save_checkpoint(0, metric=1.0)
torch.save({"model": network.state_dict(), "args": options}, "torchvision.pth")

seen = {
    "Network.load_from_checkpoint (Lightning), own file": read(lambda: Network.load_from_checkpoint("lightning.ckpt")),
    "torch.load, file of timm's trainer": read(lambda: torch.load("last.pth.tar")),
    "timm's load_state_dict, file of timm's trainer": read(lambda: load_state_dict("last.pth.tar")),
    "torch.load, model and args as in torchvision's scripts": read(lambda: torch.load("torchvision.pth")),
}

print("lightning", lightning.__version__, "timm", timm.__version__, "torch", torch.__version__)
print("guess:  who writes a checkpoint reads it again; and weights with options beside them are plain values")
for name, value in seen.items():
    print(f"seen:   {name}: {value}")
known = ["UnpicklingError: torch.optim.sgd.SGD", "UnpicklingError: argparse.Namespace", "read", "UnpicklingError: argparse.Namespace"]
if list(seen.values()) != known:
    raise SystemExit("changed: no longer as described")
PY
