"""What a process group costs, by number of ranks: time, connections, memory.

    python benchmarks/many_ranks.py [--ranks 8 16 32 64] [--local-ranks 8]

The ranks are processes on this machine, linked by gloo, and take themselves for several machines.
They share its cores: a time is that of all their work, and on a cluster that of the longest chain.

    join        rendezvous and the groups of a run
    sync        one sum of 68 numbers, twice of which ranks agree once a second
    ring        the same in one ring of all ranks
    open files  of a rank, for its groups; of the store, which torchrun holds on the first machine
    memory      private memory that the groups take in a rank
"""

import argparse
import multiprocessing
import os
import statistics
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from figures import Row, add_output_options, describe_run, show
from scan import private_bytes
from torch.distributed import TCPStore  # type: ignore[attr-defined]  # untyped

from imgnet_mini.config.run_settings import RuntimeConfig
from imgnet_mini.distributed.process_group import init_distributed

VALUES = [0.0] * 68
"""64 losses, the hits, and the plan."""
ROUNDS = 20


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def median_ms(run: Callable[[], object]) -> float:
    times = []
    for _ in range(ROUNDS):
        dist.barrier()
        began = time.perf_counter()
        run()
        times.append(1e3 * (time.perf_counter() - began))
    return statistics.median(times)


def measure(rank: int, ranks: int, local_ranks: int, port: Connection, answer: Any) -> None:
    torch.set_num_threads(1)
    os.environ |= {
        "RANK": f"{rank}",
        "WORLD_SIZE": f"{ranks}",
        "LOCAL_RANK": f"{rank % local_ranks}",
        "LOCAL_WORLD_SIZE": f"{local_ranks}",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": f"{port.recv()}",
        "TORCHELASTIC_USE_AGENT_STORE": "True",
    }
    files, memory, began = open_files(), private_bytes(), time.perf_counter()
    with init_distributed(RuntimeConfig(device="cpu")) as group:
        figures = {
            "join, s": time.perf_counter() - began,
            "sync, ms": median_ms(lambda: group.all_reduce_sum(VALUES)),
            "ring, ms": median_ms(lambda: dist.all_reduce(torch.tensor(VALUES))),
            "open files": open_files() - files,
            "memory, MB": (private_bytes() - memory) / 1e6,
        }
        largest = [
            max(values) for values in zip(*group.all_gather([*figures.values()]), strict=True)
        ]
        if group.is_main_process:
            answer.send(dict(zip(figures, largest, strict=True)))
        port.recv()


def start(ranks: int, local_ranks: int) -> Row:
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    pipes = [context.Pipe() for _ in range(ranks)]
    processes = [
        context.Process(target=measure, args=(rank, ranks, local_ranks, pipes[rank][1], sender))
        for rank in range(ranks)
    ]
    for process in processes:
        process.start()
    before = open_files()
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    for own, _ in pipes:
        own.send(store.port)
    figures = receiver.recv()
    figures["open files, store"] = open_files() - before
    for own, _ in pipes:
        own.send("")
    for process in processes:
        process.join()
    return {"ranks": ranks, **figures}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--ranks", type=int, nargs="+", default=[8, 16, 32, 64])
    parser.add_argument("--local-ranks", type=int, default=8)
    add_output_options(parser)
    options = parser.parse_args()
    rows = [start(ranks, options.local_ranks) for ranks in options.ranks]
    about = f"machines of {options.local_ranks} ranks, {describe_run()}"
    show(options, rows, about=about, note="")


if __name__ == "__main__":
    main()
