"""The long counts of the reliability tests, and one table; `nox -s soak` runs it.

    python tests/soak.py [--part NAME ...] [--scale 1.0]

Each part does what a test of the suite does, many more times. It ends with exit code 1 where
a goal is missed. strace and root are used where they are to be had.
"""

import argparse
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

os.environ.setdefault("OMP_NUM_THREADS", "1")

from conftest import squeezed, write_folder
from helpers.checkpoints import damage, store_at
from helpers.faults import ERRORS, fault_at, faults_from, traced
from helpers.mutations import mutate_images
from helpers.outcomes import differences, outcome
from helpers.payloads import mutate_checkpoint
from helpers.rank_runs import kill_ranks_until_done, run_ranks
from helpers.real_runs import RealRun, Tally, kill_until_done, run
from imgnet_mini.checkpoint.store import CheckpointStore
from imgnet_mini.errors import CheckpointError, WriteError
from imgnet_mini.runs.paths import RunPaths
from imgnet_mini.utils.atomic_file import remove_temporary_files


class Row(NamedTuple):
    """A line of the table."""

    what: str
    trials: str
    result: str
    reached: bool


def options(data: Path, arch: str, *more: object) -> tuple[object, ...]:
    return (
        *("--data-root", data, "--arch", arch, "--img-size", 32, "--name", "a", "--epochs", 3),
        *("--batch-size", 6, "--workers", 0, "--max-lr", 0.02, "--loader", "folder", *more),
    )


def kills(folder: Path, scale: float) -> list[Row]:
    wanted = max(1, round(100 * scale))
    data = write_folder(folder / "data", train=8, val=3, classes=3)
    command = ("train", "--resume", *options(data, "resnet18", "--save-minutes", 1e-9))
    assert run(folder / "first", "--version") == 0  # the server has to start
    began = time.monotonic()
    assert run(folder / "whole", *command, read_seconds=0) == 0
    seconds = time.monotonic() - began
    reference = outcome(folder / "whole", "a")
    generator = random.Random(0)
    tally, runs, equal = Tally(), 0, 0
    while tally.kills < wanted:
        place = folder / f"killed-{runs}"
        most = min(10, wanted - tally.kills)
        new = kill_until_done(place, command, generator, seconds, most=most, read_seconds=0)
        tally = Tally(tally.kills + new.kills, tally.in_saves + new.in_saves)
        runs += 1
        equal += differences(outcome(place, "a"), reference) == []
        shutil.rmtree(place)
    result = f"{equal} of {runs} finished runs bit-identical; {tally.in_saves} inside a save"
    reached = equal == runs and tally.in_saves >= 0.3 * tally.kills
    return [Row("SIGKILL at a random moment, resumed", f"{tally.kills} kills", result, reached)]


def killed_ranks(folder: Path, scale: float) -> list[Row]:
    """Kill one of two ranks, end the other as torchrun does, and start both again."""
    wanted = max(1, round(30 * scale))
    data = write_folder(folder / "data", train=8, val=3, classes=3)
    command = ("train", "--resume", *options(data, "resnet18", "--save-minutes", 1e-9))
    began = time.monotonic()
    assert run_ranks(folder / "whole", 2, *command, read_seconds=0) == [0, 0]
    seconds = time.monotonic() - began
    reference = outcome(folder / "whole", "a")
    generator = random.Random(0)
    kills = runs = equal = 0
    slowest = 0.0
    while kills < wanted:
        place = folder / f"killed-{runs}"
        most = min(10, wanted - kills)
        new, wait = kill_ranks_until_done(place, command, generator, seconds, most=most)
        kills, slowest, runs = kills + new, max(slowest, wait), runs + 1
        equal += differences(outcome(place, "a"), reference) == []
        shutil.rmtree(place)
    result = f"{equal} of {runs} finished runs bit-identical; the other gone within {slowest:.1f} s"
    reached = equal == runs and slowest < 15
    return [
        Row("SIGKILL to one of two ranks, both started again", f"{kills} kills", result, reached)
    ]


def stops(folder: Path, scale: float) -> list[Row]:
    data = write_folder(folder / "data", train=8, val=3, classes=3)
    command = ("train", *options(data, "squeezenet1_1"))
    assert run(folder / "whole", *command) == 0
    reference = outcome(folder / "whole", "a")
    places = range(1, max(2, round(18 * scale)) + 1)
    equal = 0
    for place in places:
        part = folder / str(place)
        assert run(part, *command, signal_at=place) == 143
        assert run(part, "resume", "--name", "a", "--workers", place % 4) == 0
        equal += differences(outcome(part, "a"), reference) == []
    trials = f"{len(places)} places x 0 to 3 workers"
    result = f"{equal} bit-identical"
    return [Row("SIGTERM after every step and in validation", trials, result, equal == len(places))]


