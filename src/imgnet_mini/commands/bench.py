"""bench: find what limits the training speed of this machine, and try other settings."""

import json
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from statistics import mean
from typing import Any, Final

from imgnet_mini.config.fields import available_cpus
from imgnet_mini.config.run_config import RunConfig, Tables
from imgnet_mini.data.folder import ImageFolder
from imgnet_mini.data.pack.format import open_pack
from imgnet_mini.data.pack.plan import make_plan
from imgnet_mini.data.pack.writer import write_pack
from imgnet_mini.data.splits import ImageSplits
from imgnet_mini.runs.logger import RunLogger
from imgnet_mini.runs.paths import RunPaths
from imgnet_mini.training.device import is_out_of_memory, less_memory, translate_torch_errors
from imgnet_mini.training.setup import Setup, build_setup, describe_environment
from imgnet_mini.training.step_undo import repeat_with_more_memory
from imgnet_mini.training.throughput import TrainingBenchmark
from imgnet_mini.training.train_state import StepLogger
from imgnet_mini.utils.console import format_bytes, print_lines, show_table
from imgnet_mini.utils.signals import StopRequest

ROUNDS: Final = 2
"""Number of measurements of loading, computing and both, if there is time."""

_MEASUREMENTS: Final = 18
"""The time is divided by this; slow machines take longer per measurement and make fewer."""

_PACKED_SAMPLE: Final = 512
"""Images to pack for measuring the speed of a pack."""

_NEGLIGIBLE: Final = 0.05


@dataclass(frozen=True)
class Throughput:
    """Images per second of loading alone, of the network alone, and of both together."""

    loading: float
    computing: float
    training: float

    @property
    def lost(self) -> float:
        """Share of the training time that loading adds to the network alone."""
        return max(0.0, 1 - self.training / self.computing)


@dataclass(frozen=True)
class SettingTrial:
    """Speed of training with one setting changed; ratio: to the speed without the change."""

    setting: str
    images_per_second: float | None
    ratio: float | None
    note: str = ""


@dataclass(frozen=True)
class BenchResult:
    """Measured speeds, what limits them (`limit`; `sentence` explains it), and settings tried."""

    rates: Throughput
    limit: str
    sentence: str
    trials: list[SettingTrial]


def run(config: RunConfig, *, seconds: float, as_json: bool) -> None:
    """Measure the speed, explain it, try other settings, and print the result.

    seconds: approximate duration; at least one round is measured.

    Raises:
        ConfigError, DataError: see `build_setup`.
        StoppedError: a signal arrived.
    """
    deadline = time.perf_counter() + seconds
    setup = build_setup(config, growing=False)
    setup.train_loader.close()
    with (
        tempfile.TemporaryDirectory() as folder,
        closing(RunLogger(RunPaths(Path(folder), "bench"), [], step=0)) as logger,
        translate_torch_errors(config.data.batch_size, less_memory=lambda: less_memory(config)),
        StopRequest(lambda name: f"bench stopped by {name}") as stop,
    ):
        bench = _Bench(config, setup, logger, stop, seconds / _MEASUREMENTS)
        rates = bench.measure(deadline)
        limit, sentence = explain_limit(rates, on_cpu=setup.device.type == "cpu")
        changes = bench.propose_changes(limit, Path(folder))
        trials = list(bench.try_changes(changes, deadline))
    result = BenchResult(rates, limit, sentence, trials)
    if as_json:
        print_lines(json.dumps(_content(config, setup, result), indent=2))
    else:
        _show(config, setup, result)


def explain_limit(rates: Throughput, *, on_cpu: bool) -> tuple[str, str]:
    """Return what limits the speed (`computing`, `loading` or `both`), and a sentence about it."""
    lost = f"{rates.lost:.0%}"
    if rates.lost < _NEGLIGIBLE:
        return "computing", (
            f"The network is the limit: loading costs {lost} of the time, so a faster loader would "
            "not help."
        )
    if rates.loading < rates.computing:
        return "loading", (
            f"Loading is the limit: {rates.loading:.0f} images/s, while the network could process "
            f"{rates.computing:.0f}. It idles {lost} of the time."
        )
    if on_cpu:
        return "both", (f"Loading and the network share the CPU; loading takes {lost} of the time.")
    return "both", (
        f"Loading alone is fast enough ({rates.loading:.0f} images/s), but while the network runs "
        f"it costs {lost} of the time."
    )


@dataclass(frozen=True)
class _Change:
    setting: str
    config: RunConfig
    images: ImageSplits
    note: str = ""


