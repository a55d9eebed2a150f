#!/usr/bin/env bash
# With class weights, label smoothing weighs the classes that are not the target: the rare class wins everywhere.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
uv venv --quiet --python 3.11 venv
uv pip install --quiet --python venv/bin/python torch==2.15.0 numpy==2.4.6
venv/bin/python - <<'PY'
import torch
from torch import nn

counts = torch.tensor([1000.0, 1.0])
weight = counts.sum() / (2 * counts)  # "balanced": 0.5 and 500.5
target = torch.tensor([0])  # an image of the common class


def best_probability(loss):
    """The probability of the common class that minimizes the loss of one of its images."""
    logits = torch.zeros(1, 2, requires_grad=True, dtype=torch.float64)
    optimizer = torch.optim.LBFGS([logits], max_iter=200, line_search_fn="strong_wolfe")

    def step():
        optimizer.zero_grad()
        value = loss(logits, target)
        value.backward()
        return value

    optimizer.step(step)
    return logits.softmax(1)[0, 0].item()


plain = best_probability(nn.CrossEntropyLoss(label_smoothing=0.1))
weighted = best_probability(nn.CrossEntropyLoss(weight=weight.double(), label_smoothing=0.1))
print("torch", torch.__version__)
print("guess:  smoothing by 0.1 asks for a probability of 0.95 for an image's own class, whatever the class weights")
print(f"seen:   without weights: {plain:.3f}")
print(f"        with balanced weights for 1000 and 1 images: {weighted:.3f} for images of the common class")
print("        each class's share of the smoothed target is multiplied by that class's weight, not by the target's")
if abs(plain - 0.95) > 0.01 or weighted > 0.05:
    raise SystemExit("changed: no longer as described")
PY
