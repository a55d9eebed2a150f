"""The files of a finder result: plot, CSV files and JSON."""

import itertools
import math
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, ClassVar, Self

from pydantic import (
    BeforeValidator,
    Field,
    FiniteFloat,
    PrivateAttr,
    field_serializer,
    field_validator,
)

from imgnet_mini.config.training_settings import ResolvedFinder
from imgnet_mini.lr_finder.curve import Curve, StopReason
from imgnet_mini.lr_finder.suggestions import Method, Regions, Suggestions, explain
from imgnet_mini.lr_finder.trials import TrialRuns
from imgnet_mini.utils.csv_file import write_table
from imgnet_mini.utils.json_file import Count, JsonModel, Text

_PREFIX = "lr_finder_"
_FORMER_SETTINGS = {"clip_norm": "clip_grad", "zero_init": "zero_init_residual"}

Rate = Annotated[float, Field(gt=0, allow_inf_nan=False)]


def _parse_time(time: Any) -> Any:
    return datetime.fromisoformat(time).astimezone() if isinstance(time, str) else time


class SavedTrial(JsonModel):
    """One trial run; its final loss is None if it diverged."""

    peak_lr: Rate
    loss: FiniteFloat | None


class SavedTrials(JsonModel):
    """The trial runs of a result, sorted by peak learning rate.

    losses: name of the CSV file with the loss of each step.
    """

    steps: Count
    runs: tuple[SavedTrial, ...] = Field(strict=False)
    losses: Text | None = None


class SavedResult(JsonModel):
    """Content of the JSON file of a result; earlier versions wrote fewer keys.

    time: with a UTC offset; one without is local time.
    steps: training steps taken, at most `num_iter`.
    suggestions: peak learning rate of each method; None if a method gives none.
    lr: the suggestion of the method `recommended`.
    training_steps: of the training that the suggestion is for.
    settings: of the run, by their present names; empty if the file has none.
    plot, curve: names of the PNG and CSV files beside the JSON file.
    """

    cure: ClassVar[str] = "remove it, or run find-lr again"

    name: Text
    time: Annotated[datetime, BeforeValidator(_parse_time)]
    start_lr: Rate | None = None
    end_lr: Rate | None = None
    num_iter: Annotated[int, Field(ge=0)] | None = None
    steps: Annotated[int, Field(ge=0)] | None = None
    stopped: StopReason | None = None
    suggestions: dict[Method, Rate | None] = Field(default_factory=dict)
    recommended: Method | None = None
    lr: Rate | None
    training_steps: Count = 0
    reason: Text = ""
    trials: SavedTrials | None = None
    problem: Text | None = None
    regions: Regions = Regions()
    settings: dict[str, Any] = Field(default_factory=dict)
    command: tuple[Text, ...] = Field(default=(), strict=False)
    train_command: Text | None = None
    plot: Text | None = None
    curve: Text | None = None
    _path: Path = PrivateAttr(Path())

    @property
    def path(self) -> Path:
        """The JSON file."""
        return self._path

    @field_validator("settings")
    @classmethod
    def _rename_settings(cls, settings: dict[str, Any]) -> dict[str, Any]:
        return {_FORMER_SETTINGS.get(name, name): value for name, value in settings.items()}

    @field_serializer("time")
    def _write_time(self, time: datetime) -> str:
        return time.isoformat(timespec="microseconds")

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read the JSON file of a result.

        Raises:
            DataError: the file cannot be read, is damaged, or is not a result of find-lr.
        """
        result = super().read(path)
        result._path = path
        return result


class SavedSuggestion(SavedResult):
    """A result that recommends a learning rate."""

    lr: Rate


def save_result(
    finder_dir: Path,
    time: datetime,
    *,
    name: str,
    finder: ResolvedFinder,
    curve: Curve,
    suggestions: Suggestions,
    trials: TrialRuns | None = None,
    settings: dict[str, Any],
    command: tuple[str, ...] = (),
    options: str = "",
) -> SavedResult:
    """Write plot, CSV and JSON files under names not yet in use; the JSON last.

    name: of the run that the result is for.
    settings: of model, data and optimizer, as plain JSON values.
    command: arguments of the command that made the result.
    options: to append to `imgnet-mini train --max-lr LR` for the same run, such as ` --name a`.

    Raises:
        WriteError: a file cannot be written.
    """
    from imgnet_mini.lr_finder.plot import draw_range_test  # noqa: PLC0415 - slow

    path = _unused_path(finder, finder_dir, time)
    plot, curve_csv = path.with_suffix(".png"), path.with_suffix(".csv")
    draw_range_test(curve, suggestions, settings, plot, trials=trials)
    columns = (curve.lrs.tolist(), curve.losses.tolist(), curve.smoothed.tolist())
    write_table(curve_csv, ("lr", "loss", "smoothed"), zip(*columns, strict=True))
    lr = suggestions.lr
    result = SavedResult(
        name=name,
        time=time,
        **finder.model_dump(include={"start_lr", "end_lr", "num_iter"}),
        steps=len(curve.lrs),
        stopped=curve.stopped,
        suggestions=suggestions.lrs,
        recommended=suggestions.recommended,
        lr=lr,
        training_steps=suggestions.steps,
        reason=explain(suggestions, trials),
        trials=_save_trials(trials, path) if trials else None,
        problem=suggestions.problem,
        regions=suggestions.regions,
        settings=settings,
        command=command,
        train_command=None if lr is None else f"imgnet-mini train --max-lr {lr:.3g}{options}",
        plot=plot.name,
        curve=curve_csv.name,
    )
    result.write(path)
    result._path = path
    return result


def latest_suggestion(finder_dir: Path, name: str) -> SavedSuggestion | None:
    """Return the newest result for the run `name` that recommends a rate; None without one.

    Only files named like a result are read.

    Raises:
        DataError: a result is damaged, so that a newer suggestion may be missed.
    """
    results = [SavedResult.read(path) for path in sorted(finder_dir.glob(f"{_PREFIX}*.json"))]
    usable = [result for result in results if result.name == name and result.lr is not None]
    if not usable:
        return None
    newest = max(usable, key=lambda result: (result.time, result.path.name))
    return SavedSuggestion.read(newest.path)


def _unused_path(finder: ResolvedFinder, finder_dir: Path, time: datetime) -> Path:
    """Return a path for the JSON file; none of the files of the result exists yet."""
    stem = (
        f"{_PREFIX}{time:%Y%m%d-%H%M%S}_start{finder.start_lr:g}_end{finder.end_lr:g}"
        f"_iter{finder.num_iter}"
    )
    for number in itertools.count(1):
        path = finder_dir / f"{stem}{'' if number == 1 else f'_{number}'}.json"
        others = (path.with_suffix(".png"), path.with_suffix(".csv"), _trials_csv(path))
        if not any(file.exists() for file in (path, *others)):
            break
    return path


def _trials_csv(path: Path) -> Path:
    return path.with_name(f"{path.stem}_trials.csv")


def _save_trials(trials: TrialRuns, path: Path) -> SavedTrials:
    """Write the loss of each step beside the result at `path`."""
    rows = (
        (run.peak_lr, step, loss) for run in trials.runs for step, loss in enumerate(run.losses)
    )
    write_table(_trials_csv(path), ("peak_lr", "step", "loss"), rows)
    runs = tuple(
        SavedTrial(peak_lr=run.peak_lr, loss=loss if math.isfinite(loss) else None)
        for run, loss in ((run, run.final_loss) for run in trials.runs)
    )
    return SavedTrials(steps=trials.steps, runs=runs, losses=_trials_csv(path).name)
