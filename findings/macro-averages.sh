#!/usr/bin/env bash
# Macro F1 and mean recall over classes without images: torchmetrics, scikit-learn and scikit-learn disagree.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
uv venv --quiet --python 3.11 venv
uv pip install --quiet --python venv/bin/python scikit-learn==1.9.1 torchmetrics==1.9.0 torch==2.15.0 numpy==2.4.6
venv/bin/python -W ignore - <<'PY'
import sklearn
import sklearn.metrics
import torch
import torchmetrics
from torchmetrics.classification import MulticlassF1Score, MulticlassRecall

# Four classes, of which 2 and 3 have no images; one image is predicted as class 2.
labels, answers = torch.tensor([0, 0, 1, 1]), torch.tensor([0, 0, 1, 2])
classes = list(range(4))
seen = {
    "recall, torchmetrics": MulticlassRecall(4, average="macro")(answers, labels).item(),
    "recall, recall_score": sklearn.metrics.recall_score(labels, answers, average="macro"),
    "recall, recall_score(labels=range(4))": sklearn.metrics.recall_score(labels, answers, labels=classes, average="macro"),
    "recall, balanced_accuracy_score": sklearn.metrics.balanced_accuracy_score(labels, answers),
    "F1, torchmetrics": MulticlassF1Score(4, average="macro")(answers, labels).item(),
    "F1, f1_score": sklearn.metrics.f1_score(labels, answers, average="macro"),
    "F1, f1_score(labels=range(4))": sklearn.metrics.f1_score(labels, answers, labels=classes, average="macro"),
}

print("scikit-learn", sklearn.__version__, "torchmetrics", torchmetrics.__version__)
print("guess:  one value of recall, 0.75 (the mean of 1 and 1/2), under all names, and one of F1")
for name, value in seen.items():
    print(f"seen:   {name:38} {value:.4f}")
print("        who counts class 2, predicted but absent, and class 3, neither, as 0 differs from line to line")
known = [0.5, 0.5, 0.375, 0.75, 0.5556, 0.5556, 0.4167]
if any(abs(value - expected) > 1e-4 for value, expected in zip(seen.values(), known, strict=True)):
    raise SystemExit("changed: no longer as described")
PY
