#!/usr/bin/env bash
# TorchX's local scheduler does not retry: --max_retries 2 runs a failing job once; on Slurm it asks for 1 GB and no GPU.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
uv venv --quiet --python 3.11 venv
uv pip install --quiet --python venv/bin/python torchx==0.7.0 torch==2.15.0 numpy==2.4.6
export PATH="$folder/venv/bin:$PATH"
echo 'print("tried"); raise SystemExit(7)' >job.py
torchx run -s local_cwd dist.ddp -j 1x1 --max_retries 2 --script job.py >local 2>&1 || true
torchx run --dryrun -s slurm dist.ddp -j 2x4 --max_retries 2 --script job.py >slurm 2>&1
tries=$(grep -c tried local || true)
requeue=$(grep -c 'scontrol requeue' slurm || true)
signals=$(grep -c -- '--signal' slurm || true)

torchx --version
echo "guess:  --max_retries 2 runs a job that fails three times in all"
echo "seen:   local_cwd: tried $tries time(s)"
echo "        slurm: $requeue 'scontrol requeue' in the batch script, after any exit code but 0; no signal before the time limit ($signals)"
echo "guess:  -j 2x4 asks Slurm for two nodes with room for four processes each"
grep '^#SBATCH' slurm | sed 's/^/seen:   /'
[ "$tries" = 1 ] && [ "$requeue" = 1 ] && [ "$signals" = 0 ] && grep -q -- '--cpus-per-task=2 --mem=1024' slurm || {
    echo "changed: no longer as described"
    exit 1
}