@dataclass
class _Bench:
    """Measures the given settings and changes to them.

    seconds: of one measurement; round_seconds: of the last round of three.
    """

    config: RunConfig
    setup: Setup
    logger: StepLogger
    stop: StopRequest
    seconds: float
    round_seconds: float = 0.0

    def measure(self, deadline: float) -> Throughput:
        """Measure loading, computing and both in turn, so that a slow moment affects all."""
        rounds: list[tuple[float, float, float]] = []
        with closing(self._benchmark(self.config, self.setup.images)) as benchmark:
            batch = benchmark.fixed_batch()
            while len(rounds) < ROUNDS and (not rounds or self._has_time(deadline)):
                began = time.perf_counter()
                loading = benchmark.loading(self.seconds)
                computing = benchmark.training(self.seconds, batch)
                rounds.append((loading, computing, benchmark.training(self.seconds)))
                self.round_seconds = time.perf_counter() - began
        return Throughput(*map(mean, zip(*rounds, strict=True)))

    def propose_changes(self, limit: str, folder: Path) -> Iterator[_Change]:
        """Yield changes that may help, the most promising first; packs a sample into `folder`."""
        config, images = self.config, self.setup.images
        if images.pack is None:
            yield self._pack_sample(folder)
            workers = config.data.workers
            others = {max(1, workers // 2), min(2 * workers, available_cpus())} - {workers, 0}
            for count in sorted(others, reverse=limit == "loading"):
                yield self._change(f"--workers {count}", {"data": {"workers": count}})
        if self.setup.precision.dtype is None:
            yield self._change("--amp", {"runtime": {"amp": True}})
        double = 2 * config.data.batch_size
        if double <= len(images.train):
            yield self._change(
                f"--batch-size {double}",
                {"data": {"batch_size": double}},
                note="changes the training: fewer steps, which need a higher --max-lr",
            )

    def try_changes(self, changes: Iterator[_Change], deadline: float) -> Iterator[SettingTrial]:
        """Measure each change against the given settings, while there is time."""
        with closing(self._benchmark(self.config, self.setup.images)) as baseline:
            for change in changes:
                if not self._has_time(deadline):
                    yield SettingTrial(change.setting, None, None, "not tried: no time left")
                    continue
                try:
                    yield repeat_with_more_memory(
                        partial(self._try, change, baseline), baseline.loader
                    )
                except RuntimeError as error:
                    if not is_out_of_memory(error):
                        raise
                    yield SettingTrial(change.setting, None, None, "out of memory")
        if not self.config.runtime.compile:
            yield SettingTrial(
                "--compile", None, None, "not tried: compiling takes a minute or more"
            )

    def _has_time(self, deadline: float) -> bool:
        """Return whether another round, or a change, which takes about as long, fits the time."""
        return time.perf_counter() + self.round_seconds < deadline

    def _try(self, change: _Change, baseline: TrainingBenchmark) -> SettingTrial:
        before = baseline.training(self.seconds)
        with closing(self._benchmark(change.config, change.images)) as benchmark:
            after = benchmark.training(self.seconds)
        return SettingTrial(change.setting, after, after / before, change.note)

    def _benchmark(self, config: RunConfig, images: ImageSplits) -> TrainingBenchmark:
        return TrainingBenchmark(config, images, self.setup.model, self.logger, self.stop)

    def _change(self, setting: str, changes: Tables, note: str = "") -> _Change:
        return _Change(setting, self.config.override(changes), self.setup.images, note)

    def _pack_sample(self, folder: Path) -> _Change:
        """Pack a sample of the training images."""
        images = self.setup.images
        count = max(_PACKED_SAMPLE, 2 * self.config.data.batch_size)
        train, val = _sample(images.train, count), _sample(images.val, 1)
        data = self.config.data
        plan = make_plan(train, val, pack_size=None, img_size=data.img_size, decoding=data.decoding)
        began = time.perf_counter()
        write_pack(plan, folder / "pack", skip=True, on_image=lambda *_: self.stop.check())
        seconds = (time.perf_counter() - began) / len(train)
        total = len(images.train) + len(images.val)
        size = replace(plan, splits={"train": images.train, "val": images.val}).nbytes
        pack = open_pack(folder / "pack", train, val)
        return _Change(
            "imgnet-mini prepare",
            self.config,
            ImageSplits(pack.train.images, pack.val.images, pack),
            note=f"once, about {_duration(seconds * total)} and {format_bytes(size)} of disk",
        )


def _sample(images: ImageFolder, count: int) -> ImageFolder:
    """Return every n-th image, about `count` in all."""
    step = max(1, len(images) // count)
    return replace(images, files=images.files[::step], targets=images.targets[::step])


def _show(config: RunConfig, setup: Setup, result: BenchResult) -> None:
    environment = describe_environment(setup)
    rates = result.rates
    show_table(
        f"{config.model.arch}, batches of {config.data.batch_size} at {config.data.img_size} px, "
        f"{setup.precision.name}, {environment['loader']}, {environment['device']}",
        ["measured", "images/s"],
        [
            ["loading alone", f"{rates.loading:.0f}"],
            ["network alone, on one batch", f"{rates.computing:.0f}"],
            ["both together, as in train", f"{rates.training:.0f}"],
        ],
    )
    print_lines(
        *setup.images.notes,
        result.sentence,
        f"Training time of an epoch: {_duration(len(setup.images.train) / rates.training)}.",
    )
    rows = [
        [
            trial.setting,
            "" if trial.images_per_second is None else f"{trial.images_per_second:.0f}",
            "" if trial.ratio is None else f"{trial.ratio:.2f}",
            trial.note,
        ]
        for trial in sorted(result.trials, key=lambda trial: -(trial.ratio or 0))
    ]
    if rows:
        show_table("Other settings", ["setting", "images/s", "speedup", "note"], rows)


def _content(config: RunConfig, setup: Setup, result: BenchResult) -> dict[str, Any]:
    return {
        **asdict(result),
        "lost_to_loading": result.rates.lost,
        "epoch_seconds": len(setup.images.train) / result.rates.training,
        "settings": config.model_dump(mode="json", include={"data", "model", "runtime"}),
        "notes": list(setup.images.notes),
        "environment": describe_environment(setup),
    }


def _duration(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