def repeated(folder: Path, scale: float) -> list[Row]:
    data = write_folder(folder / "data", train=8, val=3, classes=3)
    count = max(2, round(10 * scale))
    digests = set()
    for number in range(count):
        place = folder / str(number)
        assert run(place, "train", *options(data, "shufflenet_v2_x0_5")) == 0
        text = (place / "terminal.log").read_text("utf-8")
        digests.add(re.search(r"Final weights sha256 ([0-9a-f]{64})", text)[1])
    result = f"{len(digests)} outcome"
    return [Row("The same command again", f"{count} runs", result, len(digests) == 1)]


def signals(folder: Path, scale: float) -> list[Row]:
    data = write_folder(folder / "data", train=8, val=3, classes=3)
    rows = []
    for number in (signal.SIGTERM, signal.SIGINT):
        count = max(1, round(8 * scale))
        good, slowest = 0, 0.0
        for trial in range(count):
            more = ("--epochs", 500, "--workers", 2)
            command = ("train", *options(data, "resnet50", *more))
            real = RealRun(folder / f"{number.name}-{trial}", command)
            real.wait_for(lambda real=real: real.checks > 8)
            began = time.monotonic()
            real.send(number, group=True)
            code = real.wait()
            slowest = max(slowest, time.monotonic() - began)
            good += code == 128 + number and not real.processes_left(seconds=8)
            shutil.rmtree(real.folder)
        what = f"{number.name} to the group, 2 workers, ResNet-50"
        result = f"{good} saved and left nobody; slowest {slowest:.1f} s"
        rows.append(Row(what, str(count), result, good == count and slowest < 10))
    return rows


def syscalls(folder: Path, scale: float) -> list[Row]:
    if shutil.which("strace") is None:
        return [Row("Every system call of a save", "0", "there is no strace", reached=False)]
    _, calls = traced(folder / "whole")
    places = range(0, len(calls), max(1, round(1 / scale)))
    kills = [[fault_at(calls, place, "signal=SIGKILL")] for place in places]
    once = [[fault_at(calls, place, f"error={error}")] for error in ERRORS for place in places]
    on = [faults_from(calls, place, f"error={error}") for error in ERRORS for place in places]
    names = ", ".join(ERRORS)
    return [
        _saves(folder, "SIGKILL at every system call of a save", kills, leave=True),
        _saves(folder, f"{names} at every call, once", once, leave=False),
        # what could not even be removed stays, for the next start to remove
        _saves(folder, f"{names} at every call, from then on", on, leave=True),
    ]


def _saves(folder: Path, what: str, trials: list[list[str]], *, leave: bool) -> Row:
    """Save step 30 over step 20 with each of some faults, and see what can be taken up then."""
    steps: Counter[object] = Counter()
    left = unexplained = 0
    for injections in trials:
        place = folder / "save"
        code, _ = traced(place, *injections)
        unexplained += code not in (0, WriteError.exit_code, -signal.SIGKILL)
        left += len(list((place / "checkpoints/a").glob(".*.tmp")))
        steps[_step_after(place)] += 1
        shutil.rmtree(place)
    lost = steps.total() - steps[20] - steps[30]
    result = f"{steps[20]} with the old state, {steps[30]} with the new one, {lost} with none"
    if not leave:
        result += f"; {left} files left over"
    good = lost == unexplained == 0 and (leave or left == 0)
    return Row(what, str(len(trials)), result, good)


def _step_after(folder: Path) -> object:
    paths = RunPaths(folder, "a")
    remove_temporary_files(paths.checkpoint_dir)
    try:
        return CheckpointStore(paths, keep=2).load_latest().checkpoint.state.step
    except CheckpointError as error:
        return str(error)


def damages(folder: Path, scale: float) -> list[Row]:
    data = write_folder(folder / "data", train=8, val=3, classes=3)
    assert run(folder, "train", *options(data, "resnet18")) == 0
    paths = RunPaths(folder, "a")
    whole = paths.checkpoint.read_bytes()
    generator = random.Random(0)
    found = total = 0
    for kind, count in (("flip", 200), ("truncate", 100), ("zero", 60)):
        for _ in range(max(1, round(count * scale))):
            damage(paths.checkpoint, kind, generator)
            taken = CheckpointStore(paths, keep=2).load_latest()
            found += taken.path != paths.checkpoint and "is damaged" in taken.notes[0]
            total += 1
            paths.damaged.unlink(missing_ok=True)
            paths.checkpoint.write_bytes(whole)
    what = "Flipped bits, cut ends, zeroed pages of a checkpoint"
    result = f"{found} noticed, the one before used"
    return [Row(what, str(total), result, found == total)]


