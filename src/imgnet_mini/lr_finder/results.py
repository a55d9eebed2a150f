"""The files of a range test: plot, curve and suggestions."""

import csv
import io
import itertools
import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from imgnet_mini.config.settings import FinderConfig
from imgnet_mini.errors import DataError
from imgnet_mini.lr_finder.curve import Curve
from imgnet_mini.lr_finder.plot import draw_range_test
from imgnet_mini.lr_finder.suggestions import Suggestions, explain
from imgnet_mini.lr_finder.trials import Trials
from imgnet_mini.utils.atomic_file import write_text

_PREFIX = "lr_finder_"


@dataclass(frozen=True)
class FinderResult:
    """A range test and what it was made with.

    name: of the run that it is for.
    settings: of the network, the data and the training step, as JSON has them.
    trials: the short trainings; None where none were made.
    command: the words of the command that made it.
    options: what follows `imgnet-mini train --max-lr RATE` for the same run, such as ` --name a`.
    """

    name: str
    finder: FinderConfig
    curve: Curve
    suggestions: Suggestions
    settings: dict[str, Any]
    trials: Trials | None = None
    command: tuple[str, ...] = ()
    options: str = ""

    @property
    def train_command(self) -> str | None:
        """The line that trains at the recommended rate; None where none is recommended."""
        lr = self.suggestions.lr
        return None if lr is None else f"imgnet-mini train --max-lr {lr:.3g}{self.options}"


@dataclass(frozen=True)
class SavedPaths:
    """The files of one result; that of the trials is there where they are."""

    plot: Path
    curve: Path
    trials: Path
    json: Path


@dataclass(frozen=True)
class SavedSuggestion:
    """The recommended rate of an earlier range test.

    lr: above 0.
    settings: what it was made with; empty where the file does not tell.
    """

    lr: float
    method: str
    time: str
    settings: dict[str, Any]
    path: Path


def save_result(result: FinderResult, finder_dir: Path, stamp: datetime) -> SavedPaths:
    """Write plot, CSV and JSON under names that are still free; the JSON last.

    Raises:
        WriteError: a file cannot be written.
    """
    paths = _free_paths(result.finder, finder_dir, stamp)
    draw_range_test(
        result.curve, result.suggestions, result.settings, paths.plot, trials=result.trials
    )
    write_text(paths.curve, _curve_csv(result.curve))
    content = _to_json(result, stamp) | {"plot": paths.plot.name, "curve": paths.curve.name}
    if result.trials:
        write_text(paths.trials, _trials_csv(result.trials))
        content["trials"]["losses"] = paths.trials.name
    write_text(
        paths.json, json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    )
    return paths


def latest_suggestion(finder_dir: Path, name: str) -> SavedSuggestion | None:
    """The newest recommended rate for the run `name`; other programs' files are not looked at.

    Raises:
        DataError: a result cannot be read or is damaged, so that a newer rate may be missed.
    """
    results = [(path, _read(path)) for path in sorted(finder_dir.glob(f"{_PREFIX}*.json"))]
    found = [
        SavedSuggestion(
            lr=float(content["lr"]),
            method=str(content.get("recommended")),
            time=str(content.get("time")),
            settings=dict(content.get("settings") or {}),
            path=path,
        )
        for path, content in results
        if content.get("name") == name and content.get("lr") is not None
    ]
    return max(found, key=lambda one: (one.time, one.path.name), default=None)


def _free_paths(finder: FinderConfig, finder_dir: Path, stamp: datetime) -> SavedPaths:
    base = (
        f"{_PREFIX}{stamp:%Y%m%d-%H%M%S}_start{finder.start_lr:g}_end{finder.end_lr:g}"
        f"_iter{finder.num_iter}"
    )
    for number in itertools.count(1):
        stem = base if number == 1 else f"{base}_{number}"
        endings = (".png", ".csv", "_trials.csv", ".json")
        paths = [finder_dir / f"{stem}{ending}" for ending in endings]
        if not any(path.exists() for path in paths):
            break
    return SavedPaths(*paths)


def _curve_csv(curve: Curve) -> str:
    """One row a step."""
    columns = (curve.lrs, curve.losses, curve.smoothed)
    rows = zip(*(column.tolist() for column in columns), strict=True)
    return _to_csv(("lr", "loss", "smoothed"), rows)


def _trials_csv(trials: Trials) -> str:
    """One row a step of each trial, which its peak rate names."""
    rows = ((run.lr, step, loss) for run in trials.runs for step, loss in enumerate(run.losses))
    return _to_csv(("peak_lr", "step", "loss"), rows)


def _to_csv(headings: Sequence[str], rows: Iterable[Sequence[float]]) -> str:
    """Floats are written so that reading gives them back exactly."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(headings)
    writer.writerows(rows)
    return text.getvalue()


def _to_json(result: FinderResult, stamp: datetime) -> dict[str, Any]:
    suggestions = result.suggestions
    return {
        "name": result.name,
        "time": stamp.isoformat(timespec="microseconds"),
        "start_lr": result.finder.start_lr,
        "end_lr": result.finder.end_lr,
        "num_iter": result.finder.num_iter,
        "steps": len(result.curve.lrs),
        "stopped": result.curve.stopped,
        "suggestions": suggestions.rates,
        "recommended": suggestions.recommended,
        "lr": suggestions.lr,
        "training_steps": suggestions.steps,
        "reason": explain(suggestions, result.trials),
        "trials": result.trials and _trials_json(result.trials),
        "problem": suggestions.problem,
        "regions": asdict(suggestions.regions),
        "settings": result.settings,
        "command": list(result.command),
        "train_command": result.train_command,
    }


def _trials_json(trials: Trials) -> dict[str, Any]:
    """A loss that was not finite is null."""
    runs = [
        {"peak_lr": run.lr, "loss": run.loss if math.isfinite(run.loss) else None}
        for run in trials.runs
    ]
    return {"steps": trials.steps, "runs": runs}


def _read(path: Path) -> dict[str, Any]:
    """A result whose `lr` is null or a rate."""
    try:
        content = json.loads(path.read_bytes())
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is not a JSON file ({error}); remove it") from error
    lr = content.get("lr") if isinstance(content, dict) else ""
    is_rate = isinstance(lr, float | int) and not isinstance(lr, bool) and 0 < lr < float("inf")
    if not (lr is None or is_rate):
        raise DataError(f"{path} is not a result of find-lr; remove it, or run find-lr again")
    return dict(content)
