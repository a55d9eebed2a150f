"""The kinds of file. Each is written, and read back as those will read it who run it."""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, BinaryIO, Final

import torch
from torch import Tensor, jit, nn

from imgnet_mini.errors import ConfigError
from imgnet_mini.export.description import Description, to_json, to_properties

Run = Callable[[Tensor], Tensor]
"""From images (N, 3, S, S) float32 to logits (N, C)."""

Rebuild = Callable[[dict[str, Tensor]], nn.Module]
"""From weights to the network they are of."""

Write = Callable[[nn.Module, Tensor, Description, BinaryIO], None]
"""Writes a network that will take any number of images such as these, two or more."""

EXTRA_FILE: Final = "imgnet-mini.json"
"""The name under which torch's own archives hold the description."""

_MOST_ONNX_BYTES: Final = 2**31 - 2**24
"""Of weights; a message of protobuf ends at 2 GiB, and the graph takes some of it."""


@dataclass(frozen=True)
class Format:
    """One kind of file.

    suffix: of its usual name.
    extra: the one of this package that brings `packages`.
    """

    suffix: str
    write: Write
    read: Callable[[Path, Rebuild], Run]
    extra: str = ""
    packages: tuple[str, ...] = ()

    def missing_packages(self) -> list[str]:
        """What has to be installed before such a file can be written and checked."""
        return [package for package in self.packages if find_spec(package) is None]


def _write_program(
    model: nn.Module, images: Tensor, description: Description, file: BinaryIO
) -> None:
    program = torch.export.export(model, (images,), dynamic_shapes=(_any_number(),))
    torch.export.save(program, file, extra_files={EXTRA_FILE: to_json(description)})


def _read_program(path: Path, _: Rebuild) -> Run:
    with _quiet(), path.open("rb") as file:
        return torch.export.load(file).module()


def _write_script(
    model: nn.Module, images: Tensor, description: Description, file: BinaryIO
) -> None:
    with _quiet():
        traced = jit.trace(model, images)
        jit.save(traced, file, _extra_files={EXTRA_FILE: to_json(description)})


def _read_script(path: Path, _: Rebuild) -> Run:
    with _quiet(), path.open("rb") as file:
        script: Run = jit.load(file)
    return script


def _write_onnx(model: nn.Module, images: Tensor, description: Description, file: BinaryIO) -> None:
    if sum(tensor.nbytes for tensor in model.state_dict().values()) > _MOST_ONNX_BYTES:
        raise ConfigError("--format onnx: one such file holds 2 GB at most, and the weights more")
    with _quiet():
        program = torch.onnx.export(
            model,
            (images,),
            dynamo=True,
            verbose=False,
            input_names=["images"],
            output_names=["logits"],
            dynamic_shapes=(_any_number(),),
        )
    if program is None:
        raise TypeError("torch.onnx has returned no program")
    proto: Any = program.model_proto
    for name, text in to_properties(description).items():
        proto.metadata_props.add(key=name, value=text)
    file.write(proto.SerializeToString())


def _read_onnx(path: Path, _: Rebuild) -> Run:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return lambda images: torch.from_numpy(session.run(None, {"images": images.numpy()})[0])


def _write_safetensors(
    model: nn.Module, _: Tensor, description: Description, file: BinaryIO
) -> None:
    from safetensors.torch import save

    weights = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    file.write(save(weights, {"format": "pt", **to_properties(description)}))


def _read_safetensors(path: Path, rebuild: Rebuild) -> Run:
    from safetensors.torch import load_file

    return rebuild(load_file(path))


def _write_state_dict(model: nn.Module, _: Tensor, __: Description, file: BinaryIO) -> None:
    torch.save(model.state_dict(), file)


def _read_state_dict(path: Path, rebuild: Rebuild) -> Run:
    return rebuild(torch.load(path, map_location="cpu", weights_only=True))


FORMATS: Final = {
    "pt2": Format(".pt2", _write_program, _read_program),
    "torchscript": Format(".pt", _write_script, _read_script),
    "onnx": Format(".onnx", _write_onnx, _read_onnx, "onnx", ("onnx", "onnxscript", "onnxruntime")),
    "safetensors": Format(
        ".safetensors", _write_safetensors, _read_safetensors, "safetensors", ("safetensors",)
    ),
    "state-dict": Format(".pth", _write_state_dict, _read_state_dict),
}
"""By name: pt2 is the graph of torch.export, the successor of torchscript; the last two hold the
weights alone."""


def _any_number() -> dict[int, Any]:
    return {0: torch.export.Dim("batch")}


@contextmanager
def _quiet() -> Iterator[None]:
    """Say nothing of what torch deprecates, traces or copies on its way: the file is checked."""
    with warnings.catch_warnings():
        for deprecated in (FutureWarning, DeprecationWarning):
            warnings.simplefilter("ignore", deprecated)
        warnings.simplefilter("ignore", jit._trace.TracerWarning)
        warnings.filterwarnings("ignore", message="The given buffer is not writable")
        yield
