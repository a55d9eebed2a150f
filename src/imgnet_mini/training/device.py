"""The device a command runs on, and errors of torch as messages with a cure."""

import os
import platform
import re
import shutil
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from imgnet_mini.config.data_settings import DataConfig
from imgnet_mini.config.run_config import RunConfig
from imgnet_mini.config.run_settings import RuntimeConfig
from imgnet_mini.data.folder_source import lost_worker_error
from imgnet_mini.distributed.context import SINGLE_PROCESS, DistributedContext
from imgnet_mini.errors import ConfigError, MemoryLimitError
from imgnet_mini.training.compilation import flag_without_graphs
from imgnet_mini.utils.console import print_warning


def choose_device(
    runtime: RuntimeConfig, distributed: DistributedContext = SINGLE_PROCESS
) -> torch.device:
    """Return the device of the settings, or the best available one, set to its fastest kernels.

    With several ranks, each takes the GPU of its local rank.

    Raises:
        ConfigError: the device is not available.
    """
    available = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    if runtime.device == "auto":
        kind = next(name for name, is_available in available.items() if is_available)
    elif available[runtime.device]:
        kind = runtime.device
    else:
        present = ", ".join(name for name, is_available in available.items() if is_available)
        raise ConfigError(
            f"--device {runtime.device}: torch {torch.__version__} finds no such device; "
            f"it can use {present}. Leave --device out, or repair the driver or the torch build"
        )
    if runtime.device == "auto" and kind == "cpu" and distributed.is_main_process:
        _note_unused_gpu()
    torch.use_deterministic_algorithms(runtime.deterministic)
    if kind == "cuda":
        if runtime.deterministic:  # read when cuBLAS is first used
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.backends.cudnn.benchmark = not runtime.deterministic
        # Without AMP, TF32 is for speed; with it, only parts that need float32 are in float32.
        torch.backends.cudnn.allow_tf32 = not runtime.amp
        torch.set_float32_matmul_precision("highest" if runtime.amp else "high")
        # Older versions of torch.compile recommend TF32.
        warnings.filterwarnings("ignore", "TensorFloat32 tensor cores", UserWarning)
        if distributed.world_size > 1:
            return _local_gpu(distributed)
    return torch.device(kind)


def _note_unused_gpu() -> None:
    """Print a note if the machine has NVIDIA's driver, and torch cannot use it."""
    if shutil.which("nvidia-smi") is None or "CUDA_VISIBLE_DEVICES" in os.environ:
        return
    cuda = torch.version.cuda
    cause = (
        "was built without CUDA: install a build with it, see https://pytorch.org/get-started/locally"
        if cuda is None
        else f"finds no GPU for CUDA {cuda}: update the driver, or install a build for an older one"
    )
    print_warning(
        f"Note: running on the CPU. nvidia-smi is installed, but torch {torch.__version__} "
        f"{cause}. If that is intended, pass --device cpu"
    )


def wait_for_device() -> None:
    """Wait until a GPU has finished what it was given, before the time is taken."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


@contextmanager
def exact_float32() -> Iterator[None]:
    """Compute float32 in float32, not TF32, and by kernels that are not chosen by their speed."""
    cudnn, matmul_precision = torch.backends.cudnn, torch.get_float32_matmul_precision()
    benchmark, allow_tf32 = cudnn.benchmark, cudnn.allow_tf32
    cudnn.benchmark = cudnn.allow_tf32 = False
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        cudnn.benchmark, cudnn.allow_tf32 = benchmark, allow_tf32
        torch.set_float32_matmul_precision(matmul_precision)


def _local_gpu(distributed: DistributedContext) -> torch.device:
    count = torch.cuda.device_count()
    if distributed.local_world_size > count:
        raise ConfigError(
            f"torchrun started {distributed.local_world_size} processes on a machine with {count} "
            f"GPU(s): use --nproc-per-node {count}"
        )
    torch.cuda.set_device(distributed.local_rank)
    return torch.device("cuda", distributed.local_rank)


def describe_device(device: torch.device) -> str:
    """Return a description of the device, such as `NVIDIA GeForce RTX 4060 Ti (16 GB)`."""
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        return f"{properties.name} ({properties.total_memory / 2**30:.0f} GB)"
    if device.type == "mps":
        return f"Apple GPU ({platform.machine()})"
    return f"CPU ({platform.machine()}, {torch.get_num_threads()} threads)"


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether a device ran out of memory.

    cuBLAS, cuDNN, the CUDA runtime and MPS raise a RuntimeError that says so.
    """
    if not isinstance(error, RuntimeError):
        return False
    said = re.search(r"(CUDA|MPS|Triton|Cuda).*out of memory|ALLOC(ATION)?_FAILED", str(error))
    return isinstance(error, torch.OutOfMemoryError) or said is not None


@contextmanager
def translate_torch_errors(
    batch_size: int, *, less_memory: Callable[[], str] | None = None
) -> Iterator[None]:
    """Translate torch errors about memory, kernels, compilers and lost workers into advice.

    less_memory: makes the advice on memory; default: a smaller batch.

    Raises:
        MemoryLimitError: out of memory.
        ConfigError: batch norm has one value per channel, a kernel has no deterministic version on
            the device, or compiling failed.
        LostWorkerError: a worker process was killed.
    """
    try:
        yield
    except (RuntimeError, ValueError) as error:
        text, kind = str(error), type(error).__module__
        if is_out_of_memory(error) or "DefaultCPUAllocator" in text:
            smaller = f": try --batch-size {batch_size // 2}" if batch_size > 1 else ""
            advice = smaller if less_memory is None else less_memory()
            raise MemoryLimitError(f"out of memory at --batch-size {batch_size}{advice}") from error
        if re.search("DataLoader worker .*(killed|exited)", text):
            raise lost_worker_error() from error
        if "deterministic implementation" in text:
            raise ConfigError(
                f"--deterministic: {_first_word(text)} has no deterministic kernel on this device; "
                "use --no-deterministic, or choose another --arch"
            ) from error
        if "more than 1 value per channel" in text:
            raise ConfigError(
                "batch norm needs more than one value per channel, and gets one small image at a "
                "time: use fewer --grad-accum-steps, a larger --batch-size or a larger --img-size"
            ) from error
        if kind.startswith(("torch._dynamo", "torch._inductor")):
            raise ConfigError(
                f"--compile: torch.compile failed ({_first_line(error)}). It requires a C++ "
                "compiler, and Triton on a GPU: install them, or use --no-compile"
            ) from error
        raise


def _first_word(text: str) -> str:
    return text.split(maxsplit=1)[0]


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)


def micro_batches(data: DataConfig, world_size: int = 1) -> int | None:
    """Return the next larger number of micro-batches with at least two images; None without one."""
    images = data.batch_size // world_size
    larger = range(data.grad_accum_steps + 1, images // 2 + 1)
    return next((number for number in larger if images % number == 0), None)


def less_memory(config: RunConfig, world_size: int = 1) -> str:
    """Return the options of a training that needs less memory, to end a message with."""
    data = config.data
    divisor = world_size * data.grad_accum_steps
    smaller = data.batch_size // 2 // divisor * divisor
    number = micro_batches(data, world_size)
    choices = [f"--batch-size {smaller}"] if smaller >= 2 * divisor else []
    if number is not None:
        flags = f"--grad-accum-steps {number}{flag_without_graphs(config.runtime)}"
        choices += [f"{flags}, which splits the batch into micro-batches"]
    return f": try {', or '.join([*choices, 'a smaller --img-size or --arch'])}"