def reading(folder: Path, scale: float) -> list[Row]:
    store_at(folder, 10)
    count = max(1, round(20_000 * scale))
    outcomes = mutate_checkpoint(count, 1, RunPaths(folder, "a").checkpoint)
    result = f"{outcomes['refused']} refused, {outcomes['equal']} harmless, 0 other"
    rows = [Row("Mutated checkpoints read", f"{count:,}", result, outcomes.total() == count)]
    count = max(1, round(2_000 * scale))
    seen = mutate_images(count, 1)
    result = ", ".join(f"{number} {name}" for name, number in sorted(seen.items()))
    rows.append(Row("Mutated images of 5 formats", f"{count:,}", result, seen.total() == count))
    return rows


def bad_input(folder: Path, scale: float) -> list[Row]:
    del folder, scale
    return [
        _suite("Payloads x commands that read a checkpoint", "test_security.py", "no_payload"),
        _suite("Bombs", "test_security.py", "bomb"),
        _suite("Wrong fields of a checkpoint", "test_checkpoint_schema.py", ""),
        _suite("Bad images and folders", "test_bad_images.py", ""),
    ]


def _suite(what: str, file: str, keyword: str) -> Row:
    tests = str(Path(__file__).with_name(file))
    words = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", tests, "-k", keyword]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    passed = re.search(r"(\d+) passed", done.stdout)
    failed = re.search(r"(\d+) (failed|error)", done.stdout)
    result = f"{passed[1] if passed else 0} refused as promised, {failed[1] if failed else 0} not"
    return Row(what, passed[1] if passed else "0", result, done.returncode == 0)


def full_disks(folder: Path, scale: float) -> list[Row]:
    del scale
    data = write_folder(folder / "data", train=8, val=3, classes=3)
    rows = []
    for megabytes, what in ((40, "at the start"), (230, "in the middle")):
        disk = folder / f"disk-{megabytes}"
        disk.mkdir()
        words = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(disk)]
        if subprocess.run(words, capture_output=True, check=False).returncode:
            return [Row("A disk that is full", "0", "no right to mount one", reached=True)]
        try:
            command = ("train", *options(data, "resnet18", "--output-dir", disk))
            code = run(folder, *command)
            text = squeezed((folder / "terminal.log").read_text("utf-8"))
            good = code == 5 and "Nospaceleft" in text and "Traceback" not in text
            if megabytes > 100:
                (disk / "checkpoints/a/best.pth").unlink(missing_ok=True)
                paths = RunPaths(disk, "a")
                remove_temporary_files(paths.checkpoint_dir)
                step = CheckpointStore(paths, keep=2).load_latest().checkpoint.state.step
                good = good and f"Safe:step{step}(" in text
            rows.append(Row(f"A disk of {megabytes} MB, full {what}", "1", f"exit {code}", good))
        finally:
            subprocess.run(["umount", str(disk)], check=True)
            (folder / "terminal.log").unlink(missing_ok=True)
    return rows


PARTS: dict[str, Callable[[Path, float], list[Row]]] = {
    "kills": kills,
    "killed-ranks": killed_ranks,
    "stops": stops,
    "repeated": repeated,
    "signals": signals,
    "syscalls": syscalls,
    "damages": damages,
    "reading": reading,
    "bad-input": bad_input,
    "full-disks": full_disks,
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--part", action="append", choices=list(PARTS))
    parser.add_argument("--scale", type=float, default=1.0, help="share of the full counts")
    asked = parser.parse_args()
    print("| What | Trials | Result | Goal | Seconds |\n|:--|--:|:--|:--|--:|", flush=True)
    reached = True
    for name in asked.part or PARTS:
        with tempfile.TemporaryDirectory(prefix=f"soak-{name}-") as folder:
            began = time.monotonic()
            for row in PARTS[name](Path(folder), asked.scale):
                seconds = time.monotonic() - began
                goal = "reached" if row.reached else "**missed**"
                print(f"| {row.what} | {row.trials} | {row.result} | {goal} | {seconds:.0f} |")
                sys.stdout.flush()
                reached = reached and row.reached
    raise SystemExit(0 if reached else 1)


if __name__ == "__main__":
    main()
