"""Train under Slurm with submitit: a job that is preempted or out of time is submitted again.

python examples/submitit_train.py settings.toml --nodes 2 --gpus 8 --minutes 720
"""

import argparse
import signal
from pathlib import Path

try:
    import submitit
except ImportError as error:
    cure = "Run: pip install submitit"
    raise SystemExit(f"requires submitit, which is not installed. {cure}") from error


class Training:
    """One rank of a run that starts, or continues from its last checkpoint."""

    def __init__(self, config: str) -> None:
        self.config = config

    def __call__(self) -> None:
        """Train; after a stop with a checkpoint, let submitit submit the job again."""
        import imgnet_mini
        from imgnet_mini.errors import StoppedError

        submitit.helpers.TorchDistributedEnvironment().export(set_cuda_visible_devices=False)
        try:
            imgnet_mini.train(resume=True, config=self.config)
        except StoppedError as stop:
            signal.raise_signal(stop.exit_code - 128)  # to submitit's own handler

    def checkpoint(self) -> submitit.helpers.DelayedSubmission:
        """Return the job to submit again; the checkpoint itself is on disk."""
        return submitit.helpers.DelayedSubmission(Training(self.config))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("config", type=Path, help="TOML file of settings, with absolute paths")
    parser.add_argument("--cluster", choices=["slurm", "local"], default="slurm")
    parser.add_argument("--folder", default="submitit", help="folder for submitit's own records")
    parser.add_argument("--nodes", type=int, default=1)
    parser.add_argument("--ranks", type=int, help="ranks per node; default: one per GPU")
    parser.add_argument("--gpus", type=int, default=0, help="GPUs per node")
    parser.add_argument("--cpus", type=int, default=8, help="CPUs per rank")
    parser.add_argument("--partition", help="partition of Slurm")
    parser.add_argument("--minutes", type=int, default=720, help="time limit of one job")
    options = parser.parse_args()
    executor = submitit.AutoExecutor(
        folder=options.folder, cluster=options.cluster, slurm_max_num_timeout=100
    )
    executor.update_parameters(
        nodes=options.nodes,
        tasks_per_node=options.ranks or max(1, options.gpus),
        gpus_per_node=options.gpus,
        cpus_per_task=options.cpus,
        timeout_min=options.minutes,
        slurm_partition=options.partition,
        slurm_signal_delay_s=120,  # time to save before the limit
    )
    job = executor.submit(Training(str(options.config.resolve())))
    print(f"job {job.job_id}, log {job.paths.stdout}")
