"""Train ResNet-50 from scratch on ImageNet-Mini or any folder of images."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from imgnet_mini.api import (
        EvaluationResult,
        InferenceModel,
        Prediction,
        RunResult,
        evaluate,
        load_model,
        predict,
        train,
    )
    from imgnet_mini.errors import ImgnetMiniError

__version__ = "0.2.0"

__all__ = [
    "EvaluationResult",
    "ImgnetMiniError",
    "InferenceModel",
    "Prediction",
    "RunResult",
    "evaluate",
    "load_model",
    "predict",
    "train",
]

if not TYPE_CHECKING:  # type checkers would take every other name for an attribute too

    def __getattr__(name: str) -> object:
        """Import the Python API on first use: it imports torch, which takes seconds."""
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(import_module("imgnet_mini.api"), name)

    def __dir__() -> list[str]:
        return [*globals(), *__all__]
