"""Description of an exported model, stored in its file and in a JSON file beside it."""

import json
from collections.abc import Sequence
from typing import Any

import torch

from imgnet_mini import __version__
from imgnet_mini.data.classes import human_names
from imgnet_mini.data.transforms import MEAN, STD, eval_resize

Description = dict[str, Any]
"""Plain JSON data."""


def describe(arch: str, img_size: int, classes: Sequence[str]) -> Description:
    """Describe preprocessing and outputs; `classes` in the order of the outputs."""
    return {
        "arch": arch,
        "input": {"name": "images", "shape": ["batch", 3, img_size, img_size], "type": "float32"},
        "preprocessing": {
            "color": "RGB",
            "resize": eval_resize(img_size),
            "resize_side": "shortest",
            "interpolation": "bilinear, antialiased",
            "center_crop": img_size,
            "scale": "0 to 1",
            "mean": [round(value / 255, 6) for value in MEAN],
            "std": [round(value / 255, 6) for value in STD],
        },
        "output": {"name": "logits", "shape": ["batch", len(classes)], "type": "float32"},
        "classes": list(classes),
        "names": human_names(classes),
        "imgnet_mini": __version__,
        "torch": str(torch.__version__),
    }


def to_json(description: Description) -> str:
    """Return the text of the JSON file, in ASCII."""
    return json.dumps(description, indent=2) + "\n"


def to_properties(description: Description) -> dict[str, str]:
    """Return the description as strings for formats that store only those; other values as JSON."""
    return {
        name: value if isinstance(value, str) else json.dumps(value)
        for name, value in description.items()
    }
