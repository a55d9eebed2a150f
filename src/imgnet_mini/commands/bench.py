"""Say what limits the speed of training on this machine, and try what would lift it."""

import json
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import mean
from typing import Any, Final

import torch

from imgnet_mini.config.fields import available_cpus
from imgnet_mini.config.run_config import RunConfig, Tables
from imgnet_mini.data.folder import ImageFolder
from imgnet_mini.data.open import ImageSplits
from imgnet_mini.data.pack.format import open_pack
from imgnet_mini.data.pack.plan import make_plan
from imgnet_mini.data.pack.writer import write_pack
from imgnet_mini.errors import StoppedError
from imgnet_mini.runs.logger import RunLogger
from imgnet_mini.runs.paths import RunPaths
from imgnet_mini.training.environment import describe_environment
from imgnet_mini.training.setup import Setup, build_setup
from imgnet_mini.training.throughput import TrainingBenchmark
from imgnet_mini.training.torch_errors import translate_torch_errors
from imgnet_mini.utils.console import format_bytes, print_lines, show_table
from imgnet_mini.utils.signals import StopRequest, StopRequestedError

ROUNDS: Final = 2
"""How often loading, computing and both are measured, in turn, if there is time."""

_STRETCHES: Final = 18
"""Into so many stretches the time is cut; slow machines take longer ones, and fewer trials."""

_SAMPLE: Final = 512
"""Images that are packed to see what a pack would bring."""

_NEGLIGIBLE: Final = 0.05


@dataclass(frozen=True)
class Rates:
    """Images per second of loading alone, of the network alone, and of both together."""

    loading: float
    computing: float
    training: float

    @property
    def lost(self) -> float:
        """Share of the time that training takes longer than the network alone."""
        return max(0.0, 1 - self.training / self.computing)


@dataclass(frozen=True)
class Trial:
    """Training under one changed setting; ratio: against today's, measured just before."""

    setting: str
    images_per_second: float | None
    ratio: float | None
    note: str = ""


@dataclass(frozen=True)
class Findings:
    """What was measured, what it means, and what else was tried."""

    rates: Rates
    limit: str
    sentence: str
    trials: list[Trial]

    def epoch_seconds(self, images: int) -> float:
        """How long training takes for so many images."""
        return images / self.rates.training


def run(config: RunConfig, *, seconds: float, as_json: bool) -> None:
    """Measure, explain, try, and print.

    seconds: about how long to take; one round is taken all the same.

    Raises:
        ConfigError, DataError: see `build_setup`.
        StoppedError: a signal has come.
    """
    deadline = time.perf_counter() + seconds
    setup = build_setup(config, growing=False)
    setup.train_loader.close()
    with (
        tempfile.TemporaryDirectory() as folder,
        closing(RunLogger(RunPaths(Path(folder), "bench"), [], step=0)) as logger,
        translate_torch_errors(config.data.batch_size),
        StopRequest() as stop,
    ):
        bench = _Bench(config, setup, logger, stop, seconds / _STRETCHES)
        try:
            rates = bench.measure(deadline)
            limit, sentence = explain(rates, on_cpu=setup.device.type == "cpu")
            candidates = bench.candidates(limit, Path(folder))
            trials = list(bench.tried(candidates, deadline))
        except StopRequestedError as error:
            raise StoppedError(f"bench stopped by {error}", error.signal_number) from error
    findings = Findings(rates, limit, sentence, trials)
    if as_json:
        print_lines(json.dumps(_content(config, setup, findings), indent=2))
    else:
        _show(config, setup, findings)


def explain(rates: Rates, *, on_cpu: bool) -> tuple[str, str]:
    """What limits the speed, in a word (`computing`, `loading` or `both`) and in a sentence."""
    lost = f"{rates.lost:.0%}"
    if rates.lost < _NEGLIGIBLE:
        return "computing", (
            f"The network sets the pace: loading costs {lost} of the time, so that no loader "
            "could lift the speed."
        )
    if rates.loading < rates.computing:
        return "loading", (
            f"Loading sets the pace: {rates.loading:.0f} images arrive a second, the network "
            f"would take {rates.computing:.0f}, and so it stands still {lost} of the time."
        )
    if on_cpu:
        return "both", (
            f"Loading and the network share the processor, and loading takes {lost} of the time."
        )
    return "both", (
        f"Loading is quick enough alone ({rates.loading:.0f} images a second), but beside the "
        f"network's work on the host it costs {lost} of the time."
    )


@dataclass(frozen=True)
class _Candidate:
    setting: str
    config: RunConfig
    images: ImageSplits
    note: str = ""


