"""Process groups that were initialized before the command; linked by gloo."""

import os
import resource

import numpy as np
import torch
import torch.distributed as dist

import imgnet_mini
from helpers.real_runs import FORKED
from imgnet_mini.config.run_settings import RuntimeConfig
from imgnet_mini.distributed import process_group
from imgnet_mini.distributed.context import SINGLE_PROCESS
from imgnet_mini.distributed.process_group import init_distributed
from imgnet_mini.errors import ConfigError
from imgnet_mini.utils.torchrun_env import TorchrunEnv


def test_one_process_without_torchrun_has_no_process_group():
    with init_distributed(RuntimeConfig(device="cpu")) as distributed:
        assert distributed is SINGLE_PROCESS
        assert not dist.is_initialized()


def test_an_initialized_group_of_one_process_is_not_destroyed():
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        with init_distributed(RuntimeConfig(device="cpu")) as distributed:
            assert (distributed.rank, distributed.world_size) == (0, 1)
            assert distributed.all_reduce_sum([2.0]) == [2.0]
        assert dist.is_initialized()
        dist.barrier()
    finally:
        dist.destroy_process_group()


def use_group(rank, path, variables, backend, results):
    os.environ.update(variables)
    dist.init_process_group(backend, init_method=f"file://{path}", rank=rank, world_size=2)
    try:
        found = []
        for _ in range(2):  # as in two commands one after the other
            with init_distributed(RuntimeConfig(device="cpu")) as distributed:
                place = TorchrunEnv(
                    distributed.rank,
                    distributed.world_size,
                    distributed.local_rank,
                    distributed.local_world_size,
                )
                first = distributed.run_on_local_rank0(lambda: distributed.rank)
                total = distributed.all_reduce_sum([distributed.rank + 1.0])
                found.append((place, distributed.nodes, first, total))
                distributed.barrier()
        results.put((rank, found, dist.is_initialized()))
    except ConfigError as error:
        results.put((rank, str(error), dist.is_initialized()))
    dist.destroy_process_group()


def two_processes(tmp_path, *, variables=({}, {}), backend="gloo"):
    """Run `use_group` in two processes; return what each found, by rank."""
    results = FORKED.Queue()
    processes = [
        FORKED.Process(
            target=use_group, args=(rank, tmp_path / "store", variables[rank], backend, results)
        )
        for rank in range(2)
    ]
    for process in processes:
        process.start()
    found = {rank: rest for rank, *rest in (results.get(timeout=60) for _ in processes)}
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0, 0]
    return [found[rank] for rank in range(2)]


def test_an_initialized_group_is_used_by_two_commands_and_not_destroyed(tmp_path):
    for rank, (found, is_initialized) in enumerate(two_processes(tmp_path)):
        expected = (TorchrunEnv(rank, 2, local_rank=rank, local_world_size=2), 1, 0, [3.0])
        assert found == [expected] * 2
        assert is_initialized


def share_in_group(rank, path, results):
    """Two machines of two ranks each."""
    place = {"RANK": f"{rank}", "WORLD_SIZE": "4"}
    os.environ.update(place | {"LOCAL_RANK": f"{rank % 2}", "LOCAL_WORLD_SIZE": "2"})
    dist.init_process_group("gloo", init_method=f"file://{path}", rank=rank, world_size=4)
    with init_distributed(RuntimeConfig(device="cpu")) as distributed:
        array = distributed.broadcast_from_rank0(lambda: (np.arange(3), rank))[0]
        own = distributed.run_on_local_rank0(lambda: rank)
        sums = distributed.all_reduce_sum([rank, 0.5])
        rows = torch.full((1, 1), float(rank))
        table = distributed.all_gather_rows(rows, np.array([rank]), 4)
        found = (array.tolist(), array.flags.writeable, own, sums, table[:, 0].tolist())
        results.put((rank, found))
        distributed.barrier()
    dist.destroy_process_group()


def test_each_of_two_machines_holds_an_array_of_rank_0_once(tmp_path):
    results = FORKED.Queue()
    ranks = [
        FORKED.Process(target=share_in_group, args=(rank, tmp_path / "store", results))
        for rank in range(4)
    ]
    for rank in ranks:
        rank.start()
    found = dict(results.get(timeout=60) for _ in ranks)
    for rank in ranks:
        rank.join(60)
    assert [rank.exitcode for rank in ranks] == [0] * 4
    for rank, (array, is_own, first, sums, table) in found.items():
        assert (array, is_own) == ([0, 1, 2], rank % 2 == 0)  # the second rank maps it
        assert first == rank - rank % 2
        assert (sums, table) == ([6.0, 2.0], [0.0, 1.0, 2.0, 3.0])


def lower_and_raise_file_limit(results):
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, most))
    process_group._raise_file_limit()
    results.put((resource.getrlimit(resource.RLIMIT_NOFILE), most))


def test_ranks_may_open_as_many_files_as_the_system_allows():
    results = FORKED.Queue()
    process = FORKED.Process(target=lower_and_raise_file_limit, args=(results,))
    process.start()
    limits, most = results.get(timeout=60)
    process.join()
    assert limits == (most, most)


def train_in_group(rank, folder):
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    with (folder / f"{rank}.log").open("w") as log:
        for stream in (1, 2):
            os.dup2(log.fileno(), stream)
        imgnet_mini.train(
            arch="shufflenet_v2_x0_5",
            img_size=32,
            batch_size=6,
            epochs=1,
            workers=0,
            max_lr=0.05,
            data_root=folder / "data",
            output_dir=folder,
        )
    dist.destroy_process_group()


def test_only_rank_0_of_an_initialized_group_prints(data):
    ranks = [FORKED.Process(target=train_in_group, args=(rank, data.parent)) for rank in range(2)]
    for rank in ranks:
        rank.start()
    for rank in ranks:
        rank.join(120)
    assert [rank.exitcode for rank in ranks] == [0, 0]
    assert "Final weights" in (data.parent / "0.log").read_text("utf-8")
    assert (data.parent / "1.log").read_text("utf-8") == ""


def test_local_ranks_of_an_initialized_group_are_those_of_torchrun(tmp_path):
    variables = [
        {"RANK": f"{rank}", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1"}
        for rank in range(2)
    ]
    for rank, (found, _) in enumerate(two_processes(tmp_path, variables=variables)):
        expected = (TorchrunEnv(rank, 2, local_rank=0, local_world_size=1), 2, rank, [3.0])
        assert found == [expected] * 2


def test_a_group_without_a_backend_for_cpu_tensors_is_refused(tmp_path):
    for message, is_initialized in two_processes(tmp_path, backend="cuda:gloo"):
        assert "no backend for CPU tensors (cuda:gloo)" in message
        assert "cpu:gloo,cuda:nccl" in message
        assert is_initialized
