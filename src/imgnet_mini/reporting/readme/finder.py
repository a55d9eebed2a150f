"""The learning-rate finder's newest result for a run, and what it says in words."""

import math
from dataclasses import dataclass
from pathlib import Path

from imgnet_mini.config.run_config import RunConfig
from imgnet_mini.errors import DataError
from imgnet_mini.reporting.readme.json_file import JsonFile, read_json
from imgnet_mini.reporting.readme.markdown import link, rate
from imgnet_mini.reporting.readme.redact import recorded_command

RULES = {
    "trials": "the best of a few short trainings",
    "default": "what training takes by itself",
    "turn": "where the loss turns up again",
    "steepest": "steepest descent",
    "valley": "valley",
    "minimum_over_10": "a tenth of the rate of the lowest loss",
}
"""The finder's rules and their names in a sentence."""

Range = tuple[float, float]


@dataclass(frozen=True)
class Finder:
    """A range test that ended with a suggestion. None: not recorded, or not found in the curve.

    suggestions: rule to rate, of those in `RULES` that gave one.
    recommended: the rule whose rate is `lr`.
    flat, falling, diverging: lowest and highest rate of that part of the curve.
    plot: address of the picture.
    """

    lr: float
    recommended: str | None
    suggestions: dict[str, float]
    start_lr: float | None
    end_lr: float | None
    num_iter: int | None
    steps: int | None
    flat: Range | None
    falling: Range | None
    diverging: Range | None
    problem: str | None
    plot: str | None
    command: str | None

    @property
    def words(self) -> list[str]:
        """The curve in sentences, from the low rates to the high ones."""
        sentences = [
            self._sweep(),
            self.flat
            and f"From {_span(self.flat)} the loss is flat: steps this small teach the network "
            "next to nothing.",
            self._fall(),
            self.diverging
            and f"From {rate(self.diverging[0])} on it diverges: the steps overshoot.",
        ]
        return [sentence for sentence in sentences if sentence]

    @property
    def suggestion(self) -> str:
        """The suggested peak, the rule it comes from, and what the others would give."""
        rule = f" ({RULES[self.recommended]})" if self.recommended else ""
        others = [
            f"{rate(lr)} ({RULES[other]})"
            for other, lr in self.suggestions.items()
            if other != self.recommended
        ]
        instead = f"; other rules give {' and '.join(others)}" if others else ""
        return f"The suggested peak is {rate(self.lr)}{rule}{instead}."

    def _sweep(self) -> str | None:
        if self.start_lr is None or self.end_lr is None or self.num_iter is None:
            return None
        text = f"The rate rose from {_span((self.start_lr, self.end_lr))} in {self.num_iter} steps"
        if self.steps is not None and self.steps < self.num_iter:
            return f"{text}; the test stopped after {self.steps} of them."
        return f"{text}."

    def _fall(self) -> str | None:
        steepest = self.suggestions.get("steepest")
        if self.falling is None:
            return f"The loss falls fastest near {rate(steepest)}." if steepest else None
        fastest = f", fastest near {rate(steepest)}" if steepest else ""
        return f"From {_span(self.falling)} it falls{fastest}."


def read_finder(folder: Path, name: str, readme_dir: Path) -> Finder | None:
    """The newest result of the run `name` that suggests a rate, if there is one.

    Raises:
        DataError: a JSON file of the folder is damaged.
    """
    result = newest_result(folder, name)
    return None if result is None else _from_json(result, readme_dir)


def newest_result(folder: Path, name: str) -> JsonFile | None:
    """The file of the newest range test of the run `name` that suggests a rate.

    Raises:
        DataError: a JSON file of the folder is damaged.
    """
    results = [read_json(path) for path in sorted(folder.glob("lr_finder_*.json"))]
    usable = [
        result
        for result in results
        if result.values.get("name") == name and (result.number("lr") or 0) > 0
    ]
    return max(usable, key=lambda one: (one.text("time") or "", one.path.name), default=None)


def peak_lr(config: RunConfig) -> float | None:
    """The peak learning rate of a run; None where only the finder of that day knew it."""
    peak = _rule(config) if config.schedule.max_lr is None else config.schedule.max_lr
    return peak if isinstance(peak, float) else None


def peak_words(finder: Finder | None, config: RunConfig) -> str:
    """The peak of the run's rate, where it comes from, and how it compares with the finder's."""
    peak = peak_lr(config)
    if peak is None:
        return "The run peaked at what the finder suggested then."
    by_rule = math.isclose(peak, _rule(config), rel_tol=1e-6)
    origin = " (0.1 x batch size / 256, the default)" if by_rule else ""
    text = f"The run peaked at {rate(peak)}{origin}"
    if finder is None:
        return f"{text}."
    # The others go beyond what the ramp bears.
    cautious = finder.recommended not in ("trials", "default")
    if cautious and finder.diverging and peak >= finder.diverging[0]:
        return f"{text}, {_factor(peak, finder.lr)}: in the range where the loss diverges."
    return f"{text}, {_factor(peak, finder.lr)}."


def was_suggested(peak: float | None, finder: Finder | None) -> bool:
    """Whether a peak is the finder's, perhaps rounded by who typed it."""
    return bool(peak and finder and math.isclose(peak, finder.lr, rel_tol=0.05))


def _rule(config: RunConfig) -> float:
    return 0.1 * config.data.batch_size / 256


def _factor(peak: float, suggestion: float) -> str:
    ratio = peak / suggestion
    if math.isclose(ratio, 1, rel_tol=1e-6):
        return "the finder's suggestion"
    if math.isclose(ratio, 1, rel_tol=0.05):
        return f"the finder's suggestion of {rate(suggestion)}, rounded"
    amount = f"{ratio:.2g}" if ratio < 99 else f"{ratio:,.0f}"
    times = f"{amount} times" if ratio > 1 else f"{amount} of"
    return f"{times} the finder's suggestion of {rate(suggestion)}"


def _span(span: Range) -> str:
    return f"{rate(span[0])} to {rate(span[1])}"


def _from_json(result: JsonFile, readme_dir: Path) -> Finder:
    suggestions = result.table("suggestions")
    given = {rule: suggestions.number(rule) for rule in RULES}
    recommended = result.text("recommended")
    regions = result.table("regions")
    return Finder(
        lr=result.number("lr") or 0.0,
        recommended=recommended if recommended in RULES else None,
        suggestions={rule: lr for rule, lr in given.items() if lr is not None},
        start_lr=result.number("start_lr"),
        end_lr=result.number("end_lr"),
        num_iter=result.count("num_iter"),
        steps=result.count("steps"),
        flat=_range(regions, "flat"),
        falling=_range(regions, "falling"),
        diverging=_range(regions, "diverging"),
        problem=result.text("problem"),
        plot=_plot(result, readme_dir),
        command=recorded_command(result.values.get("command")),
    )


def _range(regions: JsonFile, key: str) -> Range | None:
    match regions.items(key):
        case [int() | float() as low, int() | float() as high]:
            return float(low), float(high)
        case []:
            return None
    raise DataError(f"{regions.path}: the region {key!r} should be a lowest and a highest rate")


def _plot(result: JsonFile, readme_dir: Path) -> str | None:
    """The picture beside the result; a name that leads elsewhere is not followed."""
    name = Path(result.text("plot") or "").name
    path = result.path.with_name(name) if name else None
    return link(path, readme_dir) if path and path.is_file() else None
