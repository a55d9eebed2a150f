import pytest

from imgnet_mini.config import fields
from imgnet_mini.config.data_settings import DataConfig
from imgnet_mini.errors import ConfigError
from imgnet_mini.utils.torchrun_env import TorchrunEnv


def test_without_torchrun_a_process_is_rank_0_of_1():
    assert TorchrunEnv.from_environment({"LOCAL_RANK": "3"}) == TorchrunEnv()
    assert TorchrunEnv().is_main_process


def test_ranks_are_read_from_the_variables_of_torchrun():
    variables = {"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "4"}
    launch = TorchrunEnv.from_environment(variables)
    assert (launch.rank, launch.world_size, launch.local_rank, launch.local_world_size) == (
        5,
        8,
        1,
        4,
    )
    assert not launch.is_main_process


@pytest.mark.parametrize(
    "wrong",
    [
        {"RANK": "x", "WORLD_SIZE": "2"},
        {"RANK": "-1", "WORLD_SIZE": "2"},
        {"RANK": "2", "WORLD_SIZE": "2"},
        {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "1"},
    ],
)
def test_contradicting_variables_are_refused_with_their_values(wrong):
    with pytest.raises(ConfigError, match="RANK=") as error:
        TorchrunEnv.from_environment(wrong)
    assert "torchrun" in str(error.value)


@pytest.mark.parametrize(("ranks", "workers"), [("1", 8), ("4", 4), ("16", 1), ("64", 1), ("x", 8)])
def test_default_workers_divide_the_cpus_among_the_ranks_of_a_machine(monkeypatch, ranks, workers):
    monkeypatch.setattr(fields, "available_cpus", lambda: 16)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", ranks)
    assert DataConfig().workers == workers
