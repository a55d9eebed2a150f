"""torch.compile: one static graph for each image size."""

import copy
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch._dynamo.testing import CompileCounterWithBackend
from torch._inductor.cudagraph_trees import MarkStepBox

from imgnet_mini.config.data_settings import DataConfig
from imgnet_mini.config.run_config import RunConfig
from imgnet_mini.config.run_settings import RuntimeConfig
from imgnet_mini.config.training_settings import OptimizerConfig, ScheduleConfig
from imgnet_mini.distributed.context import SINGLE_PROCESS
from imgnet_mini.errors import ConfigError, MemoryLimitError
from imgnet_mini.training import compilation
from imgnet_mini.training.compilation import (
    check_compile_mode,
    choose_compile_mode,
    report_compilation,
)
from imgnet_mini.training.device import less_memory
from imgnet_mini.training.optim import build_loss, build_optimizer, build_scheduler
from imgnet_mini.training.precision import Precision
from imgnet_mini.training.resume_hint import resume_hint
from imgnet_mini.training.trainer import Trainer

SIZES = range(16, 60, 4)


@pytest.fixture
def counter():
    """A backend that compiles nothing and counts graphs."""
    torch._dynamo.reset()
    limit = torch._dynamo.config.recompile_limit
    yield CompileCounterWithBackend("eager")
    torch._dynamo.config.recompile_limit = limit
    torch._dynamo.reset()


@pytest.fixture
def network():
    body = [nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(1)]
    return nn.Sequential(*body, nn.Flatten(), nn.Linear(4, 3))


def compiled_trainer(model, counter, mode="default"):
    model.compile = partial(nn.Module.compile, model, backend=counter)
    settings = OptimizerConfig()
    optimizer = build_optimizer(settings, model, lr=0.01)
    schedule = build_scheduler(ScheduleConfig(epochs=1), optimizer, max_lr=0.01, total_steps=99)
    parts = (model, build_loss(settings), optimizer, schedule, Precision("cpu", None))
    return Trainer(*parts, compile_mode=mode)


def train(trainer, *sizes):
    trainer.model.train()
    for size in sizes:
        batch = torch.randn(4, 3, size, size), torch.tensor([0, 1, 2, 0])
        for _ in range(2):
            trainer.train_step([batch])


def test_each_image_size_has_a_static_graph_however_many_there_are(network, counter):
    trainer = compiled_trainer(network, counter)
    train(trainer, *SIZES)
    assert counter.frame_count == len(SIZES) > 8
    for graph in counter.graphs:
        inputs = [node for node in graph.graph.nodes if node.op == "placeholder"]
        assert not any(isinstance(node.meta["example_value"], torch.SymInt) for node in inputs)
    train(trainer, *SIZES)  # no graph is made again
    assert counter.frame_count == len(SIZES)


def test_copies_and_later_evaluations_reuse_the_graphs(network, counter):
    fresh = copy.deepcopy(network)
    train(compiled_trainer(network, counter), 32)
    train(compiled_trainer(fresh, counter), 32)
    assert counter.frame_count == 1
    fresh.eval()
    with torch.no_grad():
        for _ in range(3):
            fresh(torch.randn(4, 3, 32, 32))
    assert counter.frame_count == 2


@pytest.mark.parametrize(
    ("mode", "told", "marks"),
    [("default", [], 0), ("reduce-overhead", ["reduce-overhead"], 4)],
)
def test_the_mode_reaches_the_compiler_and_cuda_graphs_learn_of_each_step(
    network, counter, mode, told, marks
):
    modes = []

    def backend(graph, inputs, *, mode=None):
        modes.extend([mode] if mode else [])
        return counter(graph, inputs)

    trainer = compiled_trainer(network, backend, mode)
    before = MarkStepBox.mark_step_counter  # counts down
    train(trainer, 32, 32)
    assert modes == told
    assert before - MarkStepBox.mark_step_counter == marks
    assert counter.frame_count == 1


def test_the_mode_is_used_only_with_compile():
    assert choose_compile_mode(RuntimeConfig(compile_mode="max-autotune")) is None
    assert choose_compile_mode(RuntimeConfig(compile=True)) == "default"


@pytest.mark.parametrize(
    ("data", "processes", "words"),
    [({"grad_accum_steps": 2}, 1, "--grad-accum-steps 1 or "), ({}, 2, "and there are 2: use ")],
)
def test_cuda_graphs_are_refused_where_they_would_overwrite_gradients(data, processes, words):
    for mode in ("reduce-overhead", "max-autotune"):
        runtime = RuntimeConfig(compile=True, compile_mode=mode)
        with pytest.raises(ConfigError, match=f"--compile-mode {mode} .*{words}--compile-mode def"):
            check_compile_mode(runtime, DataConfig(**data), processes)
        check_compile_mode(runtime.model_copy(update={"compile": False}), DataConfig(**data), 1)
    check_compile_mode(RuntimeConfig(compile=True), DataConfig(**data), processes)
    check_compile_mode(RuntimeConfig(compile=True, compile_mode=mode), DataConfig(), 1)


@pytest.mark.parametrize(
    ("mode", "change"), [("default", ""), ("reduce-overhead", " --compile-mode default")]
)
def test_a_run_with_cuda_graphs_that_needs_less_memory_goes_on_without(mode, change):
    runtime = {"compile": True, "compile_mode": mode}
    settings = RunConfig().override({"runtime": runtime})
    assert f"--grad-accum-steps 2{change}, which" in less_memory(settings)
    config = settings.resolve(0.1)
    parts = SimpleNamespace(distributed=SINGLE_PROCESS)
    assert resume_hint(MemoryLimitError("no memory"), config, parts).endswith(
        f" --grad-accum-steps 2 --allow-world-size-change{change}"
    )
    now = config.override({"data": {"grad_accum_steps": 2}, "runtime": {"compile_mode": "default"}})
    check_compile_mode(now.runtime, now.data, 1)


def test_the_seconds_of_a_compilation_are_printed(network, counter, capsys, monkeypatch):
    monkeypatch.setattr(compilation, "_WORTH_A_NOTE", 0.0)
    trainer = compiled_trainer(network, counter)
    with report_compilation():
        train(trainer, 32, 36)
    assert capsys.readouterr().err.count(" s, once for each image size") == 2
    train(trainer, 40)
    assert capsys.readouterr().err == ""
