#!/usr/bin/env bash
# Class weights: cross_entropy of one-hot targets is not cross_entropy of the same class numbers.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
uv venv --quiet --python 3.11 venv
uv pip install --quiet --python venv/bin/python torch==2.15.0 numpy==2.4.6
venv/bin/python - <<'PY'
import torch
from torch.nn.functional import cross_entropy, one_hot

logits = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
labels = torch.tensor([0, 0, 0, 2])
weight = torch.tensor([1.0, 1.0, 9.0])
numbers = cross_entropy(logits, labels, weight).item()
soft = cross_entropy(logits, one_hot(labels, 3).float(), weight).item()
halves = (cross_entropy(logits[:2], labels[:2], weight) + cross_entropy(logits[2:], labels[2:], weight)).item() / 2

print("torch", torch.__version__)
print("guess:  class numbers and the same labels as one-hot rows (as mixup makes them) give one loss")
print(f"seen:   {numbers:.4f} and {soft:.4f}: class numbers divide by the sum of the weights of the labels, rows by the batch size")
print(f"        ({numbers:.4f} x {weight[labels].sum():.0f} / 4 = {numbers * weight[labels].sum() / 4:.4f}),")
print("        so turning mixup on with weights changes the size of the loss and of every gradient")
print("guess:  the mean of the losses of two halves of the batch (gradient accumulation) is the loss of the batch")
print(f"seen:   {halves:.4f}, not {numbers:.4f}: each half divides by its own sum of weights")
if abs(soft / numbers - 3) > 1e-4 or abs(halves - numbers) < 0.1:
    raise SystemExit("changed: no longer as described")
PY
