"""The model card of an exported model: a README with a YAML head, for the Hugging Face Hub."""

from dataclasses import dataclass
from typing import Any

from imgnet_mini.reporting.readme.template import make_environment
from imgnet_mini.reporting.run_view import RunView
from imgnet_mini.runs.results import EvaluationResult


@dataclass(frozen=True)
class CardResult:
    """Accuracy of the exported weights on the validation images, in percent.

    source: how it was measured, in words; images: None if they were not counted.
    is_best: whether the checkpoint was chosen by its top-1 on these images.
    """

    top1: float
    top5: float
    loss: float
    images: int | None
    source: str
    is_best: bool


@dataclass(frozen=True)
class ModelCard:
    """Contents of a model card.

    description: of the exported model, see `export.formats.describe`.
    license_id: of the Hub, such as `mit`.
    in_timm: whether timm loads the folder; is_imagenet: whether all classes are ImageNet's.
    run: that trained the model; None if it is not at hand.
    result: None if these weights were not measured.
    """

    description: dict[str, Any]
    license_id: str
    in_timm: bool
    is_imagenet: bool
    run: RunView | None
    result: CardResult | None

    def render(self) -> str:
        """Return the text of the file."""
        template = make_environment(None).get_template("card.md.j2")
        classes = self.description["classes"]
        body = template.render(
            card=self,
            description=self.description,
            preprocessing=self.description["preprocessing"],
            classes=list(zip(classes, self.description["names"], strict=True)),
            run=self.run,
            result=self.result,
        )
        return f"---\n{self._head()}\n---\n\n{body.strip()}\n"

    def _head(self) -> str:
        """Return the YAML that the Hub reads."""
        from huggingface_hub import EvalResult, ModelCardData  # noqa: PLC0415 - optional

        name = self.run.data_name if self.run else "images"
        metrics = (
            {"Top-1 accuracy (%)": self.result.top1, "Top-5 accuracy (%)": self.result.top5}
            if self.result
            else {}
        )
        results = [
            EvalResult(
                task_type="image-classification",
                dataset_type="imagefolder",
                dataset_name=name,
                dataset_split="validation",
                metric_type="accuracy",
                metric_name=metric,
                metric_value=round(value, 3),
            )
            for metric, value in metrics.items()
        ]
        data = ModelCardData(
            license=self.license_id,
            library_name="timm" if self.in_timm else None,
            pipeline_tag="image-classification",
            tags=["image-classification", "pytorch", "imgnet-mini"],
            model_name=self.run.name if self.run else self.description["arch"],
            eval_results=results or None,
        )
        return data.to_yaml().strip()


def find_result(run: RunView, sha256: str, *, is_best: bool) -> CardResult | None:
    """Return the accuracy of the weights of a checkpoint of a run; None if it is not known.

    sha256: of the checkpoint file; is_best: whether it is the run's best one.
    """
    measured: EvaluationResult | None = run.evaluation.metrics
    if measured and measured.checkpoint_sha256 == sha256:
        views = {"hflip": ", mean of the crop and its flip", "ten-crop": ", mean of ten crops"}
        source = f"evaluated in {measured.precision}{views.get(measured.views, '')}"
        return CardResult(
            measured.top1, measured.top5, measured.loss, measured.images, source, is_best
        )
    if not is_best:
        return None
    source = f"validated after epoch {run.best.epoch}, in the precision of the training"
    images = run.environment.val_images
    return CardResult(run.best.top1, run.best.top5, run.best.loss, images, source, is_best)
