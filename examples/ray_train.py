"""Train with Ray Train: Ray places the ranks on the cluster and starts them again after a failure.

    python examples/ray_train.py settings.toml --workers 2 --gpu

Data and output folder need the same path on every node.
"""

import argparse
from pathlib import Path

try:
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer
except ImportError as error:
    cure = "Run: pip install 'ray[train]'"
    raise SystemExit(f"requires Ray Train, which is not installed. {cure}") from error


def train_rank(settings: dict) -> None:
    """Start the run or continue it, in the process group that Ray has initialized."""
    import imgnet_mini

    imgnet_mini.train(resume=True, **settings)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("config", type=Path, help="TOML file of settings, with absolute paths")
    parser.add_argument("--workers", type=int, default=1, help="number of ranks")
    parser.add_argument("--gpu", action="store_true", help="one GPU per rank")
    parser.add_argument("--max-failures", type=int, default=3)
    parser.add_argument("--storage", help="folder for Ray's own records; default: ~/ray_results")
    options = parser.parse_args()
    TorchTrainer(
        train_rank,
        train_loop_config={"config": str(options.config.resolve())},
        torch_config=TorchConfig(backend="cpu:gloo,cuda:nccl" if options.gpu else "gloo"),
        scaling_config=ScalingConfig(num_workers=options.workers, use_gpu=options.gpu),
        run_config=RunConfig(
            storage_path=options.storage,
            failure_config=FailureConfig(max_failures=options.max_failures),
        ),
    ).fit()
