#!/usr/bin/env bash
# SIGUSR1 ends torchrun and leaves its workers running; the environment variable that lists its signals is overwritten.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
uv venv --quiet --python 3.11 venv
uv pip install --quiet --python venv/bin/python torch==2.15.0 numpy==2.4.6
cat >worker.py <<'PY'
import os
import signal
import sys
import time
from pathlib import Path


def stop(number, _):
    Path(f"got-{os.environ['RANK']}").write_text(signal.Signals(number).name)
    sys.exit(0)


signal.signal(signal.SIGUSR1, stop)
signal.signal(signal.SIGTERM, stop)
Path(f"pid-{os.environ['RANK']}.part").write_text(str(os.getpid()))
os.rename(f"pid-{os.environ['RANK']}.part", f"pid-{os.environ['RANK']}")
time.sleep(60)
PY
TORCHELASTIC_SIGNALS_TO_HANDLE=SIGTERM,SIGUSR1 venv/bin/python - 2>log <<'PY'
import os
import signal
import subprocess
import time
from pathlib import Path

import torch


def alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def ask(*flags):
    """Start two workers, send SIGUSR1 to torchrun; return its exit code, the signals of the workers and how many still run."""
    for path in [*Path().glob("pid-*"), *Path().glob("got-*")]:
        path.unlink()
    command = ["venv/bin/torchrun", "--standalone", "--nproc-per-node=2", *flags, "worker.py"]
    launcher = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while len(files := [path for path in Path().glob("pid-*") if path.suffix != ".part"]) < 2 and time.monotonic() < deadline:
        time.sleep(0.2)
    launcher.send_signal(signal.SIGUSR1)
    code = launcher.wait(60)
    time.sleep(1)
    running = [pid for pid in (int(path.read_text()) for path in files) if alive(pid)]
    for pid in running:
        os.kill(pid, signal.SIGKILL)
    return code, [path.read_text() for path in Path().glob("got-*")], len(running)


plain, flag = ask(), ask("--signals-to-handle=SIGTERM,SIGUSR1")

print("torch", torch.__version__)
print("guess:  SIGUSR1 (Slurm's --signal=B:USR1@120) reaches the workers, at least with TORCHELASTIC_SIGNALS_TO_HANDLE=SIGTERM,SIGUSR1")
print(f"seen:   with that variable: torchrun's exit code {plain[0]}, signals of the workers {plain[1]}, workers left running: {plain[2]}")
print(f"        with --signals-to-handle=SIGTERM,SIGUSR1: exit code {flag[0]}, signals {flag[1]}, left running: {flag[2]}")
print("        torchrun sets the variable itself, from its flag; and it exits with 1 though every worker stopped with 0")
if plain != (-signal.SIGUSR1, [], 2) or flag != (1, ["SIGUSR1"] * 2, 0):
    raise SystemExit("changed: no longer as described")
PY
