"""TorchX component: one training run, on this machine or on a cluster's scheduler.

`python -m imgnet_mini.torchx` prints the path that TorchX takes:

    torchx run -s slurm "$(python -m imgnet_mini.torchx):train" -j 2x8 --gpu 8 -- --batch-size 1024
"""

# ruff: noqa: UP006, UP035, UP045  # TorchX reads no other types in a signature than these

from typing import Dict, List, Optional

try:
    from torchx.components.dist import ddp, parse_nnodes
    from torchx.specs import AppDef, RetryPolicy
except ImportError as error:
    raise SystemExit("requires torchx, which is not installed. Run: pip install torchx") from error


def train(
    *args: str,
    j: str = "1x1",
    name: str = "imgnet-mini/train",
    image: str = "",
    h: str = "",
    cpu: int = 0,
    gpu: int = 0,
    memMB: int = 0,  # noqa: N803  # the name that TorchX's own components use
    max_retries: int = 3,
    stop_after: str = "",
    rdzv_port: int = 29500,
    env: Optional[Dict[str, str]] = None,
    mounts: Optional[List[str]] = None,
) -> AppDef:
    """Start a run of `imgnet-mini train`, or continue it: each start resumes the last checkpoint.

    Args:
        args: options of `imgnet-mini train`, after `--`
        j: number of nodes x processes per node, such as 2x8
        name: name of the job for the scheduler
        image: container image, for schedulers that use containers
        h: named resource of TorchX; replaces cpu, gpu and memMB
        cpu: CPUs per node; 0: 8 per process
        gpu: GPUs per node
        memMB: memory per node in MB; 0: the default of the scheduler
        max_retries: restarts after a failure, by torchrun and by the scheduler
        stop_after: save a checkpoint and exit after this time, such as 715m; set it below the
            scheduler's time limit, so that the scheduler starts the job again
        rdzv_port: port of the first node at which the nodes meet
        env: environment variables, such as A=1,B=2
        mounts: mounts of the container, in the words of TorchX
    """
    app = ddp(
        *("train", "--resume", *args),
        m="imgnet_mini",
        name=name,
        image=image,
        h=h or None,
        cpu=cpu or 8 * parse_nnodes(j)[2],
        gpu=gpu,
        memMB=memMB,
        j=j,
        env=dict(env or {}),
        max_retries=max_retries,
        rdzv_port=rdzv_port,
        mounts=mounts,
    )
    role = app.roles[0]
    role.resource.memMB = memMB  # ddp turns 0 into 1 GB
    role.retry_policy = RetryPolicy.APPLICATION  # a lost node restarts all, as DDP needs
    role.env.setdefault("PET_MAX_RESTARTS", str(max_retries))  # read by torchrun
    if stop_after:
        shell, command = role.args
        role.args = [shell, f"timeout --signal=TERM --kill-after=2m {stop_after} {command}"]
    return app


if __name__ == "__main__":
    print(__file__)
