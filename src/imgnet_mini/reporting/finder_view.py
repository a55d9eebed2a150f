"""The learning-rate finder's newest result for a run, described in sentences."""

import math
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from imgnet_mini.config.run_config import RunConfig
from imgnet_mini.lr_finder.results import SavedSuggestion, latest_suggestion
from imgnet_mini.lr_finder.suggestions import LrRange, Method
from imgnet_mini.reporting.format import format_lr, relative_url
from imgnet_mini.reporting.redact import join_command, last_component, redact_command

_METHODS: Final[dict[Method, str]] = {
    "trials": "the best of a few short trainings",
    "ramp": "half of where the loss turns up again",
    "default": "the default of train",
    "turn": "where the loss turns up again",
    "steepest": "steepest descent",
    "valley": "valley",
    "minimum_over_10": "a tenth of the learning rate of the lowest loss",
}


@dataclass(frozen=True)
class Finder:
    """A range test that ended with a suggestion.

    plot: address of the PNG file, if it exists; command: of the range test, without folders.
    """

    result: SavedSuggestion
    plot: str | None
    command: str | None

    @property
    def lr(self) -> float:
        """The suggested peak learning rate."""
        return self.result.lr

    @property
    def problem(self) -> str | None:
        """Why the suggestion is doubtful."""
        return self.result.problem

    @property
    def words(self) -> list[str]:
        """The curve in sentences, from low to high learning rates."""
        flat, diverging = self.result.regions.flat, self.result.regions.diverging
        sentences = [
            self._describe_sweep(),
            flat
            and f"From {_format_range(flat)} the loss is flat: the steps are too small to learn.",
            self._describe_fall(),
            diverging
            and f"From {format_lr(diverging[0])} on it diverges: the steps are too large.",
        ]
        return [sentence for sentence in sentences if sentence]

    @property
    def suggestion(self) -> str:
        """The suggested peak, its method, and what the other methods suggest, in a sentence."""
        recommended = self.result.recommended
        method = f" ({_METHODS[recommended]})" if recommended else ""
        others = [
            f"{format_lr(lr)} ({_METHODS[other]})"
            for other, lr in self.result.suggestions.items()
            if other != recommended and lr is not None
        ]
        rest = f"; other methods suggest {' and '.join(others)}" if others else ""
        return f"The suggested peak is {format_lr(self.lr)}{method}{rest}."

    def _describe_sweep(self) -> str | None:
        result = self.result
        if result.start_lr is None or result.end_lr is None or result.num_iter is None:
            return None
        sweep = _format_range((result.start_lr, result.end_lr))
        text = f"The learning rate rose from {sweep} in {result.num_iter} steps"
        if result.steps is not None and result.steps < result.num_iter:
            return f"{text}; the test stopped after {result.steps} of them."
        return f"{text}."

    def _describe_fall(self) -> str | None:
        steepest, falling = self.result.suggestions.get("steepest"), self.result.regions.falling
        if falling is None:
            return f"The loss falls fastest near {format_lr(steepest)}." if steepest else None
        fastest = f", fastest near {format_lr(steepest)}" if steepest else ""
        return f"From {_format_range(falling)} it falls{fastest}."


def read_finder(folder: Path, name: str, page_dir: Path) -> Finder | None:
    """Read the newest result of the run `name` that suggests a learning rate; None without one.

    page_dir: folder of the page that shows the plot.

    Raises:
        DataError: a JSON file of the folder is damaged.
    """
    result = latest_suggestion(folder, name)
    if result is None:
        return None
    plot = sibling_file(result, result.plot)
    return Finder(
        result=_redact(result),
        plot=relative_url(plot, page_dir) if plot else None,
        command=join_command(redact_command(result.command)),
    )


def _redact(result: SavedSuggestion) -> SavedSuggestion:
    """Cut paths to their last part: a template of the user's own may show any field."""
    folder = result.settings.get("data_root")
    redacted: dict[str, Any] = {
        "command": redact_command(result.command),
        "train_command": join_command(redact_command(shlex.split(result.train_command or ""))),
        "plot": result.plot and last_component(result.plot),
        "curve": result.curve and last_component(result.curve),
        "settings": result.settings
        | ({"data_root": last_component(str(folder))} if folder else {}),
    }
    return result.model_copy(update=redacted)


def sibling_file(result: SavedSuggestion, name: str | None) -> Path | None:
    """Return a file beside the result if it exists; a name in another folder is not followed."""
    file = Path(name or "").name
    path = result.path.with_name(file) if file else None
    return path if path and path.is_file() else None


def peak_lr(config: RunConfig) -> float | None:
    """Return the peak learning rate of a run; None if it was not saved (`auto`)."""
    peak = _default_lr(config) if config.schedule.max_lr is None else config.schedule.max_lr
    return peak if isinstance(peak, float) else None


def describe_peak_lr(finder: Finder | None, config: RunConfig) -> str:
    """Return a sentence on the run's peak, its origin, and how it compares with the finder's."""
    peak = peak_lr(config)
    if peak is None:
        return "The run peaked at what the finder suggested then."
    is_default = math.isclose(peak, _default_lr(config), rel_tol=1e-6)
    origin = " (0.1 x batch size / 256, the default)" if is_default else ""
    text = f"The run peaked at {format_lr(peak)}{origin}"
    if finder is None:
        return f"{text}."
    # Methods other than these two look at the range test alone, whose ramp diverges earlier.
    is_from_range_test = finder.result.recommended not in ("trials", "default")
    diverging = finder.result.regions.diverging
    if is_from_range_test and diverging and peak >= diverging[0]:
        return f"{text}, {_compare_lr(peak, finder.lr)}: in the range where the loss diverges."
    return f"{text}, {_compare_lr(peak, finder.lr)}."


def was_suggested(peak: float | None, finder: Finder | None) -> bool:
    """Return True if a peak is the finder's, perhaps rounded by the user."""
    return bool(peak and finder and math.isclose(peak, finder.lr, rel_tol=0.05))


def _default_lr(config: RunConfig) -> float:
    return 0.1 * config.data.batch_size / 256


def _compare_lr(peak: float, suggestion: float) -> str:
    ratio = peak / suggestion
    if math.isclose(ratio, 1, rel_tol=1e-6):
        return "the finder's suggestion"
    if math.isclose(ratio, 1, rel_tol=0.05):
        return f"the finder's suggestion of {format_lr(suggestion)}, rounded"
    amount = f"{ratio:.2g}" if ratio < 99 else f"{ratio:,.0f}"
    return f"{amount} times the finder's suggestion of {format_lr(suggestion)}"


def _format_range(lrs: LrRange) -> str:
    return f"{format_lr(lrs[0])} to {format_lr(lrs[1])}"