class _Bench:
    """Today's settings under measurement, and others beside them."""

    def __init__(
        self,
        config: RunConfig,
        setup: Setup,
        logger: RunLogger,
        stop: StopRequest,
        seconds: float,
    ) -> None:
        self._config = config
        self._setup = setup
        self._history = logger
        self._stop = stop
        self._seconds = seconds
        self._round_seconds = 0.0

    def measure(self, deadline: float) -> Rates:
        """Take loading, computing and both in turn, so that a slow moment meets all of them."""
        rounds: list[tuple[float, float, float]] = []
        with closing(self._subject(self._config, self._setup.images)) as subject:
            batch = subject.fixed_batch()
            while len(rounds) < ROUNDS and (not rounds or self._has_time(deadline)):
                began = time.perf_counter()
                loading = subject.loading(self._seconds)
                computing = subject.training(self._seconds, batch)
                rounds.append((loading, computing, subject.training(self._seconds)))
                self._round_seconds = time.perf_counter() - began
        return Rates(*map(mean, zip(*rounds, strict=True)))

    def candidates(self, limit: str, folder: Path) -> Iterator[_Candidate]:
        """What may help, the most promising first; a sample is packed into the folder."""
        config, images = self._config, self._setup.images
        if images.pack is None:
            yield self._packed(folder)
            workers = config.data.workers
            others = {max(1, workers // 2), min(2 * workers, available_cpus())} - {workers, 0}
            for count in sorted(others, reverse=limit == "loading"):
                yield self._changed(f"--workers {count}", {"data": {"workers": count}})
        if self._setup.precision.dtype is None:
            yield self._changed("--amp", {"runtime": {"amp": True}})
        double = 2 * config.data.batch_size
        if double <= len(images.train):
            yield self._changed(
                f"--batch-size {double}",
                {"data": {"batch_size": double}},
                note="another run: fewer steps, and a higher --max-lr to go with them",
            )

    def tried(self, candidates: Iterator[_Candidate], deadline: float) -> Iterator[Trial]:
        """Each candidate beside today's settings, as long as there is time."""
        with closing(self._subject(self._config, self._setup.images)) as today:
            for candidate in candidates:
                if not self._has_time(deadline):
                    yield Trial(candidate.setting, None, None, "not tried: no time left")
                    continue
                try:
                    yield self._try(candidate, today)
                except torch.OutOfMemoryError:
                    yield Trial(candidate.setting, None, None, "does not fit the memory")
        if not self._config.runtime.compile:
            yield Trial(
                "--compile", None, None, "not tried: compiling alone takes a minute or more"
            )

    def _has_time(self, deadline: float) -> bool:
        """Whether one more round, or a trial, which takes about as long, would end in time."""
        return time.perf_counter() + self._round_seconds < deadline

    def _try(self, candidate: _Candidate, today: TrainingBenchmark) -> Trial:
        before = today.training(self._seconds)
        with closing(self._subject(candidate.config, candidate.images)) as subject:
            after = subject.training(self._seconds)
        return Trial(candidate.setting, after, after / before, candidate.note)

    def _subject(self, config: RunConfig, images: ImageSplits) -> TrainingBenchmark:
        return TrainingBenchmark(config, images, self._setup.model, self._history, self._stop)

    def _changed(self, setting: str, changes: Tables, note: str = "") -> _Candidate:
        return _Candidate(setting, self._config.override(changes), self._setup.images, note)

    def _packed(self, folder: Path) -> _Candidate:
        """A pack of a sample of the training images."""
        images = self._setup.images
        count = max(_SAMPLE, 2 * self._config.data.batch_size)
        train, val = _sample(images.train, count), _sample(images.val, 1)
        plan = make_plan(train, val, pack_size=None, img_size=self._config.data.img_size)
        began = time.perf_counter()
        write_pack(plan, folder / "pack", skip=True, on_image=lambda *_: self._stop.check())
        seconds = (time.perf_counter() - began) / len(train)
        total = len(images.train) + len(images.val)
        size = replace(plan, splits={"train": images.train, "val": images.val}).nbytes
        pack = open_pack(folder / "pack", train, val)
        return _Candidate(
            "imgnet-mini prepare",
            self._config,
            ImageSplits(pack.train.images, pack.val.images, pack),
            note=f"once, about {_duration(seconds * total)} and {format_bytes(size)} of disk",
        )


def _sample(images: ImageFolder, count: int) -> ImageFolder:
    """Every n-th image, so that about so many remain."""
    step = max(1, len(images) // count)
    return replace(images, files=images.files[::step], targets=images.targets[::step])


def _show(config: RunConfig, setup: Setup, findings: Findings) -> None:
    environment = describe_environment(setup)
    rates = findings.rates
    show_table(
        f"{config.model.arch}, batches of {config.data.batch_size} at {config.data.img_size} px, "
        f"{setup.precision.name}, {environment['loader']}, {environment['device']}",
        ["measured", "images/s"],
        [
            ["loading alone", f"{rates.loading:.0f}"],
            ["network alone, one batch again and again", f"{rates.computing:.0f}"],
            ["both together, as train runs", f"{rates.training:.0f}"],
        ],
    )
    print_lines(
        *setup.images.notes,
        findings.sentence,
        f"An epoch trains for {_duration(findings.epoch_seconds(len(setup.images.train)))}.",
    )
    rows = [
        [
            trial.setting,
            "" if trial.images_per_second is None else f"{trial.images_per_second:.0f}",
            "" if trial.ratio is None else f"{trial.ratio:.2f}",
            trial.note,
        ]
        for trial in sorted(findings.trials, key=lambda trial: -(trial.ratio or 0))
    ]
    if rows:
        show_table("What would change it", ["setting", "images/s", "times today's", ""], rows)


def _content(config: RunConfig, setup: Setup, findings: Findings) -> dict[str, Any]:
    return {
        **asdict(findings),
        "lost_to_loading": findings.rates.lost,
        "epoch_seconds": findings.epoch_seconds(len(setup.images.train)),
        "settings": config.model_dump(mode="json", include={"data", "model", "runtime"}),
        "notes": list(setup.images.notes),
        "environment": describe_environment(setup),
    }


def _duration(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
