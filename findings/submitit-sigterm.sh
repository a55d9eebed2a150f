#!/usr/bin/env bash
# A submitit job ignores SIGTERM: only SIGUSR2 asks it to save.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
uv venv --quiet --python 3.11 venv
uv pip install --quiet --python venv/bin/python submitit==1.5.4
venv/bin/python - <<'PY'
import os
import signal
import time

import submitit


class Training:
    def __call__(self):
        print("started", flush=True)
        time.sleep(40)
        return "ran to its end"

    def checkpoint(self):
        print("saving", flush=True)
        return submitit.helpers.DelayedSubmission(str, "saved and started again")


executor = submitit.LocalExecutor("jobs")
executor.update_parameters(timeout_min=1, signal_delay_s=48)  # the notice comes 12 seconds after the start
job = executor.submit(Training())
deadline = time.monotonic() + 60
while "started" not in (job.stdout() or "") and time.monotonic() < deadline:
    time.sleep(0.2)
os.kill(int(job.job_id), signal.SIGTERM)
time.sleep(2)
state = job.state
result = job.result()
words = ("started", "saving", "Bypassing", "SIGUSR2", "Requeued")
lines = [line for line in job.stdout().splitlines() if any(word in line for word in words)]

print("submitit", submitit.__version__)
print("guess:  SIGTERM ends the job or calls its checkpoint method (a scheduler sends it before SIGKILL)")
print(f"seen:   2 seconds after SIGTERM: {state}; later, at the notice before the time limit: {result}")
for line in lines:
    print("        ", line)
if state != "RUNNING" or result != "saved and started again" or not any("Bypassing signal SIGTERM" in line for line in lines):
    raise SystemExit("changed: no longer as described")
PY
