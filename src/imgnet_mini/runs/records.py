"""Results of each epoch, as rows of `train_log.csv` and lines of `logs.md`."""

import csv
import io
import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Final, Literal, Self, get_args

from imgnet_mini.errors import DataError

Phase = Literal["train", "val", "ema"]
"""Training, validation of the network, and validation of its EMA weights."""

PHASE_NAMES: Final[dict[Phase, str]] = {"train": "train", "val": "validation", "ema": "EMA"}
"""Names in reports, in the order in which they are shown."""


@dataclass(frozen=True)
class EpochRecord:
    """One phase of an epoch; top-1 and top-5 in percent, the learning rate of the last step."""

    epoch: int
    phase: Phase
    loss: float
    top1: float
    top5: float
    lr: float
    imgs_per_sec: float

    @classmethod
    def from_row(cls, row: dict[str, str]) -> Self:
        """Read one row of `train_log.csv`.

        Raises:
            ValueError: a value is not valid.
        """
        found: dict[str, Phase] = {phase: phase for phase in get_args(Phase)}
        if row["phase"] not in found:
            raise ValueError(f"{row['phase']!r} is not a phase")
        numbers = {
            field.name: float(row[field.name])
            for field in fields(cls)
            if field.name not in ("epoch", "phase")
        }
        return cls(epoch=int(row["epoch"]), phase=found[row["phase"]], **numbers)

    def to_line(self) -> str:
        """Return the line of `logs.md` and of a piped terminal."""
        label = f"[{self.phase.capitalize()}]"
        return (
            f"{label} Epoch {self.epoch:03d} | loss {self.loss:.4f} | top1 {self.top1:.2f}% | "
            f"top5 {self.top5:.2f}% | lr {self.lr:.6f} | ips {self.imgs_per_sec:.1f}"
        )


def tagged_values(record: EpochRecord) -> dict[str, float]:
    """Return the results by their tags in TensorBoard, such as `val/top1`."""
    names = ("loss", "top1", "top5", "imgs_per_sec")
    return {f"{record.phase}/{name}": getattr(record, name) for name in names}


def select_phase(records: Iterable[EpochRecord], phase: Phase) -> list[EpochRecord]:
    """Return the records of one phase, in their order."""
    return [record for record in records if record.phase == phase]


def selection_records(records: Iterable[EpochRecord]) -> list[EpochRecord]:
    """Return the validation records that select the best epoch: EMA if any, else the network."""
    records = list(records)
    return select_phase(records, "ema") or select_phase(records, "val")


def best_record(records: Iterable[EpochRecord]) -> EpochRecord | None:
    """Return the first record with the highest top-1, NaN counting as lowest; None if empty."""
    return max(
        records,
        key=lambda record: -1.0 if math.isnan(record.top1) else record.top1,
        default=None,
    )


def to_csv(records: Iterable[EpochRecord]) -> str:
    """Return the text of `train_log.csv`; floats read back exactly."""
    text = io.StringIO()
    writer = csv.DictWriter(
        text, [field.name for field in fields(EpochRecord)], lineterminator="\n"
    )
    writer.writeheader()
    writer.writerows(asdict(record) for record in records)
    return text.getvalue()


def to_markdown(records: Iterable[EpochRecord]) -> str:
    """Return the text of `logs.md`: the lines in one fenced block."""
    return "\n".join(["```text", *(record.to_line() for record in records), "```", ""])


def read_csv(path: Path) -> list[EpochRecord]:
    """Read `train_log.csv`.

    Raises:
        DataError: the file is missing, or is not a training log.
    """
    try:
        with path.open(encoding="utf-8", newline="") as file:
            return [EpochRecord.from_row(row) for row in csv.DictReader(file)]
    except OSError as error:
        raise DataError(f"cannot read the training log {path}: {error.strerror}") from error
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{path} is not a training log of imgnet-mini ({error})") from error
