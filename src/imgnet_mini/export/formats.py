"""Export formats: each writes a file and reads it back with the library that will run it."""

import json
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO, Final

import torch
from torch import Tensor, jit, nn

from imgnet_mini import __version__
from imgnet_mini.config.data_settings import Decoding
from imgnet_mini.data.classes import human_names
from imgnet_mini.data.fit import padding_color
from imgnet_mini.data.transforms import MEAN, STD, eval_resize
from imgnet_mini.errors import ConfigError

ExportedModel = Callable[[Tensor], Tensor]
"""Takes images (N, 3, S, S) float32 and returns logits (N, C); or see `raw_images.RawImages`."""

ModelBuilder = Callable[[dict[str, Tensor]], nn.Module]
"""Builds the network from a state dict."""

Description = dict[str, Any]
"""Plain JSON data."""

FormatWriter = Callable[[nn.Module, Tensor, Description, BinaryIO], None]
"""Writes a network for any size named in the description; takes two or more example images."""

FormatReader = Callable[[Path, ModelBuilder], ExportedModel]
"""Loads a file to run it; the builder is for formats that hold only weights."""

EXTRA_FILE: Final = "imgnet-mini.json"
"""Name of the description inside the archives of torch, and key of the metadata of safetensors."""

_RESIZED_SIDES: Final = {"crop": "shortest", "pad": "longest", "squash": "both"}
"""The side of an image that gets the size `resize`, by `--fit`."""

_RECORDS_OF_WRITER: Final = ("version", "byteorder", ".data/serialization_id")
"""Records that the writer of torch adds to each archive."""

_MAX_ONNX_BYTES: Final = 2**31 - 2**24
"""Limit for the weights: a protobuf message has at most 2 GiB, with the graph."""


@dataclass(frozen=True)
class ExportFormat:
    """One export format.

    suffix: of the file name.
    packages: needed to write and check a file.
    extra: extra of this package that installs `packages`.
    """

    suffix: str
    write: FormatWriter
    read: FormatReader
    extra: str = ""
    packages: tuple[str, ...] = ()


def describe(arch: str, img_size: int, classes: Sequence[str], decoding: Decoding) -> Description:
    """Describe preprocessing and outputs, to store with an exported model.

    classes: in the order of the outputs.
    """
    return {
        "arch": arch,
        "input": {"name": "images", "shape": ["batch", 3, img_size, img_size], "type": "float32"},
        "preprocessing": {
            "color": "RGB",
            **decoding.model_dump(),
            "resize": eval_resize(img_size, decoding.fit),
            "resize_side": _RESIZED_SIDES[decoding.fit],
            **({"padding": padding_color(decoding.background)} if decoding.fit == "pad" else {}),
            "interpolation": "bilinear, antialiased",
            "center_crop": img_size,
            "scale": "0 to 1",
            "mean": [round(value / 255, 6) for value in MEAN],
            "std": [round(value / 255, 6) for value in STD],
        },
        "output": {"name": "logits", "shape": ["batch", len(classes)], "type": "float32"},
        "classes": list(classes),
        "names": human_names(classes),
        "imgnet_mini": __version__,
        "torch": str(torch.__version__),
    }


def to_json(description: Description) -> str:
    """Return the text of the JSON file, in ASCII."""
    return json.dumps(description, indent=2) + "\n"


def to_properties(description: Description) -> dict[str, str]:
    """Return the description as strings for ONNX, which stores only those; other values as JSON."""
    return {
        name: value if isinstance(value, str) else json.dumps(value)
        for name, value in description.items()
    }


def _write_program(
    model: nn.Module, images: Tensor, description: Description, file: BinaryIO
) -> None:
    program = torch.export.export(model, (images,), dynamic_shapes=_dynamic_shapes(description))
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # paths of this machine
    torch.export.save(program, file, extra_files={EXTRA_FILE: to_json(description)})


def _read_program(path: Path, _: ModelBuilder) -> ExportedModel:
    with _quiet(), path.open("rb") as file:
        return torch.export.load(file).module()


def _write_script(
    model: nn.Module, images: Tensor, description: Description, file: BinaryIO
) -> None:
    content = BytesIO()
    with _quiet():
        traced = jit.trace(model, images)
        jit.save(traced, content, _extra_files={EXTRA_FILE: to_json(description)})
    _copy_without_traces(content, file)


def _copy_without_traces(script: BytesIO, file: BinaryIO) -> None:
    """Copy an archive of torch without its stack traces, which hold paths of this machine."""
    script.seek(0)
    reader, writer = torch._C.PyTorchFileReader(script), torch._C.PyTorchFileWriter(file)
    writer.set_min_version(int(reader.get_record("version")))
    for name in reader.get_all_records():
        if not name.endswith(".debug_pkl") and name not in _RECORDS_OF_WRITER:
            record = reader.get_record(name)
            writer.write_record(name, record, len(record))
    writer.write_end_of_file()


def _read_script(path: Path, _: ModelBuilder) -> ExportedModel:
    with _quiet(), path.open("rb") as file:
        script: ExportedModel = jit.load(file)
    return script


def _write_onnx(model: nn.Module, images: Tensor, description: Description, file: BinaryIO) -> None:
    if sum(tensor.nbytes for tensor in model.state_dict().values()) > _MAX_ONNX_BYTES:
        raise ConfigError(
            "--format onnx: a file holds at most 2 GB, and the weights are larger; use --format pt2"
        )
    with _quiet():
        program = torch.onnx.export(
            model,
            (images,),
            dynamo=True,
            verbose=False,
            input_names=["images"],
            output_names=[description["output"]["name"]],
            dynamic_shapes=_dynamic_shapes(description),
        )
    if program is None:
        raise TypeError("torch.onnx has returned no program")
    proto: Any = program.model_proto
    for node in proto.graph.node:
        del node.metadata_props[:]  # stack traces, with paths of this machine
    for name, text in to_properties(description).items():
        proto.metadata_props.add(key=name, value=text)
    file.write(proto.SerializeToString())


def _read_onnx(path: Path, _: ModelBuilder) -> ExportedModel:
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
    # One key: the library writes several in random order, so that no two files have equal digests.
    file.write(save(weights, {EXTRA_FILE: to_json(description)}))


def _read_safetensors(path: Path, build: ModelBuilder) -> ExportedModel:
    from safetensors.torch import load_file

    return build(load_file(path))


def _write_state_dict(model: nn.Module, _: Tensor, __: Description, file: BinaryIO) -> None:
    torch.save(model.state_dict(), file)


def _read_state_dict(path: Path, build: ModelBuilder) -> ExportedModel:
    return build(torch.load(path, map_location="cpu", weights_only=True))


FORMATS: Final = {
    "pt2": ExportFormat(".pt2", _write_program, _read_program),
    "torchscript": ExportFormat(".pt", _write_script, _read_script),
    "onnx": ExportFormat(
        ".onnx", _write_onnx, _read_onnx, "onnx", ("onnx", "onnxscript", "onnxruntime")
    ),
    "safetensors": ExportFormat(
        ".safetensors", _write_safetensors, _read_safetensors, "safetensors", ("safetensors",)
    ),
    "state-dict": ExportFormat(".pth", _write_state_dict, _read_state_dict),
}
"""pt2 is the graph of torch.export, the successor of torchscript; the last two hold weights."""

HUB: Final = ExportFormat(
    "", _write_safetensors, _read_safetensors, "hub", ("safetensors", "huggingface_hub")
)
"""The weights in a folder for the Hugging Face Hub."""


def _dynamic_shapes(description: Description) -> tuple[dict[int, Any]]:
    """Return the dimensions of the input that have a name, and no size."""
    sizes = enumerate(description["input"]["shape"])
    return ({place: torch.export.Dim(size) for place, size in sizes if isinstance(size, str)},)


@contextmanager
def _quiet() -> Iterator[None]:
    """Suppress warnings about deprecation, tracing and copies: the file is checked afterwards."""
    with warnings.catch_warnings():
        for deprecated in (FutureWarning, DeprecationWarning):
            warnings.simplefilter("ignore", deprecated)
        warnings.simplefilter("ignore", jit._trace.TracerWarning)
        warnings.filterwarnings("ignore", message="The given buffer is not writable")
        yield


FOLDER_FORMATS: Final = {"hub": HUB, "space": FORMATS["onnx"]}
"""Formats of the model in folders that hold more than it."""
